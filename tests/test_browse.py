"""`prism view`: the samples of a run or two as one page. What it holds, and what a browser makes of it."""

from __future__ import annotations

import base64
import hashlib
import html
import json
import re
import subprocess
from pathlib import Path

import pytest
from PIL import Image
from typer.testing import CliRunner

from prism.cli import app
from prism.report import browse
from prism.store import Store
from prism.verdicts.record import run_to_json
from tests.conftest import SPEC, write_rows, write_spec
from tests.test_report import CHROMIUM, HOSTILE, QUIET, made_up_flashcards, made_up_run, made_up_samples

RUN = "20260102-030405-1f"
OTHER = "20260102-040506-2f"


def data(page: str) -> dict:
    return json.loads(re.search(r'<script type="application/json" id="data">(.*?)</script>', page, re.DOTALL)[1])


@pytest.fixture
def shop(tmp_path) -> Path:
    """A checkout with the spec phase1/nano, and two runs of it."""
    write_spec(tmp_path, SPEC.format(data="rows", model="models/tiny"), "nano")
    samples = made_up_samples(30)
    write(tmp_path, RUN, {"phase1/nano": samples, "phase2/medical": made_up_flashcards(6)})
    later = [dict(sample) for sample in samples[:20]]
    later[0] |= {"tuned": "bearish", "scores": {"accuracy": [1, 0]}}
    later[4] |= {"tuned": "well, up I guess"}
    write(tmp_path, OTHER, {"phase1/nano": later})
    return tmp_path


def write(root: Path, name: str, samples: dict[str, list[dict]]) -> None:
    folder = root / "reports" / "runs" / name
    folder.mkdir(parents=True)
    run = made_up_run(id=name, results=tuple(r for r in made_up_run().results if r.id in samples))
    (folder / "results.json").write_text(json.dumps(run_to_json(run)))
    for spec, rows in samples.items():
        write_rows(
            folder / "samples" / f"{spec.replace('/', '-')}.jsonl", [json.loads(json.dumps(row)) for row in rows]
        )


def view(shop: Path, *runs: str) -> str:
    done = CliRunner().invoke(app, ["view", *runs, "--root", str(shop), "--home", str(shop / "home")])
    assert done.exit_code == 0, done.output
    assert "open it in a browser" in done.output
    return (shop / "reports" / "view.html").read_text(encoding="utf-8")


def test_the_page_has_every_sample_with_its_scores(shop):
    page = data(view(shop, RUN))
    assert [(spec["id"], spec["n"]) for spec in page["specs"]] == [("phase1/nano", 30), ("phase2/medical", 6)]
    assert len(page["rows"]) == 36
    first = page["rows"][0]
    assert first["answers"] == [["baseline", "bullish"], ["tuned", "bullish"]]
    assert first["scores"] == {"accuracy": [1, 1]}
    assert page["specs"][0]["labels"] == ["bullish"], "the long reference is no label"


def test_an_answer_that_the_task_cannot_read_is_unparsable(shop):
    rows = data(view(shop, RUN, OTHER))["rows"]
    assert [row["unparsable"] for row in rows[:6]] == [False, False, False, False, True, True]
    free = data(view(shop, RUN))["rows"][30:]
    assert not any(row["unparsable"] for row in free), "answers of no closed set are all read"


def test_two_runs_stand_beside_each_other(shop):
    text = view(shop, RUN, OTHER)
    page = data(text)
    assert page["runs"] == [RUN, OTHER]
    assert len(page["rows"]) == 20
    assert page["rows"][0]["answers"] == [["tuned, A", "bullish"], ["tuned, B", "bearish"]]
    assert page["rows"][0]["scores"] == {"accuracy": [1, 0]}, "from A's adapter to B's"
    assert "16 samples that only one of the runs measured are left out" in text


def test_hostile_text_stays_text_and_only_the_own_script_may_run(shop):
    page = view(shop, RUN)
    assert page.count("<script") == page.count("</script>") == 2
    assert "alert(1)" in page
    assert "<script>alert" not in page
    assert "\x1b" not in page
    assert "\\u202e" not in page.replace("\\\\u202e", "")
    script = re.search(r"<script>(.*?)</script>", page, re.DOTALL)[1]
    allowed = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    policy = html.unescape(re.search(r'Content-Security-Policy" content="([^"]*)"', page)[1])
    assert policy.split("; ") == [
        "default-src 'none'",
        "style-src 'unsafe-inline'",
        "img-src data:",
        f"script-src 'sha256-{allowed}'",
    ]
    assert not re.search(r"innerHTML|outerHTML|insertAdjacent|document\.write|eval\(", script)
    assert HOSTILE[:25] in json.dumps(data(page)), "it is there to be read"


