"""The reports of a made-up run: true to the records, safe with hostile text, the same bytes twice, good to look at."""

from __future__ import annotations

import json
import math
import os
import re
import shutil
import subprocess
import sys
from dataclasses import replace
from html import escape, unescape
from html.parser import HTMLParser
from itertools import pairwise
from pathlib import Path

import pytest

from prism import report
from prism.errors import ScoresError
from prism.models import cost
from prism.plugin.results import verdict as verdict_of_run
from prism.report import findings, head, plots, tables, terminal, vision, words
from prism.report.markdown import code, prose, render
from prism.report.samples import changes, without_shared_prefix
from prism.store import Store
from prism.verdicts.record import (
    Control,
    Record,
    Result,
    Run,
    Score,
    Verdict,
    from_json,
    read_run,
    run_to_json,
    to_json,
)
from tests.conftest import ROOT

HOSTILE = (
    "<script>alert(1)</script> | a `tick` and ```three```\n@someone #12 [x](https://evil.example) \x1b[31m\u202e\ud800"
)
LABELS = ["neutral", "bullish", "bearish"]


def record(metric: str = "accuracy", **given) -> Record:
    known = {
        "phase": "phase1",
        "spec": "nano",
        "profile": "nano",
        "data": "financial-sentiment",
        "evaluation_digest": "ab" * 32,
        "tier": "tier1",
        "direction": "higher",
        "n": 600,
        "groups": 600,
        "unscored": 0,
        "seeds": {"42": 0.741, "43": 0.722, "44": 0.739},
        "baseline": Score(0.31234, (0.276, 0.351)),
        "tuned": Score(0.7341235, (0.697, 0.768)),
        "gain": Score(0.4217835, (0.372, 0.471), 0.0001),
    }
    return Record(metric=metric, **(known | given))


def answered(matrix: list[list[int]]) -> dict:
    """What prism.metrics.classification.details makes, from a confusion matrix."""
    from sklearn.metrics import classification_report

    columns = [*LABELS, "unparsable"]
    cells = [(LABELS[i], columns[j], n) for i, row in enumerate(matrix) for j, n in enumerate(row)]
    truth = [label for label, _, n in cells for _ in range(n)]
    said = [label for _, label, n in cells for _ in range(n)]
    table = classification_report(truth, said, labels=LABELS, output_dict=True, zero_division=0)
    return {"labels": columns, "confusion": matrix, "per_class": table}


def sentiment(phase: str = "phase1", spec: str = "nano") -> Result:
    """A spec with everything: seeds, controls, details, a verdict of each state."""
    classical = Control(0.619, (0.58, 0.657), Score(0.1151, (0.071, 0.159), 0.0001))
    likelihood = Control(0.452, (0.413, 0.492), Score(0.2821, (0.233, 0.331), 0.0001))
    controls = {"label_likelihood": likelihood, "classical": classical}
    source = "FinGPT v3.1 on TFNS, F1 .875"
    here = {"phase": phase, "spec": spec}
    records = (
        record(
            **here,
            controls=controls,
            verdicts=(
                Verdict("floor", 0.7, "holds", "0.7341 ≥ 0.7", provisional=source),
                Verdict(
                    "gain",
                    0.1,
                    "holds",
                    "gain +0.4218 ≥ +0.1, 95 % interval [+0.3720, +0.4710] above 0",
                    0.0001,
                ),
                Verdict(
                    "drop",
                    0.01,
                    "skipped",
                    "no accepted reference for evaluation abababab yet",
                    detectable=0.041,
                ),
            ),
        ),
        record(
            "weighted_f1",
            **here,
            tuned=Score(0.71, (0.67, 0.75)),
            verdicts=(Verdict("floor", 0.8, "fails", "0.7100 < 0.8", provisional="a guess by @someone"),),
        ),
        record(
            "unparsable_rate",
            **here,
            direction="lower",
            seeds={"42": 0.001, "43": 0.004, "44": 0.0},
            baseline=Score(0.42, (0.38, 0.46)),
            tuned=Score(0.0017, (0.0, 0.006)),
            gain=Score(-0.4183, (-0.458, -0.379), 0.0001),
            verdicts=(Verdict("ceiling", 0.01, "holds", "0.0017 ≤ 0.01"),),
        ),
        record(
            "knowledge_gain",
            **here,
            gain=Score(0.012, (-0.021, 0.045), 0.24),
            verdicts=(Verdict("gain", 0.01, "inconclusive", "gain +0.0120 ≥ +0.01, but its 95 % interval holds 0"),),
        ),
        record(
            "peak_memory_gib",
            **here,
            tier="cost",
            direction="lower",
            seeds={},
            baseline=Score(2.41, (2.41, 2.41)),
            tuned=Score(2.41, (2.41, 2.41)),
            gain=Score(0.0, (0.0, 0.0)),
            verdicts=(Verdict("ceiling", 4, "not_comparable", "measured on another machine"),),
        ),
    )
    seeds = ("42", "43", "44")
    curve = [[step, 3.2 * math.exp(-step / 60) + 0.4 + 0.05 * math.sin(step)] for step in range(5, 300, 5)]
    moved = {"changes": 7.31, "reload": 0.0, "batch_of_one": 4e-6, "merge": 0.31}
    parity = {"probes": 8, "tolerance": 1e-3, "differences": moved}
    details = {
        "answers": {
            "baseline": answered([[90, 40, 20, 100], [60, 50, 10, 80], [40, 15, 47, 48]]),
            "tuned": answered([[201, 30, 19, 0], [42, 138, 20, 0], [29, 19, 101, 1]]),
            "label_likelihood": answered([[150, 60, 40, 0], [90, 80, 30, 0], [60, 49, 41, 0]]),
        },
        "calibration": {
            "baseline": {
                "n": 600,
                "ece": 0.214,
                "probability": 0.612,
                "right": 0.452,
                "bins": [
                    {"n": 200, "probability": 0.44, "right": 0.41, "ci": [0.343, 0.479]},
                    {"n": 250, "probability": 0.63, "right": 0.46, "ci": [0.399, 0.522]},
                    {"n": 150, "probability": 0.81, "right": 0.49, "ci": [0.411, 0.569]},
                ],
            }
        },
        "loss": {seed: [[step, value * (1 + (int(seed) - 43) / 20)] for step, value in curve] for seed in seeds},
        "training": {
            "42": {"steps": 300, "seconds": 93.2, "tokens": 180_000, "trainable": 190_000, "resumed_at": None}
        },
        "parity": {"42": parity | {"holds": {"reload": True, "batch_of_one": True, "merge": False}}, "43": None},
        "data": {"source": "financial-sentiment", "training": 1500, "held_out": 600, "classes": {"neutral": 250}},
        "digests": {"evaluation": "ab" * 32, "base": "cd" * 32, "adapters": {"42": "ef" * 32}},
        "engine": {"library": "transformers", "device": "cpu", "dtype": "float32"},
        "options": {"lora": {"r": 16, "target_modules": ["q_proj", "v_proj"]}, "generate": {"max_new_tokens": 8}},
    }
    cost = {
        "seconds": {"baseline": 12.3, "training, seed 42": 93.2, "tuned, seed 42": 4210.0},
        "tokens_per_second": {"training, seed 42": 1931.4, "tuned, seed 42": 512.0},
        "energy_wh": {"training, seed 42": 4.31},
        "utilization": {"training, seed 42": 0.29},
        "engine": {"baseline": "generate", "tuned, seed 42": "captured"},
        "peak_memory_gib": 2.412,
        "cached": ["baseline"],
    }
    return Result(phase, spec, "Financial sentiment: nano base, LoRA", "nano", records, details, cost)


