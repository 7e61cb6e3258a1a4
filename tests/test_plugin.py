"""The plugin as a person meets it: items, selection, exit codes, a whole run, a killed one, workers."""

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import replace
from xml.etree import ElementTree

import pytest
from safetensors.torch import load_file, save_file

from prism.plugin.results import verdict as verdict_of_run
from prism.store import file_digest
from prism.verdicts.record import Result, Verdict
from tests.conftest import SPEC, only_phase, results, write_rows, write_spec
from tests.test_gate import record as gate_record

FLOOR = "test_thresholds[tiny-tier1-accuracy-floor]"


def run(checkout, *options):
    return checkout.runpytest_subprocess("benchmarks", "-m", "phase1", "--prism-profile", "nano", *options)


def change(checkout, old, new):
    path = checkout.path / "benchmarks" / "specs" / "phase1" / "tiny.toml"
    assert old in path.read_text()
    path.write_text(path.read_text().replace(old, new))


def test_one_threshold_is_one_item(checkout):
    out = run(checkout, "--collect-only", "-q")
    assert [line.rpartition("::")[2] for line in out.outlines if "::" in line] == [
        FLOOR,
        "test_thresholds[tiny-tier1-accuracy-gain]",
        "test_thresholds[tiny-tier1-unparsable_rate-ceiling]",
    ]
    assert not (checkout.path / "reports").exists()


@pytest.mark.parametrize(
    ("options", "count"),
    [
        (["-k", "accuracy"], 2),
        (["-m", "phase1 and tier1"], 3),
        (["-m", "tier2"], 0),
        (["-m", "full"], 0),
        (["--prism-profile", "full"], 0),
        (["--prism-spec", "phase1/tiny"], 3),
    ],
    ids=str,
)
def test_selection(checkout, options, count):
    out = checkout.runpytest_subprocess("benchmarks", "--collect-only", "-q", *options)
    assert sum("::" in line for line in out.outlines) == count


MISTAKES = {
    "spec": ('"nano"', '"hugo"', [], "ERROR: phase1/tiny.toml profile = 'hugo'"),
    "unknown spec": ("tiny", "tiny", ["--prism-spec", "none"], "ERROR: --prism-spec none: no such spec"),
    "GPU asked for by name": (
        "[data]",
        "[requires]\nvram_gb = 8\n[data]",
        ["--prism-spec", "tiny"],
        "ERROR: --prism-spec tiny: needs a CUDA device with 8 GiB, and there is none",
    ),
    "data folder": ("tiny", "tiny", ["--prism-data", "nowhere"], "no such folder"),
    "a seed": ("tiny", "tiny", ["--prism-seeds", "42"], "write 42-42 for seed 42 alone"),
    "many seeds": ("tiny", "tiny", ["--prism-seeds", "1-1000000000"], "is more than 1000 seeds a spec; write fewer"),
    "large seed": ("tiny", "tiny", ["--prism-seeds", "4294967296-4294967296"], "4294967296 must be below 2**32"),
    "seeds": ("tiny", "tiny", ["--prism-seeds", "0"], "--prism-seeds 0: must be a count of at least 1"),
}


@pytest.mark.parametrize("workers", [[], ["-n", "2"]], ids=["alone", "workers"])
@pytest.mark.parametrize(("old", "new", "options", "sentence"), MISTAKES.values(), ids=MISTAKES)
def test_mistakes_end_with_exit_code_4_and_one_sentence(checkout, old, new, options, sentence, workers):
    change(checkout, old, new)
    out = run(checkout, *options, *workers)
    assert out.ret == pytest.ExitCode.USAGE_ERROR
    assert sentence in out.stderr.str() + out.stdout.str()
    assert "Traceback" not in out.stderr.str() + out.stdout.str()


