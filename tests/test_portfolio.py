"""Phase 7: what beats what, what an adapter does to other jobs, the page, and a whole run on tiny specs."""

import math
import re
import shutil
from dataclasses import replace

import pytest

from prism.plugin.results import Results
from prism.report.claims import claims
from prism.report.portfolio import Entry, Page, html, markdown
from prism.tasks import load_task
from prism.verdicts.forgetting import cell
from prism.verdicts.headline import headline
from prism.verdicts.record import UNDECIDED, Record, Result, Score, Verdict
from tests.conftest import ROOT, SPEC, results, write_rows, write_spec
from tests.scored import answers, examples, tiny_spec

CONTENDERS = {
    "thresholds": ["tier1-accuracy-floor", "tier1-accuracy-gain"],
    "contenders": [
        {"name": "nearest training answer", "values": {"accuracy": 0.5}, "passes": ["tier1-accuracy-gain"]},
        {"name": "constant answer", "values": {"accuracy": 0.4}, "passes": []},
        {"name": "question echo", "values": {"accuracy": None}, "passes": []},
    ],
}


def record(**given) -> Record:
    known = {
        "phase": "phase1",
        "spec": "tiny",
        "profile": "nano",
        "data": "rows",
        "evaluation_digest": "ab" * 32,
        "tier": "tier1",
        "metric": "accuracy",
        "direction": "higher",
        "n": 300,
        "groups": 300,
        "unscored": 0,
        "seeds": {"42": 0.75},
        "baseline": Score(0.6, (0.54, 0.65)),
        "tuned": Score(0.75, (0.70, 0.80)),
        "gain": Score(0.15, (0.08, 0.22), 0.001),
        "verdicts": (Verdict("floor", 0.7, "holds", "0.75 ≥ 0.7"),),
    }
    return Record(**(known | given))


def result(*records, title="Sentiment <b>of headlines</b>", **details) -> Result:
    known = {
        "contenders": CONTENDERS,
        "data": {"source": "rows", "training": 96, "held_out": 300},
        "options": {"model": {"model_name": "fixtures/models/nano-text"}, "lora": {"r": 16}},
        "training": {"42": {"trainable": 1_000, "parameters": 201_000}},
    }
    spent = {"seconds": {"training, seed 42": 61.0, "baseline": 9.0}, "tokens_per_second": {}, "peak_memory_gib": 1.0}
    return Result("phase1", "tiny", title, "nano", records or (record(),), known | details, spent)


# What beats what


def test_the_headline_is_the_first_gated_metric_that_compares_with_the_baseline():
    found = headline(
        result(
            record(metric="weighted_f1", verdicts=()),
            record(metric="knowledge_gain", against="majority_class"),
            record(metric="accuracy"),
        )
    )
    assert (found.record.metric, found.contender, found.reached) == ("accuracy", "nearest training answer", 0.5)
    assert headline(result(record(n=0))) is None
    assert headline(result(record(tier="tier3"))) is None
    assert headline(result(record(metric="f1", verdicts=()))).record.metric == "f1"


@pytest.mark.parametrize(
    ("given", "baseline", "contenders"),
    [
        ({}, True, True),
        ({"gain": Score(0.15, (-0.01, 0.3))}, False, True),
        ({"gain": Score(0.15, (math.nan, math.nan))}, False, True),
        ({"tuned": Score(0.5, (0.4, 0.6))}, True, False),  # as good as one that knows nothing
        ({"direction": "lower", "gain": Score(-0.2, (-0.3, -0.1)), "tuned": Score(0.3, (0.2, 0.35))}, True, True),
        ({"direction": "lower", "gain": Score(0.2, (0.1, 0.3)), "tuned": Score(0.45, (0.4, 0.5))}, False, False),
    ],
)
def test_an_adapter_beats_what_its_interval_and_its_value_say(given, baseline, contenders):
    found = headline(result(record(**given)))
    assert (found.beats_baseline, found.beats_contenders) == (baseline, contenders)


def test_a_gate_that_knowing_nothing_passes_is_beaten_by_nobody():
    passing = {**CONTENDERS, "thresholds": ["tier1-accuracy-gain"]}
    assert not headline(result(contenders=passing)).beats_contenders


def test_the_base_knows_something_only_if_its_whole_interval_lies_beyond_the_best_contender():
    assert headline(result()).base_knows
    assert not headline(result(record(baseline=Score(0.6, (0.49, 0.7))))).base_knows
    assert headline(result(contenders={})).base_knows


# What an adapter does to another job