def flashcards() -> Result:
    """A spec with as little as a spec may have: nothing scored in one metric, a float score a sample, no details."""
    nothing = Score(math.nan, (math.nan, math.nan))
    here = {"phase": "phase2", "spec": "medical", "seeds": {"42": 0.174}}
    records = (
        record("rougeL", **here, baseline=Score(0.045, (0.04, 0.05)), tuned=Score(0.174, (0.16, 0.19))),
        record(
            "Medical Correctness [GEval]",
            **here,
            tier="tier3",
            n=0,
            unscored=600,
            baseline=nothing,
            tuned=nothing,
            gain=nothing,
            verdicts=(Verdict("floor", 0.8, "fails", f"none of 600 samples could be scored: {HOSTILE}"),),
        ),
    )
    return Result("phase2", "medical", f"Flashcards {HOSTILE}", "nano", records, {}, {})


def made_up_run(**given) -> Run:
    known = {
        "id": "20260102-030405-1f",
        "results": (sentiment(), flashcards()),
        "complete": False,
        "partial": "2 of 9 thresholds of phase1/nano were not selected or not reached",
        "verdict": "fail",
        "reason": "4 of 9 thresholds do not hold",
        "command": "pytest benchmarks -m 'phase1 or phase2' -k accuracy",
        "provenance": {"commit": "0123456789", "dirty": True, "python": "3.11.2", "machine": {"cores": 2, "gpus": []}},
    }
    return Run(**(known | given))


def made_up_samples(n: int = 600) -> list[dict]:
    """Every third sample stays right, some flip either way, some stay wrong; one is hostile."""
    outcomes = [(1, 1), (0, 1), (1, 1), (0, 1), (0, 0), (1, 0), (0, 1), (None, 1), (1, 1)]
    samples = []
    for i in range(n):
        before, after = outcomes[i % len(outcomes)]
        samples.append(
            {
                "id": f"row-{i}",
                "group": f"row-{i}",
                "question": f"Bullish, bearish or neutral?\n$ACME beats estimates for the {i}th time, shares jump",
                "reference": "bullish",
                "baseline": "bullish" if before else "I think that ACME is a company, and",
                "tuned": "bullish" if after else "neutral",
                "scores": {"accuracy": [before, after]},
            }
        )
    samples[5] |= {"id": HOSTILE, "question": HOSTILE, "reference": HOSTILE, "baseline": HOSTILE, "tuned": HOSTILE}
    return samples


def made_up_flashcards(n: int = 40) -> list[dict]:
    return [
        {
            "id": f"card-{i}",
            "group": f"card-{i}",
            "question": "What is hypertension?",
            "reference": "High blood pressure",
            "baseline": "" if i % 5 == 0 else "pressure",
            "tuned": "Blood pressure that is high",
            "scores": {"rougeL": [i % 7 / 10, None if i == 3 else math.nan if i == 4 else i % 5 / 6]},
        }
        for i in range(n)
    ]


SAMPLES = {"phase1/nano": made_up_samples(), "phase2/medical": made_up_flashcards()}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("report")
    report.write(folder, made_up_run(), SAMPLES)
    return folder


@pytest.fixture(scope="module")
def markdown(folder: Path) -> str:
    return (folder / "report.md").read_text(encoding="utf-8")


@pytest.fixture(scope="module")
def html(folder: Path) -> str:
    return (folder / "report.html").read_text(encoding="utf-8")


def test_results_json_holds_the_records_and_no_nan(folder):
    def refuse(constant: str) -> None:
        raise AssertionError(f"{constant} is no JSON")

    table = json.loads((folder / "results.json").read_text(encoding="utf-8"), parse_constant=refuse)
    assert {"schema", "complete", "verdict", "records", "cost", "provenance"} <= table.keys()
    assert table["schema"] == 1
    assert table["complete"] is False
    keys = "phase spec profile data evaluation_digest tier metric direction n groups unscored seeds baseline tuned gain"
    first, *_, judged = table["records"]
    assert {*keys.split(), "controls", "reference", "verdicts"} <= first.keys()
    assert first["tuned"]["value"] == 0.7341235
    assert {"key", "threshold", "state", "reason", "p", "detectable", "provisional"} == first["verdicts"][0].keys()
    assert judged["tuned"]["value"] is None, "an unscored metric is null"
    assert json.loads(json.dumps(table)) == table


def test_a_run_is_read_back_from_its_folder(folder):
    run, again = made_up_run(), read_run(folder)
    assert run_to_json(again) == run_to_json(run)
    assert [result.id for result in again.results] == ["phase1/nano", "phase2/medical"]
    assert again.results[0].cost["peak_memory_gib"] == 2.412


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (None, "is not a finished run (FileNotFoundError"),
        ("{", "is not a finished run (JSONDecodeError"),
        ("[]", "is not a finished run (TypeError"),
        ('{"schema": 2}', "has schema 2, but this PRISM reads 1"),
        ('{"schema": 1}', "is not a finished run (KeyError('specs'))"),
    ],
)
def test_a_folder_that_is_no_run_of_this_schema_is_refused(tmp_path, text, said):
    if text is not None:
        (tmp_path / "results.json").write_text(text)
    with pytest.raises(ScoresError, match=re.escape(said)):
        read_run(tmp_path)


def referenced() -> Result:
    """The sentiment spec, held against an accepted reference that it lost .031 to; one flipped sample is hostile."""
    found = sentiment()
    told = {
        "file": "phase1/nano@abababab.json",
        "commit": "cd" * 20,
        "question": "this recipe is worse",
        "test": "t over 600.0 effective groups, 2 and 3 seeds, each side with its own spread",
        "value": 0.765,
        "ci": [0.73, 0.8],
        "seeds": {"42": 0.76, "43": 0.77},
        "n": 600,
        "loss": {"value": 0.0309, "ci": [0.004, 0.058], "level": 0.98, "p": 0.0081},
        "alpha": 0.01,
        "detectable": 0.03,
        "worse": 41,
        "better": 22,
    }
    failed = Verdict("drop", 0.01, "fails", "this recipe is worse? loss +0.0309 > 0.01", 0.0081, detectable=0.045)
    accuracy = replace(found.records[0], reference=told, verdicts=(*found.records[0].verdicts[:2], failed))
    flipped = {"id": HOSTILE, "question": HOSTILE, "reference": "bullish", "tuned": HOSTILE}
    details = {
        "file": told["file"],
        "origin": {"commit": told["commit"], "date": "2026-01-02", "run": "20260102-030405-1f"},
        "seeds": ["42", "43"],
        "question": told["question"],
        "differences": [["sft.learning_rate", "0.002", "0.0002"], ["seeds", "42, 43", "42, 43, 44"]],
        "without": {},
        "flipped": {
            "metric": "accuracy",
            "right_or_wrong": True,
            "counts": {"worse": 41, "better": 22},
            "worse": [flipped],
            "better": [],
        },
    }
    return replace(found, records=(accuracy, *found.records[1:]), details=found.details | {"reference": details})