@pytest.mark.parametrize("options", [[], ["-n", "2"]], ids=["alone", "workers"])
def test_spec_that_needs_a_gpu_is_skipped_with_reason_and_is_no_pass(checkout, options):
    change(checkout, "[data]", "[requires]\nvram_gb = 8\n[data]")
    out = run(checkout, "-rs", *options)
    out.stdout.fnmatch_lines(["*needs a CUDA device with 8 GiB, and there is none*"])
    out.stdout.fnmatch_lines(["*no threshold was decided*"])
    assert out.ret == pytest.ExitCode.NO_TESTS_COLLECTED


FAULTS = {
    "rows": ('path  = "', 'path  = "no', r"DataError: .*no such file"),
    "model": ('model_name = "', 'model_name = "/no', r"ModelError: /no.*: no such model folder"),
    "option": ("lora_alpha", "lora_alfa", r"SpecError: phase1/tiny\.toml \[lora\]: .*lora_alfa"),
    "memory": (
        "[data]",
        "[requires]\nmemory_gb = 90000\n[data]",
        r"ResourceError: phase1/tiny: needs 90000 GiB of memory",
    ),
    "disk": ("[data]", "[requires]\ndisk_gb = 9e9\n[data]", r"ResourceError: phase1/tiny: needs 9e\+09 GiB of disk"),
}


@pytest.mark.parametrize(("old", "new", "sentence"), FAULTS.values(), ids=FAULTS)
def test_faults_fail_with_one_sentence_and_no_report(checkout, old, new, sentence):
    change(checkout, old, new)
    out = run(checkout)
    assert out.ret == pytest.ExitCode.TESTS_FAILED
    assert re.search(sentence, out.stdout.str())
    assert "Traceback" not in out.stdout.str()
    assert not (checkout.path / "reports" / "latest").exists()
    out.stdout.fnmatch_lines(["prism: no report was written, because no spec was *"])
    assert "is older" not in out.stdout.str(), "there is no other report"


@pytest.mark.usefixtures("new_interpreter")
def test_a_run_and_its_cached_repetition(checkout):
    """Baseline, training, tuned answers, verdicts, report; then the same without loading a model library."""
    (checkout.path / "conftest.py").write_text(
        (checkout.path / "conftest.py").read_text()
        + "import sys\nheavy = {'matplotlib', 'sklearn', 'torch', 'transformers', 'datasets', 'deepeval'}\n"
        + "def pytest_unconfigure(): print('heavy:', sorted(heavy & set(sys.modules)))\n"
    )
    first = run(checkout, "--junitxml=junit.xml")
    assert first.ret == pytest.ExitCode.TESTS_FAILED  # the gain of .9 is out of reach
    first.assert_outcomes(passed=2, failed=1)
    first.stdout.fnmatch_lines(
        ["*profile nano (--prism-profile)*", "*phase1/tiny accuracy gain ≥ +.9 fails: *", "heavy: *sklearn*torch*"]
    )
    first.stdout.fnmatch_lines(["baseline .* → .*, n = 40, gain * [[]*[]]", "report: *latest/report.md*"])
    table = results(checkout)
    assert table["complete"] is True
    assert table["verdict"] == "fail"
    assert {record["metric"] for record in table["records"]} >= {
        "accuracy",
        "weighted_f1",
        "macro_f1",
        "knowledge_gain",
    }
    accuracy = next(record for record in table["records"] if record["metric"] == "accuracy")
    assert accuracy["controls"].keys() >= {"label_likelihood", "prior_corrected", "majority_class", "classical"}
    assert [verdict["key"] for verdict in accuracy["verdicts"]] == ["floor", "gain"]
    folder = checkout.path / "reports" / "latest"
    assert sorted(path.name for path in folder.iterdir()) == [
        "report.html",
        "report.md",
        "results.json",
        "samples",
        "scores",
        "seal.json",
    ]
    page = (folder / "report.html").read_text()
    kept = json.loads((folder / "scores" / "phase1-tiny.json").read_text())["metrics"]
    knowledge = next(record for record in table["records"] if record["metric"] == "knowledge_gain")
    assert kept["knowledge_gain"]["gain"] == pytest.approx(knowledge["gain"]["value"], abs=1e-6)
    assert "gain" not in kept["accuracy"]
    assert len((folder / "samples" / "phase1-tiny.jsonl").read_text().splitlines()) == 40
    junit = ElementTree.parse(checkout.path / "junit.xml")
    gain = {p.get("name"): p.get("value") for p in junit.find(".//testcase[2]/properties").iter("property")}
    assert (gain["spec"], gain["threshold"], gain["metric"]) == ("phase1/tiny", "tier1-accuracy-gain", "accuracy")
    assert (gain["state"], gain["n"]) == ("fails", "40")
    scores = {"baseline": accuracy["baseline"]["value"], "tuned": accuracy["tuned"]["value"]}
    scores |= {"gain": accuracy["gain"]["value"], "p": accuracy["gain"]["p"]}
    scores |= dict(zip(("gain_low", "gain_high"), accuracy["gain"]["ci"]))
    assert {name: float(gain[name]) for name in scores} == pytest.approx(scores, abs=1e-6)

    again = run(checkout)
    again.assert_outcomes(passed=2, failed=1)
    again.stdout.fnmatch_lines(["heavy: [[][]]"])
    assert (folder / "report.html").read_text().count("<svg") == page.count("<svg") == 7
    repeated = results(checkout)
    assert repeated["records"] == table["records"]
    assert repeated["cost"][0]["cached"] == ["baseline", "label likelihoods", "training, seed 42", "tuned, seed 42"]
    assert len(list((checkout.path / "reports" / "runs").iterdir())) == 2


