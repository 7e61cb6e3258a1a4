"""A newcomer's phase, as CONTRIBUTING describes it: a task, a benchmark file and a spec, and nothing else is edited."""

import shutil
import sys

from tests.conftest import ROOT, SPEC, results, write_rows

TASK = '''
"""Does a ticket ask for a refund? Rows: `text` and `refund` (yes or no), written for this test."""

from prism.metrics import classification
from prism.rows import Example

VERSION = 1
COLUMNS = ("text", "refund")
LABELS = ("no", "yes")


def example(row, id):
    return Example(id, ({"role": "user", "content": f"Refund? {row['text']}"},), row["refund"], group=id)


def parse(answer):
    return next((label for label in LABELS if answer.strip().lower() == label), None)


METRICS = classification.metrics(LABELS, parse)
'''
BENCHMARK = '''
"""Support desk: does LoRA teach a small model which tickets ask for a refund?"""

import pytest

pytestmark = pytest.mark.support


def test_thresholds(spec, threshold, run):
    run.check(threshold)
'''


def project(checkout, tiny):
    """PRISM's own package in a project of its own, with three new files."""
    shutil.copytree(ROOT / "prism", checkout.path / "prism", ignore=shutil.ignore_patterns("__pycache__"))
    (checkout.path / "prism" / "tasks" / "refunds.py").write_text(TASK)
    (checkout.path / "benchmarks" / "test_support_refunds.py").write_text(BENCHMARK)
    rows = [{"text": f"ticket {n}", "refund": ("no", "yes")[n % 2]} for n in range(160)]
    data = write_rows(checkout.path / "tickets" / "train.jsonl", rows)
    spec = SPEC.format(data=data, model=tiny).replace("financial_sentiment", "refunds").replace("sentiment", "refund")
    folder = checkout.path / "benchmarks" / "specs" / "support"
    folder.mkdir()
    (folder / "first.toml").write_text(spec)
    shutil.copytree(ROOT / "fixtures", checkout.path / "fixtures", ignore=lambda folder, names: {*names} - {"run.py"})


def test_a_phase_is_three_new_files_whatever_its_folder_is_called(checkout, tiny, monkeypatch):
    project(checkout, tiny)
    monkeypatch.setenv("PYTHONPATH", str(checkout.path))
    out = checkout.runpytest_subprocess("benchmarks", "-m", "support", "--prism-profile", "nano", "--strict-markers")
    out.assert_outcomes(passed=2, failed=1)  # the gain of .9 is out of reach
    assert [(spec["phase"], spec["spec"]) for spec in results(checkout)["specs"]] == [("support", "first")]
    chosen = checkout.runpytest_subprocess("benchmarks", "--collect-only", "-q", "--prism-spec", "support/first")
    assert sum("::test_thresholds[first-" in line for line in chosen.outlines) == 3
    listed = checkout.run(sys.executable, "-m", "prism", "specs")
    listed.stdout.fnmatch_lines(["yes *support/first *"])


def test_a_spec_of_no_known_phase_is_said_to_be_missing_and_one_of_any_folder_is_not(checkout):
    folder = checkout.path / "benchmarks" / "specs"
    shutil.copytree(folder / "phase1", folder / "phase8")
    found = checkout.runpytest_subprocess("benchmarks", "--collect-only", "-q", "--prism-spec", "phase8/tiny")
    assert found.ret != 4, found.stderr.str()
    missing = checkout.runpytest_subprocess("benchmarks", "--collect-only", "-q", "--prism-spec", "phase9/tiny")
    missing.stderr.fnmatch_lines(
        ["ERROR: --prism-spec phase9/tiny: no such spec; `prism specs` lists those that exist"]
    )


def test_a_test_without_its_phases_mark_is_told_which_there_are(checkout):
    (checkout.path / "benchmarks" / "test_support_refunds.py").write_text(BENCHMARK.replace("support", "phase1"))
    text = (checkout.path / "benchmarks" / "test_support_refunds.py").read_text()
    (checkout.path / "benchmarks" / "test_support_refunds.py").write_text(text.replace("pytestmark", "unused"))
    out = checkout.runpytest_subprocess("benchmarks", "--collect-only", "-q")
    assert "uses `spec` without a phase mark" in out.stdout.str() + out.stderr.str()