@pytest.mark.parametrize(
    ("wrong", "knows", "state"),
    [
        (range(100, 160), True, "fails"),  # 60 of 200 right answers lost
        (range(100, 160), False, "skipped"),
        (range(100, 101), True, "holds"),
        (range(100, 101), False, "holds"),  # it was shown to have lost nothing, whatever there was to lose
        (range(100, 120), True, "inconclusive"),
        (range(100, 120), False, "skipped"),
    ],
)
def test_a_loss_is_decided_at_the_limit_and_only_where_there_was_something_to_lose(tmp_path, wrong, knows, state):
    spec = tiny_spec(tmp_path)
    asked, metric = examples(200), load_task(spec).metrics[0]
    known = headline(result(record(baseline=Score(0.6, (0.54, 0.65) if knows else (0.3, 0.9)))))
    base, tuned = answers(200, range(20)), answers(200, [*range(20), *wrong])
    found = cell("phase2/other", spec, metric, asked, base, tuned, 0.1, 12, known)
    assert (found.adapter, found.asked, found.state) == ("phase2/other", "phase1/tiny", state), found.reason
    assert found.loss.value == pytest.approx(len(wrong) / 200)
    assert ("nothing to forget" in found.reason) == (state == "skipped")


def test_its_own_job_is_its_own_gates_business(tmp_path):
    spec = tiny_spec(tmp_path)
    metric = load_task(spec).metrics[0]
    asked, base, tuned = examples(60), answers(60), answers(60, range(60))
    found = cell("phase1/tiny", spec, metric, asked, base, tuned, 0.1, 12, headline(result()))
    assert (found.own, found.state, found.loss) == (True, "holds", None)


# Published claims

TABLE = """NVIDIA H300, 2031-01-02; torch 9

| Training, real tokens/s | tokens/s | loaded, GiB |
|:--|--:|--:|
| plain TRL: 4-bit, padded, checkpointing | 1,000 | 1.00 |
| plain TRL: 4-bit, packed, checkpointing | 5,000 | 1.00 |
| Unsloth: 4-bit, packed, checkpointing | 4,000 | 1.10 |
"""


def test_claims_stand_beside_what_the_table_and_the_records_say(tmp_path):
    (tmp_path / "benchmarks" / "speed").mkdir(parents=True)
    (tmp_path / "benchmarks" / "speed" / "GPU.md").write_text(TABLE)
    memory, share, speed = claims(tmp_path, [result()])
    assert memory.measured == "1.07 GB (plain TRL); 1.18 GB (Unsloth)"
    assert memory.source == "benchmarks/speed/GPU.md, NVIDIA H300, 2031-01-02"
    assert share.measured == "0.498 % (phase1/tiny, a base of 200 k)"
    assert [part.split()[0] for part in speed.measured.split("; ")] == ["4.00", "0.80"]


def test_what_was_not_measured_says_so(tmp_path):
    other = result(options={"model": {}, "lora": {"r": 8}})
    assert all(claim.measured.startswith("not measured") and not claim.source for claim in claims(tmp_path, [other]))


def test_the_committed_table_still_has_the_lines_that_are_read():
    memory, _, speed = claims(ROOT, [])
    assert "GB" in memory.measured
    assert speed.measured.count("×") == 2


# The page


def page(tmp_path, **given) -> Page:
    spec = tiny_spec(tmp_path)
    metric = load_task(spec).metrics[0]
    known = headline(result())
    asked, base = examples(200), answers(200, range(20))
    other = spec.model_copy(update={"phase": "phase2"})
    cells = [
        cell(adapter, of, metric, asked, base, answers(200, wrong), 0.1, 2, known)
        for adapter, of, wrong in (
            ("phase1/tiny", spec, ()),
            ("phase1/tiny", other, range(80)),
            ("phase2/tiny", spec, range(22)),
            ("phase2/tiny", other, ()),
        )
    ]
    entry = Entry(result(), known, 5_000_000, 15_700_000, {"trainable": 1_000, "parameters": 201_000})
    return replace(
        Page(
            "PRISM",
            "20310102-030405-a",
            "nano",
            (entry,),
            tuple(cells),
            0.1,
            {"phase5/tiny": "its rows are <not> here"},
            claims(tmp_path, []),
            1,
            {"commit": "c0ffee" * 6, "dirty": False},
        ),
        **given,
    )


def test_the_page_says_what_was_achieved_lost_and_left_out(tmp_path):
    shown = markdown(page(tmp_path))
    for text in (
        "1 of 1 adapter better than",
        "1 of 2 pairs of adapter and other job shows a loss above 0.1",
        "commit c0ffeec0",
        "phase5/tiny",
        ".600 [.540, .650]",
        "+.150 [+.080, +.220]",
        "0.498 %",
        "15.7 MB",
        "✗ .600 (loss +.300",
        "✓ .890 (loss +.010",
        "is shown to exceed 0.1",
        "not measured",
        "trains fixtures/models/nano-text on 96 rows of rows and asks it 300 held-out questions",
        "1 min 01 s of training made 5 MB of adapter",
        "1 of 1 threshold holds",
    ):
        assert text in shown, text


def test_the_page_is_safe_whole_and_says_fail_where_a_job_was_hurt(tmp_path):
    found = page(tmp_path)
    shown = html(found)
    assert "Sentiment &lt;b&gt;of headlines&lt;/b&gt;" in shown
    assert "&lt;not&gt;" in shown
    assert "http:" not in shown
    assert "https:" not in shown
    assert "<script" not in shown
    assert 'class="banner fail"' in shown
    assert 'class="banner pass"' in html(replace(found, cells=()))
    assert "2 different source trees" in markdown(page(tmp_path, revisions=2))