def test_damaged_adapter_is_made_again_with_a_warning(checkout):
    run(checkout)
    before = results(checkout)["records"]
    weights = next((checkout.path / "home" / "adapters").glob("*/adapter_model.safetensors"))
    weights.write_bytes(weights.read_bytes()[:-100])
    out = run(checkout)
    out.stdout.fnmatch_lines(["*adapter_model.safetensors: the file has changed since it was stored; set aside as*"])
    assert results(checkout)["records"] == before


def test_part_of_a_run_says_so(checkout):
    run(checkout, "-k", "floor")
    table = results(checkout)
    assert table["complete"] is False
    assert table["partial"] == "2 of 3 thresholds of phase1/tiny were not selected or not reached"


def test_what_failed_last_time_and_where_to_stop(checkout):
    """--lf decides the one that failed, -x leaves off after it; both reports say that they are parts."""
    run(checkout)
    run(checkout, "--lf").assert_outcomes(failed=1)
    table = results(checkout)
    assert (table["complete"], table["verdict"]) == (False, "fail")
    assert table["partial"] == "2 of 3 thresholds of phase1/tiny were not selected or not reached"
    assert table["reason"] == "1 of 1 threshold does not hold"
    states = [verdict["state"] for record in table["records"] for verdict in record["verdicts"]]
    assert sorted(states) == ["fails", "skipped", "skipped"], "what was not asked holds nothing"
    run(checkout, "-x").assert_outcomes(passed=1, failed=1)
    table = results(checkout)
    assert (table["complete"], table["verdict"]) == (False, "fail")
    assert table["partial"] == "1 of 3 thresholds of phase1/tiny were not selected or not reached"


@pytest.mark.parametrize("moment", ["setup", "call"])
def test_a_worker_that_dies_fails_its_spec_and_the_others_report(checkout, moment):
    """As its first item begins, before anything is measured; and after its spec was, before the verdict is told."""
    specs = checkout.path / "benchmarks" / "specs" / "phase1"
    shutil.copy(specs / "tiny.toml", specs / "other.toml")
    run(checkout)
    shutil.rmtree(checkout.path / "reports")
    (checkout.path / "conftest.py").write_text(
        (checkout.path / "conftest.py").read_text()
        + "import os\n"
        + f"def pytest_runtest_{moment}(item):\n"
        + "    if 'other-tier1-accuracy-floor' in item.name: os._exit(1)\n"
    )
    out = run(checkout, "-n", "2", "--junitxml=junit.xml")
    assert out.ret == pytest.ExitCode.TESTS_FAILED
    out.assert_outcomes(passed=2, failed=4)
    table = results(checkout)
    assert (table["complete"], table["verdict"]) == (False, "fail")
    unreached = "3 of 3 thresholds of phase1/other were not selected or not reached"
    assert table["partial"] == {"setup": "3 items failed besides the thresholds", "call": unreached}[moment]
    assert re.fullmatch(r"3 items failed besides the thresholds, first .*other-tier1-.*\]", table["reason"])
    assert {record["spec"] for record in table["records"]} >= {"tiny"}
    assert len(list((checkout.path / "reports" / "runs").iterdir())) == 1
    assert "crashed while running" in (checkout.path / "junit.xml").read_text()