def test_a_loss_since_the_reference_is_shown_everywhere(tmp_path):
    run = made_up_run(results=(referenced(),))
    report.write(tmp_path, run, {"phase1/nano": made_up_samples()})
    markdown = (tmp_path / "report.md").read_text(encoding="utf-8")
    html = re.sub(r"<[^>]+>", " ", (tmp_path / "report.html").read_text(encoding="utf-8"))
    row = next(line for line in markdown.splitlines() if "| .765 |" in line)
    cells = [cell.strip() for cell in row.strip("|").split("|")]
    assert cells[:6] == ["accuracy", ".312", ".765", ".734", "+.031 [+.004, +.058]", ".008"]
    assert cells[6] == ".045", "it found a loss, so n was not too small"
    assert cells[7:9] == ["41 / 22", "the recipe"]
    for page in (markdown, html):
        assert "loss [98 %]" in re.sub(r"\s+", " ", page)
        assert "2 seeds and here 3. Question: is this recipe worse" in page
        assert "speaks of" in page
        assert "the recipe" in page
        assert "sft.learning" in page
        assert "Since the accepted run right → wrong by accuracy: 1 of 41" in page
    assert "\x1b" not in markdown
    assert "<script>alert" not in (tmp_path / "report.html").read_text(encoding="utf-8")
    assert from_json(to_json(referenced())).records[0].reference == run.results[0].records[0].reference
    shown = "\n".join(terminal.lines(run))
    assert "accepted .765 → .734" in shown
    assert "loss +.031 [+.004, +.058], of the recipe" in shown
    assert "it catches a loss of .045 with 80 % power" in " ".join(shown.split())
    assert "too small" not in shown


def test_a_comparison_that_could_not_have_seen_the_loss_says_so():
    result = referenced()
    accuracy = result.records[0]
    held = replace(accuracy.verdicts[-1], state="holds")
    result = replace(result, records=(replace(accuracy, verdicts=(held,)), *result.records[1:]))
    cells = next(row for row in tables.against_accepted(result).rows if row[0] == "accuracy")
    assert ".045 (n too small for drop ≤ .01)" in cells


def test_a_comparison_that_can_see_no_loss_states_none():
    result = referenced()
    accuracy = result.records[0]
    blind = replace(accuracy.verdicts[-1], state="inconclusive", detectable=None)
    result = replace(result, records=(replace(accuracy, verdicts=(blind,)), *result.records[1:]))
    cells = next(row for row in tables.against_accepted(result).rows if row[0] == "accuracy")
    assert "no loss: n too small" in cells


def test_an_inconclusive_drop_is_counted_and_told_everywhere(tmp_path):
    found = referenced()
    told = "this recipe is worse? loss +0.0309 is neither shown to exceed 0.01, p = 0.2 > 0.05, nor shown not to"
    drop = Verdict("drop", 0.01, "inconclusive", told, 0.2, detectable=0.045)
    accuracy = replace(found.records[0], verdicts=(drop,))
    run = made_up_run(
        results=(replace(found, records=(accuracy,)),),
        verdict="pass",
        reason="no threshold fails, but 1 of 1 threshold is inconclusive",
    )
    report.write(tmp_path, run, {"phase1/nano": made_up_samples()})
    markdown = (tmp_path / "report.md").read_text(encoding="utf-8")
    html = re.sub(r"\s+", " ", re.sub(r"<[^>]+>", " ", (tmp_path / "report.html").read_text(encoding="utf-8")))
    shown = " ".join("\n".join(terminal.lines(run)).split())
    for page in (markdown, html, shown):
        assert "1 of 1 threshold is inconclusive" in page
        assert "neither shown to exceed 0.01" in page.replace("&gt;", ">")
    assert "⚠️ inconclusive: 1" in markdown
    assert "? inconclusive" in shown


def test_markdown_says_the_verdict_and_that_it_is_partial_first(markdown):
    first = markdown.splitlines()[0]
    assert first.startswith("# ❌ FAIL: 4 of 9 thresholds do not hold")
    assert "PARTIAL: 2 of 9 thresholds" in first


def test_a_whole_run_is_not_called_partial(tmp_path):
    report.write(tmp_path, made_up_run(complete=True, partial="", verdict="pass", reason="all hold"), {})
    markdown = (tmp_path / "report.md").read_text(encoding="utf-8")
    assert markdown.startswith("# ✅ PASS: all hold\n")
    assert "PARTIAL" not in markdown + (tmp_path / "report.html").read_text(encoding="utf-8")


def test_markdown_tables_have_constant_column_counts(markdown):
    columns: int | None = None
    tables = 0
    for line in markdown.splitlines():
        if not line.startswith("|"):
            columns = None
            continue
        cells = len(re.findall(r"(?<!\\)\|", line)) - 1
        tables += columns is None
        columns = columns or cells
        assert cells == columns, line
    assert tables >= 10


@pytest.mark.parametrize(
    "said",
    [
        ".312 → .734",
        "+.422 [+.372, +.471]",
        "floor ≥ .7 ",
        "gain ≥ +.1 ",
        ".619 (+.115 [+.071, +.159])",
        "Has it beaten the classical control? **Yes**: accuracy .734 against .619",
        "trained on the same 1,500 rows",
        "⚠️ inconclusive: **knowledge_gain gain ≥ +.01**",
        "FinGPT v3.1 on TFNS, F1 .875",
        "Medical Correctness [GEval] 600 of 600",
        "it catches a loss of .041 with 80 % power: n is too small for this threshold",
        "Parity of seed 42: merged, a logit moves by 0.31 (tolerance 0.001), so the adapter answered unmerged.",
        "90 → 201",
        "1 h 10 min",
        "12 s \\*",
        "energy, Wh",
        "4.31",
        "utilization",
        " .290 ",
        "captured",
        "seed 43",
        "samples/phase1-nano.jsonl",
    ],
)
def test_markdown_says(markdown, said):
    assert said in markdown