def test_a_page_of_nothing_is_no_success(tmp_path):
    empty = page(tmp_path, entries=(), cells=())
    assert "0 of 0 adapters" in markdown(empty)
    assert 'class="banner fail"' in html(empty)


# A run


def test_what_one_process_found_besides_is_kept_where_another_gathers_the_same_spec(tmp_path):
    first, second = Results(tmp_path, "20310102-030405-a", "gw0"), Results(tmp_path, "20310102-030405-a", "gw1")
    for each in (first, second):
        each._write(result())
    first.add_details(result(), "study", {"parts": 3})
    second.mark_decided(result(), "tier1-accuracy-floor")
    (gathered,) = second.gather()
    assert gathered.details["study"] == {"parts": 3}
    assert gathered.decided == ("tier1-accuracy-floor",)


def jobs(checkout, tiny, rows):
    """Two phases on one base, which 160 rows are too few to tell apart; phase 2 has phase 1's task on other rows."""
    shutil.copy(ROOT / "benchmarks" / "test_phase7_portfolio.py", checkout.path / "benchmarks")
    others = [row | {"tweet": f"Bank {row['tweet']}"} for row in rows]
    data = write_rows(checkout.path / "other" / "train.jsonl", others)
    text = SPEC.format(data=data, model=tiny).replace("gain = 0.9", "gain = -1.0")
    folder = checkout.path / "benchmarks" / "specs" / "phase2"
    folder.mkdir()
    (folder / "tiny.toml").write_text(text)
    write_spec(checkout.path, text.replace(str(data), str(checkout.path / "data" / "train.jsonl")))
    hidden = text.replace('title    = "tiny"', 'title = "rows elsewhere"').replace("[data]", '[data]\nname = "absent"')
    (folder / "elsewhere.toml").write_text(hidden.replace(str(data), "owner/absent"))


def without_run(page: str) -> str:
    return re.sub(r"run \d{8}-\d{6}-\w+", "run", page)


@pytest.mark.slow
def test_phase_7_gathers_runs_what_is_missing_and_asks_each_adapter_the_others_questions(checkout, tiny, rows):
    jobs(checkout, tiny, rows)
    first = checkout.runpytest_subprocess("benchmarks", "-m", "phase7", "--prism-profile", "nano", "-rA")
    first.assert_outcomes(passed=3, failed=4)  # a tiny base learns nothing, and has nothing to forget
    first.stdout.fnmatch_lines(["PASSED *::test_the_adapter_has_hurt_no_other_job[[]phase2-tiny[]]"])
    assert "answers, the adapter of phase1/tiny" in first.stderr.str()
    assert "answers, the adapter of phase2/tiny" in first.stderr.str()
    latest = checkout.path / "reports" / "latest"
    page = (latest / "portfolio.md").read_text()
    assert "phase2/elsewhere** is not on this page" in page
    assert "phase1/tiny trains" in page
    assert (latest / "portfolio.html").is_file()
    assert "portfolio.md" in (latest / "seal.json").read_text()
    found = results(checkout)
    assert {spec["phase"] for spec in found["specs"]} == {"phase1", "phase2"}
    assert all(verdict["reason"] != UNDECIDED for r in found["records"] for verdict in r["verdicts"])
    conftest = checkout.path / "conftest.py"
    heavy = ("torch", "transformers", "datasets", "sklearn", "scipy", "nltk")
    conftest.write_text(f"{conftest.read_text()}\nimport sys\nsys.modules |= dict.fromkeys({heavy})\n")
    again = checkout.runpytest_subprocess("benchmarks", "-m", "phase7", "--prism-profile", "nano")
    again.assert_outcomes(passed=3, failed=4)
    assert "answers, " not in again.stderr.str()
    assert without_run((latest / "portfolio.md").read_text()) == without_run(page)


@pytest.mark.slow
def test_a_spec_that_cannot_be_measured_fails_its_items_and_is_named_on_the_page(checkout, tiny, rows):
    jobs(checkout, tiny, rows)
    spec = checkout.path / "benchmarks" / "specs" / "phase2" / "tiny.toml"
    spec.write_text(spec.read_text().replace("r = 4", 'r = 4\nlora_dropout = "x"'))
    out = checkout.runpytest_subprocess("benchmarks", "-m", "phase7", "--prism-profile", "nano", "-rA")
    assert out.ret == 1
    assert "FAILED" in out.stdout.str()
    page = (checkout.path / "reports" / "latest" / "portfolio.md").read_text()
    assert "**phase2/tiny** is not on this page" in page
    chosen = checkout.runpytest_subprocess(
        "benchmarks", "-m", "phase7", "--prism-profile", "nano", "--prism-spec", "phase1/tiny", "-n", "2", "-rs"
    )
    assert (
        "phase2** is not on this page: not named by --prism-spec"
        in (checkout.path / "reports" / "latest" / "portfolio.md").read_text()
    )
    assert "phase1/tiny: no other spec of this run stands on its base" in chosen.stdout.str()
