"""Checks that passed are not made again while nothing has changed that they depend on."""

import re
import shutil

import pytest

from tests.conftest import ROOT, SPEC, replace_phase1

CHECKS = """
from pathlib import Path

import pytest

pytestmark = [pytest.mark.phase1, pytest.mark.remembered]


def made(name):
    with Path("made.txt").open("a") as file:
        print(name, file=file)
    print("looked at", name)


def test_of_the_machine():
    made("machine")


def test_of_a_spec(spec, experiment):
    made("spec")


def test_that_skips(spec):
    made("skips")
    pytest.skip("not here")


def test_that_fails():
    made("fails")
    assert Path("mended").exists()
"""
ALL, NOT_KEPT = ["fails", "machine", "skips", "spec"], ["fails", "skips"]


@pytest.fixture
def checks(checkout):
    """A checkout whose phase 1 is checks; calling it runs them and returns which were made, and the lines of the run."""
    (checkout.path / "benchmarks" / "test_phase1_financial_sentiment.py").unlink()
    (checkout.path / "benchmarks" / "test_phase1_checks.py").write_text(CHECKS)
    log = checkout.path / "made.txt"

    def run(*options):
        log.write_text("")
        found = checkout.runpytest_subprocess("benchmarks", "--prism-profile", "nano", "-rP", *options)
        return sorted(log.read_text().split()), found

    return run


def test_a_check_that_passed_is_told_with_what_it_printed_and_when(checks):
    made, first = checks()
    assert made == ALL
    first.assert_outcomes(passed=2, failed=1, skipped=1)
    assert "as checked on" not in first.stdout.str()
    made, second = checks()
    assert made == NOT_KEPT
    second.assert_outcomes(passed=2, failed=1, skipped=1)
    told = re.findall(r"looked at (\w+)\nas checked on \d{4}-\d\d-\d\d \d\d:\d\d\n", second.stdout.str())
    assert sorted(told) == ["machine", "spec"]
    assert checks("--prism-retrain")[0] == ALL
    assert checks()[0] == NOT_KEPT


def test_what_was_mended_passes_and_is_then_remembered(checks, checkout):
    checks()
    (checkout.path / "mended").write_text("")
    assert checks()[0] == NOT_KEPT
    assert checks()[0] == ["skips"]


def of_the_check(path, monkeypatch):
    file = path / "benchmarks" / "test_phase1_checks.py"
    file.write_text(file.read_text() + "\n# Another check.\n")


def of_what_is_installed(path, monkeypatch):
    (path / "lib" / "something-2.0.dist-info").mkdir(parents=True)
    monkeypatch.setenv("PYTHONPATH", f"{ROOT}:{path / 'lib'}")


def of_threads(path, monkeypatch):
    monkeypatch.setenv("OMP_NUM_THREADS", "2")


@pytest.mark.parametrize("change", [of_the_check, of_what_is_installed, of_threads])
def test_a_change_makes_every_check_anew(checks, checkout, monkeypatch, change):
    checks()
    change(checkout.path, monkeypatch)
    assert checks()[0] == ALL


def of_a_spec(path):
    file = path / "benchmarks" / "specs" / "phase1" / "tiny.toml"
    file.write_text(file.read_text().replace("r = 4", "r = 2"))


def of_rows(path):
    file = path / "data" / "train.jsonl"
    file.write_text(file.read_text().replace("Company 1 ", "Firm 1 "))


def of_a_base(path):
    file = path / "base" / "generation_config.json"
    file.write_text(file.read_text() + " ")


@pytest.mark.parametrize("change", [of_a_spec, of_rows, of_a_base])
def test_a_change_of_what_is_measured_makes_those_anew_that_measure(checks, checkout, tiny, change):
    shutil.copytree(tiny, checkout.path / "base")
    file = checkout.path / "benchmarks" / "specs" / "phase1" / "tiny.toml"
    file.write_text(file.read_text().replace(str(tiny), str(checkout.path / "base")))
    checks()
    change(checkout.path)
    assert checks()[0] == ["fails", "skips", "spec"]


BLOCKED = """
import sys
for name in ("torch", "transformers", "datasets", "peft", "trl", "deepeval"):
    sys.modules[name] = None
sys.executable = "no-python"
"""


@pytest.mark.slow
def test_phase_0_that_is_remembered_imports_no_model_library_and_starts_no_python(checkout, tiny):
    ten = {"num_train_epochs = 2": "max_steps = 10", "eval_rows = 40": "eval_rows = 8"}
    text = SPEC.format(data=checkout.path / "data" / "train.jsonl", model=tiny).partition("[gate.tier1]")[0]
    for old, new in ten.items():
        assert old in text
        text = text.replace(old, new)
    replace_phase1(checkout, "test_phase0_environment.py", text)
    shutil.copy(ROOT / "pyproject.toml", checkout.path)

    def run(*options):  # not the check of answers: the tiny base's may never end
        whole = "loss or lora or loads or adapter or deepeval or version"
        found = checkout.runpytest_subprocess("benchmarks", "--prism-profile", "nano", "-rP", "-k", whole, *options)
        outcomes = found.parseoutcomes()
        return {name: outcomes.get(name, 0) for name in ("passed", "failed", "skipped", "errors")}, found

    first, _ = run()
    assert first["passed"] == sum(first.values())
    conftest = checkout.path / "conftest.py"
    conftest.write_text(conftest.read_text() + BLOCKED)
    again, found = run()
    assert again == first
    assert found.stdout.str().count("as checked on") == 5
    anew, _ = run("--prism-retrain")
    assert anew["failed"] == 5, "what was blocked is what the checks need"