def test_the_job_summary_gets_the_report_while_github_shows_it(checkout, monkeypatch):
    summary = checkout.path / "summary.md"
    summary.write_text("what an earlier command said\n")
    monkeypatch.setenv("GITHUB_STEP_SUMMARY", str(summary))
    run(checkout, "--prism-report-title", "Nightly")
    text = summary.read_text()
    assert text.startswith("what an earlier command said\n# ❌ FAIL · Nightly: 1 of 3 thresholds")
    assert text.endswith((checkout.path / "reports" / "latest" / "report.md").read_text())
    summary.write_text("x" * (2**20 - 1000))
    out = run(checkout)
    assert summary.stat().st_size == 2**20 - 1000
    out.stderr.fnmatch_lines(
        ["*summary.md has 1,047,576 bytes: report left out, as GitHub shows no summary above 1 MiB*"]
    )
    monkeypatch.setenv("GITHUB_STEP_SUMMARY", str(checkout.path / "none" / "summary.md"))
    out = run(checkout)
    out.stderr.fnmatch_lines(["*none/summary.md: No such file or directory; the report itself is written"])
    out.stdout.fnmatch_lines(["report: *latest/report.md*"])


def test_several_seeds(checkout):
    run(checkout, "--prism-seeds", "2")
    accuracy = next(record for record in results(checkout)["records"] if record["metric"] == "accuracy")
    assert accuracy["seeds"].keys() == {"42", "43"}
    assert accuracy["tuned"]["value"] == pytest.approx(sum(accuracy["seeds"].values()) / 2)
    assert len(list((checkout.path / "home" / "adapters").glob("*/manifest.json"))) == 2
    run(checkout, "--prism-seeds", "43,51")
    other = next(record for record in results(checkout)["records"] if record["metric"] == "accuracy")
    assert other["seeds"].keys() == {"43", "51"}
    assert other["evaluation_digest"] == accuracy["evaluation_digest"], "the split never changes with the seed"
    assert len(list((checkout.path / "home" / "adapters").glob("*/manifest.json"))) == 3


def test_spec_without_gate_is_measured_and_is_no_pass(checkout):
    path = checkout.path / "benchmarks" / "specs" / "phase1" / "tiny.toml"
    path.write_text(path.read_text().partition("[gate.tier1]")[0])
    out = run(checkout, "-rs")
    out.stdout.fnmatch_lines(
        ["*phase1/tiny has no [[]gate]: `prism thresholds phase1/tiny` measures and proposes one*"]
    )
    out.stdout.fnmatch_lines(["MEASURED: nothing to decide: phase1/tiny has no [[]gate]*"])
    assert "which is not a pass" not in out.stdout.str(), "the headline says it"
    assert out.ret == pytest.ExitCode.NO_TESTS_COLLECTED
    assert (results(checkout)["records"][0]["n"], results(checkout)["verdict"]) == (40, "measured")


def test_retrain(checkout):
    run(checkout)
    manifest = next((checkout.path / "home" / "adapters").glob("*/manifest.json"))
    stored = manifest.stat().st_mtime_ns
    run(checkout)
    assert manifest.stat().st_mtime_ns == stored
    run(checkout, "--prism-retrain")
    assert manifest.stat().st_mtime_ns > stored