def test_markdown_renders_nothing_that_a_model_wrote(markdown):
    parser = pytest.importorskip("markdown_it").MarkdownIt("commonmark", {"html": True}).enable("table")
    tokens = [part for token in parser.parse(markdown) for part in (token, *(token.children or ()))]
    ours = re.compile(r"</?(details|summary|sub)>")
    raw = [token.content for token in tokens if token.type in ("html_inline", "html_block")]
    assert not [text for text in raw if "script" in text.replace("&lt;script", "") or not ours.search(text)]
    assert not [token for token in tokens if token.type == "link_open"]
    plain = " ".join(token.content for token in tokens if token.type == "text")
    assert not re.search(r"@\w|#\d|https?:/", plain), "GitHub links these wherever they stand outside code"
    shown = [token.content for token in tokens if token.type == "code_inline" and "<script>" in token.content]
    assert len(shown) == 5, "id, question, reference and both answers, each whole in its own cell"
    assert all("| a `tick` and ```three```↵@someone" in text for text in shown)


def test_markdown_fits_a_pull_request_comment():
    """What is folded away goes first; every phase keeps its table, and the page says that it was cut."""
    results = tuple(sentiment(f"phase{i}", f"spec{j}") for i in range(8) for j in range(2))
    long = [sample | {"question": "why? " * 300, "tuned": "`|é" * 300} for sample in made_up_samples(50)]
    page = render(made_up_run(results=results), {result.id: changes(result, long) for result in results})
    assert len(page.encode()) <= 60_000, "GitHub takes 65,536 characters"
    cut = next(line for line in page.splitlines() if "Cut to the length of a GitHub comment" in line)
    assert int(re.search(r"(\d+) parts left out; report.html has everything", cut)[1]) > 10
    assert all(f"## phase{i}" in page for i in range(8))
    assert page.count("<details>") == page.count("</details>") < 16 * 5
    short = render(made_up_run(), {})
    assert "Cut to" not in short


def test_markdown_is_cut_to_its_verdict_where_nothing_else_fits():
    many = replace(sentiment(), records=sentiment().records * 200)
    page = render(made_up_run(results=(many,)), {})
    assert len(page.encode()) <= 60_000
    assert page.startswith("# ❌ FAIL: 4 of 9 thresholds do not hold")
    assert "Cut to the length of a GitHub comment" in page


def test_a_title_tells_reports_apart(tmp_path):
    report.write(tmp_path, made_up_run(title="Nightly <b> @H200"), {})
    head = (tmp_path / "report.md").read_text(encoding="utf-8").splitlines()[0]
    assert head.startswith("# ❌ FAIL · Nightly &lt;b&gt; @&#8288;H200: 4 of 9")
    page = (tmp_path / "report.html").read_text(encoding="utf-8")
    assert "<title>FAIL · Nightly &lt;b&gt; @H200" in page
    assert '<p class="brand">Nightly &lt;b&gt; @H200</p>' in page


@pytest.mark.parametrize("text", ["", "`", "``` `", "a\nb", "\x1b[2J", "|", "\\|", "\ud800", " x "])
def test_code_spans_survive_any_text(text):
    shown = code(text)
    assert "\n" not in shown
    assert "\x1b" not in shown
    shown.encode("utf-8")


def test_prose_is_left_readable():
    assert prose("weighted_f1 .71 ≥ .7 (n = 5)") == "weighted_f1 .71 ≥ .7 (n = 5)"


class Page(HTMLParser):
    """Checks that tags are balanced, ids unique, and collects what the tests ask about."""

    VOID = frozenset(("meta", "br", "img", "hr", "link", "input"))

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.tags: list[tuple[str, dict]] = []
        self.text = ""
        self.feed(text)
        self.close()

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))

    def handle_endtag(self, tag):
        assert self.open, f"</{tag}> closes nothing"
        assert self.open.pop() == tag, f"</{tag}> at {self.getpos()}"

    def handle_data(self, data):
        self.text += data

    def all(self, tag: str) -> list[dict]:
        return [attributes for name, attributes in self.tags if name == tag]


def test_html_is_balanced_and_its_ids_are_unique(html):
    page = Page(html)
    assert page.open == []
    ids = [attributes["id"] for _, attributes in page.tags if "id" in attributes]
    assert len(ids) == len(set(ids))
    targets = [link["href"][1:] for link in page.all("a") if link["href"].startswith("#")]
    assert set(targets) <= set(ids)
    uses = [attributes.get("xlink:href", "#")[1:] for attributes in page.all("use")]
    assert set(uses) <= set(ids)


def test_html_pictures_have_alternative_text(html):
    page = Page(html)
    pictures = page.all("svg") + page.all("img")
    assert len(pictures) >= 7, "gains, controls, three confusion matrices, calibration, loss"
    assert all(picture["role"] == "img" and picture["aria-label"] for picture in pictures)
    labels = " ".join(picture["aria-label"] for picture in pictures)
    assert "accuracy +.422 [+.372, +.471]" in labels
    assert "bullish: 138 of 200 right" in labels
    assert "baseline, expected calibration error .214: .410 right at .440" in labels


def test_html_runs_nothing_and_loads_nothing(html):
    page = Page(html)
    names = {tag for tag, _ in page.tags}
    assert not names & {"script", "link", "img", "iframe", "object", "form"}
    assert not [name for _, attributes in page.tags for name in attributes if name.startswith("on")]
    assert "<script>alert(1)</script> | a `tick` and ```three```\n@someone" in page.text, "it is shown as text"
    assert "\x1b" not in html
    assert "\u202e" not in html
    assert not re.search(r'(?:src|href)="(?!#|samples/)', re.sub("<svg.*?</svg>", "", html, flags=re.DOTALL))


def test_html_uses_the_page_colours_in_its_pictures(html):
    pictures = "".join(re.findall("<svg.*?</svg>", html, flags=re.DOTALL))
    assert "var(--accent)" in pictures
    assert not re.findall(r"(?:fill|stroke): #\w+", pictures), "a fixed colour would be lost on a dark page"


def test_html_has_only_sections_with_data(tmp_path):
    report.write(tmp_path, made_up_run(results=(flashcards(),)), {})
    text = Page((tmp_path / "report.html").read_text(encoding="utf-8")).text
    for absent in ("Confusion", "Training loss", "Samples that changed", "Training seeds", "Cost", "Options", "Parity"):
        assert absent not in text


def test_html_is_the_same_bytes_twice(folder, tmp_path):
    report.write(tmp_path, made_up_run(), SAMPLES)
    for name in ("report.html", "report.md", "results.json"):
        assert (tmp_path / name).read_bytes() == (folder / name).read_bytes()