@pytest.mark.parametrize(
    ("runs", "said"),
    [
        (["20990101-000000-1"], "no such run or accepted file"),
        ([".gitignored"], "no such run or accepted file"),
        (["empty"], "is not a finished run"),
    ],
)
def test_what_is_no_run_is_one_sentence(shop, runs, said):
    (shop / "empty").mkdir()
    done = CliRunner().invoke(app, ["view", *runs, "--root", str(shop)])
    assert done.exit_code == 2
    assert said in done.output
    assert not (shop / "reports" / "view.html").exists()


def test_runs_without_a_spec_in_common_are_refused(shop):
    third = "20260102-050607-3f"
    write(shop, third, {"phase2/medical": made_up_flashcards(3)})
    done = CliRunner().invoke(app, ["view", OTHER, third, "--root", str(shop)])
    assert done.exit_code == 2
    assert "no samples in common; name runs of the same spec" in done.output


def test_pictures_are_in_the_page(shop):
    (shop / "home" / "images").mkdir(parents=True)
    Image.new("RGB", (8, 8), "red").save(shop / "home" / "images" / "a.png")
    seen = made_up_flashcards(3)
    seen[0] |= {"images": ["a.png"]}
    seen[1] |= {"images": ["gone.png"]}
    run = made_up_run()
    page = data(browse.render([run], [{"phase2/medical": seen}], {}, Store(shop / "home")))
    assert list(page["pictures"]) == ["a.png"]
    assert page["pictures"]["a.png"].startswith("data:image/jpeg;base64,")


STEPS = """<!doctype html><meta charset="utf-8"><iframe id="page" style="width: 390px; height: 844px; border: 0"
srcdoc="%s"></iframe><pre id="seen-by-the-test"></pre><script>
onload = () => {
  const page = document.getElementById("page").contentDocument, at = id => page.getElementById(id);
  const seen = {width: page.documentElement.scrollWidth, alerts: page.querySelectorAll("dd script, .question script").length};
  const set = (id, value) => { at(id).value = value; at(id).dispatchEvent(new Event("change")); at(id).dispatchEvent(new Event("input")); };
  const counted = () => parseInt(at("count").textContent.replace(",", ""));
  seen.all = counted();
  seen.first = page.querySelectorAll("article").length;
  at("more").click();
  seen.second = page.querySelectorAll("article").length;
  for (const way of ["right", "wrong", "worse", "better", "flipped", "unparsable", "unscored"]) { set("show", way); seen[way] = counted(); }
  set("show", ""); set("spec", "0"); seen.spec = counted();
  set("label", "bullish"); seen.label = counted();
  set("label", ""); set("order", "change"); seen.worst = page.querySelector("article .badge").textContent;
  set("order", ""); set("search", "The 7th Time"); seen.found = counted(); seen.marked = page.querySelector("mark").textContent;
  document.getElementById("seen-by-the-test").textContent = JSON.stringify(seen);
};
</script>"""


@pytest.mark.slow
@pytest.mark.skipif(CHROMIUM is None, reason="chromium is not installed; apt-get install chromium")
def test_a_browser_filters_and_searches(shop):
    samples = made_up_samples(90)
    samples[7] |= {"tuned": "no idea"}
    page = browse.render(
        [made_up_run()], [{"phase1/nano": samples}], {"phase1/nano": lambda said: {"no idea": None}.get(said, said)}
    )
    (shop / "frame.html").write_text(STEPS % html.escape(page), encoding="utf-8")
    where = [f"--user-data-dir={shop / 'profile'}", "--dump-dom", (shop / "frame.html").as_uri()]
    dom = subprocess.run([CHROMIUM, *QUIET.split(), *where], capture_output=True, timeout=120, check=True).stdout
    seen = json.loads(html.unescape(re.search(r'<pre id="seen-by-the-test">(.*?)</pre>', dom.decode())[1]))
    assert seen == {
        "width": 390,
        "alerts": 0,
        "all": 90,
        "first": 50,
        "second": 90,
        "right": 70,
        "wrong": 20,
        "worse": 10,
        "better": 30,
        "flipped": 40,
        "unparsable": 1,
        "unscored": 0,
        "spec": 90,
        "label": 89,
        "worst": "worse",
        "found": 1,
        "marked": "the 7th time",
    }