def test_answers_are_of_the_adapter_at_hand(checkout):
    """On a GPU a recipe trained again gives other weights; here other weights are put in its place."""
    run(checkout)
    before = len(list((checkout.path / "home" / "predictions").glob("*/manifest.json")))
    folder = next((checkout.path / "home" / "adapters").glob("*/manifest.json")).parent
    weights = load_file(folder / "adapter_model.safetensors")
    save_file({name: weight * 2 for name, weight in weights.items()}, folder / "adapter_model.safetensors")
    kept = json.loads((folder / "manifest.json").read_text())
    kept["files"]["adapter_model.safetensors"] = file_digest(folder / "adapter_model.safetensors")
    del kept["check"]  # as of a manifest that was written before it had a checksum
    (folder / "manifest.json").write_text(json.dumps(kept))
    run(checkout)
    assert len(list((checkout.path / "home" / "predictions").glob("*/manifest.json"))) == before + 1


def test_a_check_beside_the_thresholds_that_fails_fails_the_run(checkout):
    file = checkout.path / "benchmarks" / "test_phase1_financial_sentiment.py"
    file.write_text(file.read_text() + "\n\ndef test_toolchain():\n    assert False\n")
    change(checkout, "gain = 0.9", "gain = -1.0")
    checkout.runpytest_subprocess("benchmarks", "--prism-profile", "nano")
    found = results(checkout)
    assert found["verdict"] == "fail"
    assert found["reason"].startswith("1 item failed besides the thresholds, first benchmarks/test_phase1")
    assert found["complete"] is False


WRITTEN = """

def test_beside():
    pass


def test_of_each_spec(spec):
    pass


def test_at_the_end():
    pass
"""


def test_items_run_as_they_are_written_and_those_of_one_spec_together(checkout):
    specs = checkout.path / "benchmarks" / "specs" / "phase1"
    (specs / "another.toml").write_text((specs / "tiny.toml").read_text())
    file = checkout.path / "benchmarks" / "test_phase1_financial_sentiment.py"
    file.write_text(file.read_text() + WRITTEN)
    out = run(checkout, "--collect-only", "-q", "-k", "not floor")
    items = [line.split("::")[1] for line in out.outlines if "::" in line]
    both = [[name for name in items if part in name] for part in ("another", "tiny")]
    first, last = sorted(both, key=lambda names: items.index(names[0]))
    assert items == [*first, *last[:-1], "test_beside", last[-1], "test_at_the_end"]
    assert (first[-1].split("[")[0], last[-1].split("[")[0]) == ("test_of_each_spec", "test_of_each_spec")


HOLDS = """

import gc, pytest, weakref

HELD = []


class Model:
    pass


def test_fails():
    model = Model()
    HELD.append(weakref.ref(model))
    assert not model


@pytest.fixture
def later():  # where the next spec's work is done
    gc.collect()
    return HELD[0]()


def test_goes_on(later):
    assert later is None
"""


def test_a_failed_item_frees_what_it_held(checkout):
    """Python keeps the last error, its traceback and its frames, which had a model on the GPU."""
    file = checkout.path / "benchmarks" / "test_phase1_financial_sentiment.py"
    file.write_text(file.read_text() + HOLDS)
    out = checkout.runpytest_subprocess("benchmarks", "--prism-profile", "nano", "-k", "test_fails or test_goes_on")
    out.assert_outcomes(failed=1, passed=1)
    out.stdout.fnmatch_lines(["*assert not <*Model object*"])  # the traceback is shown all the same


def test_a_line_separator_in_an_answer_is_no_end_of_a_line(checkout, tiny):
    """U+2028 ends a line for str.splitlines, not for JSON lines."""
    asked = [{"question": f"What is the ulna {n}?", "answer": f"A bone\u2028number {n}."} for n in range(80)]
    gate = "[gate.tier2]\nrougeL = { floor = 0.0 }\n"
    only_phase(checkout, tiny, "phase2", "medical_chat", asked, "question", gate, 4)
    out = checkout.runpytest_subprocess("benchmarks", "-m", "phase2", "--prism-profile", "nano")
    out.assert_outcomes(passed=1)
    assert results(checkout)["verdict"] == "pass"