def test_a_picture_is_drawn_once_and_again_when_its_numbers_change(folder, tmp_path, monkeypatch):
    store = Store(tmp_path / "home")
    drawn = []
    original = plots._svg
    monkeypatch.setattr(plots, "_svg", lambda plot: drawn.append(plot.name) or original(plot))
    report.write(tmp_path / "first", made_up_run(), SAMPLES, store)
    assert (tmp_path / "first" / "report.html").read_bytes() == (folder / "report.html").read_bytes()
    assert len(drawn) == 8
    report.write(tmp_path / "second", made_up_run(reason="another"), SAMPLES, store)
    assert len(drawn) == 8
    other = sentiment()
    other.details["calibration"]["baseline"]["ece"] = 0.3
    report.write(tmp_path / "third", made_up_run(results=(other, flashcards())), SAMPLES, store)
    assert drawn[8:] == ["phase1-nano-calibration"]
    assert "error .300" in (tmp_path / "third" / "report.html").read_text(encoding="utf-8")


def test_a_store_that_cannot_be_written_costs_no_picture(folder, tmp_path):
    (tmp_path / "home").write_text("a file")
    report.write(tmp_path / "out", made_up_run(), SAMPLES, Store(tmp_path / "home"))
    assert (tmp_path / "out" / "report.html").read_bytes() == (folder / "report.html").read_bytes()


def test_pictures_are_drawn_whatever_backend_a_notebook_names(folder, tmp_path):
    """A notebook's kernel hands MPLBACKEND to each command that a cell runs, in environments that lack its module."""
    script = (
        "import os, sys, tests.test_report as made\n"
        "from prism import report\n"
        "report.write(made.Path(sys.argv[1]), made.made_up_run(), made.SAMPLES)\n"
        "assert os.environ['MPLBACKEND'] == 'no_such_backend'\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", script, str(tmp_path)],
        cwd=ROOT,
        env=os.environ | {"MPLBACKEND": "no_such_backend"},
        check=False,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "report.html").read_bytes() == (folder / "report.html").read_bytes()


def test_a_run_without_results_still_reports(tmp_path):
    report.write(tmp_path, made_up_run(results=(), reason="nothing ran"), {})
    assert "nothing ran" in (tmp_path / "report.md").read_text(encoding="utf-8")
    assert Page((tmp_path / "report.html").read_text(encoding="utf-8")).open == []


def test_odd_results_are_drawn(tmp_path):
    """Thirty classes, hostile labels, a class without samples, NaN in every seed, gain and curve, empty details."""
    labels = [f"${i}$ <b>&|{HOSTILE}" for i in range(30)]
    counts = [[i * j % 7 for j in range(31)] for i in range(30)]
    answers = {"labels": [*labels, "unparsable"], "confusion": counts, "per_class": {}}
    details = {
        "answers": {"baseline": answers, "tuned": answers},
        "loss": {"42": [[1, math.nan], [2, 1.5], [3, math.inf]], "43": []},
        "parity": {"42": None},
        "data": {},
        "engine": {},
    }
    nothing = Score(math.nan, (math.nan, math.nan))
    controls = {"classical": Control(math.nan, (math.nan, math.nan), nothing)}
    given = {"baseline": nothing, "tuned": nothing, "gain": nothing, "controls": controls}
    records = (
        record("accuracy", **given, seeds={"42": math.nan, "43": math.nan}),
        record("x" * 80, gain=Score(12.5, (-3.0, 40.0)), baseline=Score(1200, (1100, 1300)), tuned=nothing),
    )
    odd = Result("phase1", "odd", "", "nano", records, details, {"seconds": {"baseline": math.nan}})
    empty = Result("phase1", "empty", "", "nano", (), {}, {})
    run = made_up_run(results=(odd, empty))
    report.write(tmp_path, run, {"phase1/odd": [{"id": "1", "scores": {"accuracy": None}}, {"id": "2"}]})
    assert Page((tmp_path / "report.html").read_text(encoding="utf-8")).open == []
    assert max(map(len, terminal.lines(run))) <= 120


def test_references_that_rouge_cannot_read_are_told():
    told = {n: replace(flashcards(), details={"answers": {"tuned": {"unread": n}}}) for n in (0, 1, 600)}
    assert not any("see no words" in note for note in findings.notes(told[0]))
    for n, counted in ((1, "1 reference:"), (600, "600 references:")):
        assert any(f"keyword coverage see no words in {counted}" in note for note in findings.notes(told[n]))


def test_flips_are_counted_and_unscored_samples_left_out():
    samples = made_up_samples(90)
    (accuracy,) = changes(sentiment(), samples)
    assert (len(accuracy.better), len(accuracy.worse), len(accuracy.stuck), accuracy.unscored) == (30, 10, 10, 10)
    assert accuracy.unchanged == 40
    assert accuracy.names == ("wrong → right", "right → wrong")
    rouge = changes(flashcards(), made_up_flashcards())[0]
    assert rouge.names == ("better", "worse")
    assert rouge.unscored == 2
    moves = [after - before for before, after in (sample["scores"]["rougeL"] for sample in rouge.worse)]
    assert moves == sorted(moves), "the worst loss first"


def test_questions_are_shown_without_the_words_that_all_begin_with():
    samples = [{"question": f"Is this tweet bullish?\n{text}"} for text in ("Up we go", "Down", "Up")]
    assert [sample["question"] for sample in without_shared_prefix(samples)] == ["…Up we go", "…Down", "…Up"]
    assert without_shared_prefix(samples[:1]) == samples[:1]
    assert (
        without_shared_prefix([{"question": "What is a rib?"}, {"question": "What is a toe?"}])[1]["question"]
        == "What is a toe?"
    )


def test_a_control_that_is_ahead_by_another_metric_is_named():
    control = Control(0.70, (0.66, 0.74), Score(0.03, (0.01, 0.05)))
    behind = Control(0.70, (0.66, 0.74), Score(-0.04, (-0.06, -0.01)))
    records = (record(controls={"classical": control}), record("macro_f1", controls={"classical": behind}))
    answer, text = findings.beaten(replace(sentiment(), records=records))
    assert answer == "Yes"
    assert text.endswith("; behind on macro_f1 by −.040 [−.060, −.010]")


def test_a_metric_of_some_samples_says_of_how_many():
    few = record("exact_match_count", n=15, groups=12)
    names = [row[1] for row in tables.metrics([replace(sentiment(), records=(record(), few))]).rows]
    assert names == ["accuracy", "exact_match_count (n = 15)"]


def test_metrics_that_decide_come_before_those_that_are_only_measured_and_the_verdict_before_all(tmp_path):
    gated = record("macro_f1", verdicts=(Verdict("floor", 0.7, "holds", "so"),))
    controls = {"classical": Control(0.619, (0.58, 0.657), Score(0.1151, (0.071, 0.159)))}
    result = replace(sentiment(), records=(record(controls=controls), gated))
    run = made_up_run(results=(result,))
    assert [row[:3] for row in tables.metrics([result]).rows] == [
        ["holds", "macro_f1", "floor ≥ .7"],
        ["", "accuracy", ""],
    ]
    assert tables.metrics([result, result]).headers[:3] == ["verdict", "spec", "metric"]
    report.write(tmp_path, run, {})
    shown = "\n".join(terminal.lines(run))
    markdown = (tmp_path / "report.md").read_text(encoding="utf-8")
    html = (tmp_path / "report.html").read_text(encoding="utf-8")
    for page in (shown.partition("verdict")[2], markdown.partition("| verdict")[2], html.partition(">Results<")[2]):
        assert 0 <= page.index("macro_f1") < page.index("accuracy")
    assert re.search(r"\n✓ holds +macro_f1", shown)
    assert "(tuned ahead by)" not in markdown.partition("<details>")[0], "the controls are folded"
    folded = re.search(r"<details>\s*<summary>Controls.*?</details>", html, re.DOTALL)[0]
    assert ".619" in folded
    assert "classical" in folded