def test_finished_adapter_in_place_of_training(checkout):
    run(checkout)
    trained = results(checkout)["records"]
    folder = next((checkout.path / "home" / "adapters").glob("*/manifest.json")).parent
    change(checkout, 'profile  = "nano"', f'profile  = "nano"\nadapter = "{folder}"')
    out = run(checkout)
    out.assert_outcomes(passed=2, failed=1)
    loaded = results(checkout)["records"]
    assert [record["tuned"] for record in loaded] == [record["tuned"] for record in trained]


def test_two_workers_train_once_and_report_once(checkout):
    out = run(checkout, "-n", "2")
    out.assert_outcomes(passed=2, failed=1)
    assert results(checkout)["complete"] is True
    assert len(list((checkout.path / "home" / "adapters").glob("*/manifest.json"))) == 1
    assert len(list((checkout.path / "reports" / "runs").iterdir())) == 1


def start(checkout, *options):
    command = [sys.executable, "-m", "pytest", "benchmarks", "-m", "phase1", "--prism-profile", "nano", *options]
    return subprocess.Popen(
        command,
        cwd=checkout.path,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        # It is no worker of the tests' own run: a signal to its group would reach theirs.
        env={name: value for name, value in os.environ.items() if not name.startswith("PYTEST_XDIST")},
        # Of a shell's background job, the tests inherit that Ctrl-C is ignored.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),  # noqa: PLW1509
    )


def wait_for(checkout, pattern):
    for _ in range(1200):
        if any(checkout.path.glob(pattern)):
            return
        time.sleep(0.05)
    raise AssertionError(f"{pattern} never came")


def test_ctrl_c_while_training(checkout):
    change(checkout, "num_train_epochs = 2", "num_train_epochs = 60")
    process = start(checkout)
    wait_for(checkout, "home/adapters/*.partial/trainer/checkpoint-*/epoch_start.pth")
    process.send_signal(signal.SIGINT)
    output, _ = process.communicate(timeout=60)
    assert process.returncode == pytest.ExitCode.INTERRUPTED
    assert "the next run reuses the finished work in" in output
    assert not list(checkout.path.glob("home/adapters/*/manifest.json"))
    change(checkout, "num_train_epochs = 60", "num_train_epochs = 60 ")  # the same recipe, so the same digest
    run(checkout)
    manifest = next(checkout.path.glob("home/adapters/*/manifest.json"))
    assert json.loads(manifest.read_text())["notes"]["resumed_at"] > 0


def test_kill_while_the_report_is_written(checkout):
    run(checkout)
    latest = (checkout.path / "reports" / "latest").resolve()
    conftest = checkout.path / "conftest.py"
    whole = conftest.read_text()
    conftest.write_text(
        whole
        + "import os, signal\nimport prism.report\n"
        + "def half(folder, run, samples, store):\n"
        + "    (folder / 'results.json').write_text('{\"half')\n"
        + "    os.kill(os.getpid(), signal.SIGKILL)\n"
        + "prism.report.write = half\n"
    )
    process = start(checkout)
    process.communicate(timeout=120)
    assert process.returncode == -signal.SIGKILL
    assert (checkout.path / "reports" / "latest").resolve() == latest
    assert results(checkout)["complete"] is True
    conftest.write_text(whole)
    run(checkout)
    assert (checkout.path / "reports" / "latest").resolve() != latest
    visible = [path for path in (checkout.path / "reports" / "runs").iterdir() if not path.name.startswith(".")]
    assert len(visible) == 2


def test_reports_folder_that_cannot_be_written(checkout):
    (checkout.path / "reports").write_text("a file")
    out = run(checkout)
    assert out.ret == pytest.ExitCode.USAGE_ERROR, "before anything is trained"
    assert re.search(r"ERROR: .*reports.* set a writable folder with --prism-report", out.stderr.str())


def decided(**states):
    """The result of a run whose thresholds, by key, have these states."""
    verdicts = tuple(Verdict(key, 0.0, state, "") for key, state in states.items())
    record = replace(gate_record(), verdicts=verdicts)
    return Result("phase1", "tiny", "", "nano", (record,), {}, {}, tuple(f"tier1-accuracy-{key}" for key in states))