def test_a_reason_that_several_thresholds_share_is_said_once():
    skipped = tuple(Verdict(key, 0.5, "skipped", "no judge is configured") for key in ("floor", "gain"))
    judged = record("Correctness [GEval]", tier="tier3", verdicts=skipped)
    found = replace(sentiment(), records=(judged,), details={"judge": {"not_judged": "no judge is configured"}})
    assert [(point.about, point.text) for point in findings.open_points(found)] == [
        ("Correctness [GEval] floor ≥ .5, Correctness [GEval] gain ≥ +.5", "no judge is configured")
    ]
    assert not any("judged" in note for note in findings.notes(found))
    ungated = replace(found, records=(record(),))
    assert findings.notes(ungated)[-1] == "Tier 3 was not judged."


def test_terminal_fits_and_says_what_does_not_hold():
    lines = terminal.lines(made_up_run())
    assert max(map(len, lines)) <= 120
    assert lines[0] == "FAIL: 4 of 9 thresholds do not hold"
    assert lines[1].startswith("PARTIAL: 2 of 9")
    text = "\n".join(lines)
    assert "phase1/nano weighted_f1 floor ≥ .8 fails: 0.7100 < 0.8" in text
    assert "? inconclusive" in text
    assert "\x1b" not in text


@pytest.mark.parametrize("columns", [72, 80, 120])
def test_terminal_keeps_verdicts_and_numbers_whole_at_any_width(columns):
    lines = terminal.lines(made_up_run(), columns)
    assert max(map(len, lines)) <= columns
    for state in ("✓ holds ", "✗ fails ", "? inconclusive ", "≠ not comparable ", "– skipped "):
        assert any(line.startswith(state) for line in lines), "the verdict begins its line"
    assert any(line.endswith("[+.372, +.471]") for line in lines)
    assert sum("accuracy" in line and "≥" in line for line in lines) == 2, "thresholds stand beside their metric"


def test_terminal_cuts_long_names():
    long = replace(sentiment(), spec="a-spec-with-quite-a-long-name-" * 3)
    lines = terminal.lines(made_up_run(results=(long,)))
    assert max(map(len, lines)) <= 120
    assert "+.422 [+.372, +.471]" in "\n".join(lines), "names are cut, numbers are not"


def recipe_of(**options) -> Result:
    known = {"model": {"model_name": "org/base-1.5B", "load_in_4bit": True}, "lora": {"r": 16, "lora_alpha": 32}}
    found = sentiment()
    return replace(found, details=found.details | {"options": known | options})


def test_the_head_tells_base_recipe_date_and_commit(tmp_path):
    sft = {
        "num_train_epochs": 2,
        "per_device_train_batch_size": 8,
        "gradient_accumulation_steps": 4,
        "learning_rate": 2e-4,
    }
    lora = {"r": 16, "lora_alpha": 32, "target_modules": ["q_proj", "v_proj"]}
    result = recipe_of(sft=sft, lora=lora)
    line = (
        "org/base-1.5B in 4 bits · LoRA r = 16, alpha 32 on 2 projections · 2 epochs · learning rate 0.0002 · 32 rows a step "
        "· seeds 42, 43, 44"
    )
    assert head.recipe(result) == line
    run = made_up_run(results=(result,))
    report.write(tmp_path, run, {})
    markdown = (tmp_path / "report.md").read_text(encoding="utf-8").partition("## phase1")[0]
    html = (tmp_path / "report.html").read_text(encoding="utf-8").partition("<section")[0]
    for page in (markdown, html, " ".join("\n".join(terminal.lines(run)).split())):
        assert line in page
    for page in (markdown, html):
        assert "2026-01-02 03:04 · commit 01234567, with uncommitted changes" in page


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (
            {"sft": {"max_steps": 300}, "lora": {"r": 8, "placement": ["language", "projector"]}},
            "in language, projector · 300 steps",
        ),
        ({"model": {"model_name": "org/b", "revision": "abcdef0123456"}}, "org/b@abcdef01 · LoRA r = 16, alpha 32"),
        ({"sft": {"num_train_epochs": 1}, "lora": {"r": 8, "target_modules": "all-linear"}}, "LoRA r = 8 · 1 epoch ·"),
    ],
)
def test_a_recipe_is_told_by_what_the_spec_says(options, said):
    assert said in head.recipe(recipe_of(**options))


def test_a_finished_adapter_is_named_in_place_of_a_recipe():
    result = recipe_of()
    assert head.recipe(replace(result, details=result.details | {"adapter": {"source": "org/theirs"}})) == (
        "org/base-1.5B in 4 bits · finished adapter org/theirs"
    )
    assert head.recipe(flashcards()) == ""


def test_the_head_tells_what_changed_since_the_accepted_run(tmp_path):
    result = referenced()
    told = head.since(result)
    assert told.startswith("since the accepted run (")
    assert "sft.learning" in told
    assert "41 samples worse and 22 better by accuracy" in told
    report.write(tmp_path, made_up_run(results=(result,)), {})
    for name in ("report.md", "report.html"):
        page = (tmp_path / name).read_text(encoding="utf-8")
        assert (
            0 < page.index("41 samples worse and 22 better by accuracy") < page.index("Financial sentiment: nano base")
        )
    many = [[f"sft.option{i}", "1", "2"] for i in range(9)]
    result = replace(
        result, details=result.details | {"reference": result.details["reference"] | {"differences": many}}
    )
    assert "sft.option2 1 → 2; 6 other differences; 41" in head.since(result)
    assert head.since(sentiment()) == ""