DECISIONS = {
    "a drop that is not decided": (
        {"floor": "holds", "drop": "inconclusive"},
        [],
        ("pass", "the one decided threshold holds; 1 of 2 thresholds is inconclusive"),
    ),
    "a decision that is required": (
        {"floor": "holds", "drop": "inconclusive"},
        ["decided"],
        ("fail", "1 of 2 thresholds is inconclusive, and --prism-require decided asks for a decision"),
    ),
    "nothing but a drop": (
        {"drop": "inconclusive"},
        [],
        ("pass", "no threshold fails, but 1 of 1 threshold is inconclusive"),
    ),
    "a gain must be shown": (
        {"floor": "holds", "gain": "inconclusive"},
        [],
        ("fail", "1 of 2 thresholds does not hold"),
    ),
    "a drop that fails": (
        {"floor": "holds", "drop": "fails", "gain": "holds"},
        [],
        ("fail", "1 of 3 thresholds does not hold"),
    ),
    "all decided": ({"floor": "holds", "drop": "holds"}, ["decided"], ("pass", "all 2 decided thresholds hold")),
}


@pytest.mark.parametrize(("states", "required", "expected"), DECISIONS.values(), ids=DECISIONS)
def test_an_inconclusive_drop_is_in_the_headline_and_fails_only_if_decisions_are_required(states, required, expected):
    assert verdict_of_run([decided(**states)], [], required) == expected


def test_a_judge_that_is_required_and_has_nothing_to_grade_is_no_pass(checkout):
    change(checkout, "gain = 0.9", "gain = -1.0")
    out = run(checkout, "--prism-require", "tier3")
    assert out.ret == pytest.ExitCode.TESTS_FAILED
    out.stdout.fnmatch_lines(["FAIL: tier 3 is required, but no selected spec has a tier-3 threshold"])


def test_own_csv_is_a_spec_and_nothing_else(checkout, tiny):
    lines = ["headline,tone"] + [f"Company {n} news,{['neutral', 'bullish', 'bearish'][n % 3]}" for n in range(160)]
    (checkout.path / "mine.csv").write_text("\n".join(lines))
    text = SPEC.format(data="./mine.csv", model=tiny)
    write_spec(
        checkout.path, text.replace("[data]", '[data]\ncolumns = { tweet = "headline", sentiment = "tone" }'), "mine"
    )
    out = run(checkout, "--prism-spec", "mine")
    out.assert_outcomes(passed=2, failed=1)
    assert results(checkout)["specs"][0]["spec"] == "mine"


def test_rows_of_the_hub_run_from_prism_data(checkout, tiny, rows):
    text = SPEC.format(data="somebody/tweets", model=tiny).replace("[data]", '[data]\nname = "tweets"')
    write_spec(checkout.path, text)
    skipped = run(checkout, "-rs")
    skipped.stdout.fnmatch_lines(["*its rows are not bundled; pass --prism-data DIR with the folder tweets/*"])
    write_rows(checkout.path / "sets" / "tweets" / "train.jsonl", rows)
    out = run(checkout, "--prism-data", "sets")
    out.assert_outcomes(passed=2, failed=1)


def test_collecting_costs_little(checkout):
    """Counted in imports, not in seconds: collecting must not load what only a run needs."""
    code = "import sys, pytest; pytest.main(['benchmarks', '--collect-only', '-q']); print(sorted(sys.modules))"
    done = subprocess.run(
        [sys.executable, "-c", code],
        cwd=checkout.path,
        capture_output=True,
        text=True,
        env=dict(os.environ),
        check=True,
    )
    loaded = set(re.findall(r"'([a-z_0-9]+)'", done.stdout.splitlines()[-1]))
    heavy = {"torch", "transformers", "sklearn", "scipy", "pandas", "pyarrow", "matplotlib", "datasets", "deepeval"}
    assert not loaded & heavy