def test_a_spec_without_a_gate_is_measured_and_neither_passes_nor_fails(tmp_path):
    bare = replace(sentiment(), records=(record(),))
    verdict, reason = verdict_of_run([bare], [], ())
    run = made_up_run(results=(bare,), verdict=verdict, reason=reason, complete=True, partial="")
    report.write(tmp_path, run, {})
    markdown = (tmp_path / "report.md").read_text(encoding="utf-8")
    html = (tmp_path / "report.html").read_text(encoding="utf-8")
    assert markdown.startswith("# 📏 MEASURED: nothing to decide: phase1/nano has no [gate]")
    assert terminal.lines(run)[0].startswith("MEASURED: nothing to decide: phase1/nano has no [gate]")
    assert '<div class="banner measured">' in html
    assert '<span class="badge skipped">measured</span>' in html
    assert re.search(r"^measured +phase1/nano$", "\n".join(terminal.lines(run)), re.MULTILINE)
    for page in (markdown, html):
        assert "Measured, nothing to decide: it has no [gate]" in page
        assert "FAIL" not in page
    assert read_run(tmp_path).verdict == "measured"
    assert verdict_of_run([bare], ["benchmarks/test_x.py::test_y"], ())[0] == "fail", "an item failed"
    assert verdict_of_run([bare], [], ("tier3",))[0] == "fail", "a decision was required"


@pytest.mark.parametrize(
    ("ahead", "answer"),
    [
        (Score(0.1, (0.05, 0.15)), "Yes"),
        (Score(0.01, (-0.02, 0.04)), "Not shown"),
        (Score(-0.1, (-0.15, -0.05)), "No"),
    ],
)
def test_beaten_reads_the_interval(ahead, answer):
    control = Control(0.6, (0.55, 0.65), ahead)
    result = replace(sentiment(), records=(record(controls={"classical": control}),))
    assert findings.beaten(result)[0] == answer
    assert findings.beaten(flashcards()) is None


@pytest.mark.parametrize(
    ("value", "said"),
    [(0.7341, ".734"), (1.0, "1.000"), (0.0, ".000"), (0.0004, ".0004"), (-0.02, "−.020"), (12.345, "12.3")]
    + [(1931.4, "1,931"), (7.312, "7.31"), (math.nan, "–"), (None, "–"), (math.inf, "–")],
)
def test_numbers_have_sensible_digits(value, said):
    assert words.number(value) == said


def test_a_large_spec_is_no_larger_a_page_than_a_small_one(tmp_path):
    """Ten phases of 10,000 samples must stay within 5 MB; `python -m benchmarks.speed.reporting` measures them."""
    report.write(tmp_path, made_up_run(results=(sentiment(),)), {"phase1/nano": made_up_samples(10_000)})
    assert (tmp_path / "report.html").stat().st_size < 500_000


CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
QUIET = "--headless --no-sandbox --disable-gpu --disable-quic --no-first-run --disable-background-networking"
QUIET += " --disable-component-update --disable-sync --hide-scrollbars"
WIDTHS = {"phone": 390, "desktop": 1200}
HEIGHT = 844
FRAMES = """<!doctype html><meta charset="utf-8">
<style>body { margin: 0; display: flex } iframe { border: 0; height: %dpx; flex: none }</style>
%s<pre id="seen-by-the-test"></pre><script>
function look(frame) {
  const page = frame.contentDocument, root = page.documentElement;
  const all = selector => [...page.querySelectorAll(selector)];
  const bottom = selector => page.querySelector(selector).getBoundingClientRect().bottom;
  const focusable = all("a[href], summary, [tabindex='0']").filter(e => e.checkVisibility());
  const skip = page.querySelector(".skip");
  skip.focus();
  const shown = skip.getBoundingClientRect().left >= 0;
  return {
    width: root.clientWidth, content: root.scrollWidth, verdict: bottom("h1"), reason: bottom(".reason"),
    headings: all("h1, h2, h3").map(e => e.tagName), pictures: all("svg").map(e => e.getBoundingClientRect().width),
    first: focusable[0] === skip, shown, tabs: all("[tabindex]").map(e => e.tabIndex),
    loaded: all("img").map(e => e.naturalWidth),
    verdicts: all(".scores .badge").map(e => e.getBoundingClientRect()).map(box => [box.left, box.right]),
    controls: all("details").filter(e => e.textContent.includes("Controls")).map(e => e.open),
    reached: focusable.filter(e => (e.focus(), page.activeElement === e)).length, focusable: focusable.length,
  };
}
onload = () => {
  const frames = [...document.querySelectorAll("iframe")].map(frame => [frame.id, look(frame)]);
  document.getElementById("seen-by-the-test").textContent = JSON.stringify(Object.fromEntries(frames));
  document.querySelectorAll("iframe").forEach(frame => frame.contentWindow.scrollTo(0, 0));
};
</script>"""


@pytest.fixture(scope="module")
def seen(html: str, tmp_path_factory: pytest.TempPathFactory) -> dict:
    """What headless Chromium makes of the page on a phone and on a desktop: measures, and the picture of each.

    A third frame holds the page with something too wide in it, to show that the measure would notice, and a picture.
    """
    if CHROMIUM is None:
        pytest.skip("chromium is not installed; apt-get install chromium")
    from matplotlib.image import imread
    from PIL import Image

    folder = tmp_path_factory.mktemp("browser")
    asked_about = f"<img src='{vision._encoded(Image.new('L', (24, 24)))}'>"
    broken = html.replace("</main>", f"<p style='width: 500px'>too wide</p>{asked_about}</main>")
    frames = "".join(
        f'<iframe id="{name}" style="width: {width}px" srcdoc="{escape(text)}"></iframe>'
        for name, width, text in [*((name, width, html) for name, width in WIDTHS.items()), ("broken", 390, broken)]
    )
    (folder / "frames.html").write_text(FRAMES % (HEIGHT, frames), encoding="utf-8")
    picture = folder / "page.png"
    where = [f"--user-data-dir={folder / 'profile'}", f"--screenshot={picture}", f"--window-size=2000,{HEIGHT}"]
    command = [CHROMIUM, *QUIET.split(), *where, "--dump-dom", (folder / "frames.html").as_uri()]
    dom = subprocess.run(command, capture_output=True, timeout=120, check=True, encoding="utf-8").stdout
    found = json.loads(unescape(re.search(r'<pre id="seen-by-the-test">(.*?)</pre>', dom)[1]))
    pixels, left = imread(picture)[..., :3], 0
    for name, width in WIDTHS.items():
        found[name]["pixels"] = pixels[:, left : left + width]
        left += width
    return found


@pytest.mark.slow
@pytest.mark.parametrize("where", WIDTHS)
def test_page_fits_the_screen_and_begins_with_the_verdict(seen, where):
    page = seen[where]
    assert page["content"] == page["width"] == WIDTHS[where], "it scrolls sideways"
    assert seen["broken"]["content"] > 390, "or the measure sees nothing"
    assert page["verdict"] < page["reason"] < HEIGHT
    assert len(page["verdicts"]) == 8
    assert all(0 < left < right < min(390, WIDTHS[where]) for left, right in page["verdicts"]), (
        "first, and on the screen"
    )
    assert page["controls"] == [False], "folded"
    assert len(page["pictures"]) == 8
    assert all(250 < width <= WIDTHS[where] for width in page["pictures"])
    pixels = page["pixels"]
    assert pixels.shape[:2] == (HEIGHT, WIDTHS[where])
    assert pixels.std() > 0.05, "the page is blank"
    banner = abs(pixels - [0xFB / 255, 0xEA / 255, 0xE2 / 255]).max(-1) < 0.01
    assert banner[: HEIGHT // 2].mean() > 0.1, "the verdict's colour is on the first screen"


@pytest.mark.slow
def test_page_shows_the_pictures_that_it_holds(seen):
    assert seen["broken"]["loaded"] == [24], "its own Content-Security-Policy lets data URIs through"
    assert seen["desktop"]["loaded"] == []


@pytest.mark.slow
def test_page_is_walked_by_keyboard_and_by_headings(seen):
    page = seen["desktop"]
    assert page["first"], "the first thing that Tab reaches is the link that skips to the results"
    assert page["shown"], "which is seen once it is reached"
    assert page["reached"] == page["focusable"] > 20
    assert set(page["tabs"]) == {0, -1}, "the order of the page is the order of Tab"
    levels = [int(name[1]) for name in page["headings"]]
    assert levels[0] == 1
    assert levels.count(1) == 1
    assert all(after - before <= 1 for before, after in pairwise(levels)), "no level is left out"


def leaks(**given) -> dict:
    known = {"held_out": 600, "exact": 12, "near": 1, "same_reference": 13, "dedupe": None, "removed": 0}
    known |= {"kinds": {"similar": 1} if given.get("near", 1) else {}, "answers": 3, "answers_only": 0, "contexts": 0}
    pairs = [{"held_out": "aaaaaaaaaaaa", "training": "bbbbbbbbbbbb", "similarity": 1.0, "kind": "same words"}]
    score = {"value": 0.301, "ci": [0.27, 0.33], "p": None}
    clean = [{"metric": "accuracy", "n": 587, "baseline": score, "tuned": score | {"value": 0.7141235}}]
    return known | {"pairs": pairs, "clean": clean} | given


@pytest.mark.parametrize(
    ("found", "said"),
    [
        (
            leaks(),
            "have an exact twin among the training rows and 1 more a near one (1 similar); without these accuracy is .714, with them .734.",
        ),
        (
            leaks(answers_only=2, contexts=41),
            "(1 similar); of 2 more, the answer stands in a training answer; without these accuracy is .714, with them .734; "
            + "41 other samples ask about the context of a training row, which is no leak.",
        ),
        (leaks(exact=600, near=0, clean=[]), "and 0 more a near one; that is every held-out sample."),
        (
            leaks(exact=0, near=0, clean=[], pairs=[], dedupe="near", removed=1234),
            "Leaks: 0 of 600 held-out samples have an exact twin among the training rows and 0 more a near one; dedupe = near "
            + "removed 1,234 training rows before this check.",
        ),
    ],
    ids=["some", "answers and contexts", "all", "removed"],
)
def test_leaks_are_said_with_and_without_them(tmp_path, found, said):
    result = sentiment()
    run = made_up_run(results=(replace(result, details=result.details | {"leaks": found}),))
    report.write(tmp_path, run, {})
    markdown = (tmp_path / "report.md").read_text(encoding="utf-8")
    page = (tmp_path / "report.html").read_text(encoding="utf-8")
    assert said in markdown
    assert said in page
    moved = "| accuracy | 600 → 587 | .312 → .734 | .301 → .714 | −.020 |"
    assert (moved in re.sub(" +", " ", markdown)) == bool(found["clean"])
    assert ("bbbbbbbbbbbb" in markdown) == ("bbbbbbbbbbbb" in page) == bool(found["pairs"])


def test_missing_terms_stand_beside_the_worst_samples(tmp_path):
    lacking = {"baseline": ["artery", HOSTILE], "tuned": ["blood pressure"]}
    samples = [
        card | {"missing": lacking, "scores": {"rougeL": [0.5, 0.1]}, "tuned": "high"} for card in made_up_flashcards(3)
    ]
    report.write(tmp_path, made_up_run(), {"phase2/medical": samples})
    for name in ("report.md", "report.html"):
        text = (tmp_path / name).read_text(encoding="utf-8")
        assert "missing in baseline: artery, " in text
        assert "<script>alert" not in re.sub("`[^\n]*`", "", text)
    assert "missing in tuned: blood pressure" in (tmp_path / "report.html").read_text(encoding="utf-8")


def test_costs_of_a_cpu_need_no_columns_of_a_gpu():
    spent = {"seconds": {"baseline": 12.3}, "engine": {"baseline": "generate"}, "utilization": {}, "peak_memory_gib": 1}
    table = tables.cost([replace(flashcards(), cost=spent)])
    assert table.headers == ["spec", "stage", "time", "tokens/s", "peak memory, GiB"]


def test_a_vision_spec_shows_its_images_a_second():
    stages = {"training, seed 42": {"seconds": 20.0, "tokens": 4_000, "images": 80, "peak_memory_gib": 1.0}}
    table = tables.cost([replace(flashcards(), cost=cost.summary(stages, cached=[]))])
    assert table.headers == ["spec", "stage", "time", "tokens/s", "peak memory, GiB", "images/s"]
    assert table.rows[0][3:] == ["200", words.number(1.0), "4.00"]


def test_parity_that_was_measured_in_answers_is_told_in_answers():
    moved = {"changes": 4.2, "reload": 0.0, "batch_of_one": 0.4, "merge": 0.6}
    check = {"probes": 8, "tolerance": 0.25, "differences": moved, "asked": 240}
    check |= {"shares": {"batch_of_one": None, "merge": 0.025}, "holds": {"batch_of_one": False, "merge": False}}
    result = replace(flashcards(), details={"parity": {"42": check}})
    assert tables.parity(result).rows == [["42", "4.2", "0", "0.4 ✗", "2.5% of 240 answers ✗", "0.25"]]
    assert "Parity of seed 42: merged, 2.5% of 240 answers differ, so the adapter answered unmerged." in findings.notes(
        result
    )


def test_an_unknown_interval_is_printed_as_unknown():
    unknown = Score(0.113, (math.nan, math.nan), rule="unknown: 6 effective groups")
    assert words.difference(unknown) == "+.113 [unknown: 6 effective groups]"
    assert words.in_favour(unknown, record(direction="lower")).rule == unknown.rule


def test_the_report_names_the_rules_of_its_intervals_and_results_json_keeps_them():
    tango, few = (
        Score(0.1, (0.05, 0.15), 0.001, "Tango"),
        Score(0.2, (math.nan, math.nan), None, "unknown: 6 effective groups"),
    )
    result = Result("phase1", "x", "X", "nano", (record(gain=tango), record("rougeL", gain=few)), {}, {})
    note = "Intervals of gains: Tango (accuracy); unknown: 6 effective groups (rougeL)."
    assert note in findings.notes(result)
    again = from_json(json.loads(json.dumps(to_json(result))))
    assert [found.gain.rule for found in again.records] == [tango.rule, few.rule]
    assert math.isnan(again.records[1].gain.ci[0])
