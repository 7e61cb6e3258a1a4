"""A reference from its acceptance to the verdict that it fails, on the tiny base: run, accept, run again, weaken, run."""

import json
import subprocess
import sys
import tomllib

import pytest

from prism.spec import load_spec
from prism.verdicts.accepted import ask_git
from tests.conftest import results
from tests.test_plugin import change, run
from tests.test_reference import commit


def prism(checkout, *words):
    command = [sys.executable, "-c", "from prism.cli import app; app()", *words]
    return subprocess.run(command, cwd=checkout.path, capture_output=True, text=True, check=False)


def drop_of(table):
    record = next(record for record in table["records"] if record["metric"] == "accuracy")
    return record, next(verdict for verdict in record["verdicts"] if verdict["key"] == "drop")


@pytest.mark.slow
def test_run_accept_run_again_weaken(checkout):
    change(checkout, "num_train_epochs = 2", "num_train_epochs = 6")
    change(checkout, "floor = 0.0, gain = 0.9", "floor = 0.0, drop = 0.05")
    first = run(checkout)
    assert first.ret == 0
    first.stdout.fnmatch_lines(["*drop ≤ .05 skipped: no accepted run for evaluation *; `prism accept` a run*"])
    assert "no commit is known" in prism(checkout, "accept").stderr

    (checkout.path / ".gitignore").write_text(
        "home/\nrunpytest-*\nstdout\nstderr\njunit.xml\nreports/runs/\nreports/latest\n.pytest_cache/\n__pycache__/\n"
    )
    ask_git(checkout.path, "init", "-q")
    commit(checkout.path, "recipe")
    run(checkout)  # from the store, but with a commit
    accepted = prism(checkout, "accept")
    assert accepted.returncode == 0, accepted.stderr
    [path] = (checkout.path / "reports" / "reference" / "phase1").iterdir()
    assert path.name in accepted.stdout

    run(checkout, "--junitxml=junit.xml")
    record, verdict = drop_of(results(checkout))
    assert verdict["state"] == "holds"
    assert record["reference"]["loss"]["value"] == 0
    assert results(checkout)["provenance"]["dirty"] is False, "a reference is no change of what is measured"
    assert '<property name="reference"' in (checkout.path / "junit.xml").read_text()
    commit(checkout.path, "reference")

    change(checkout, "learning_rate = 1e-2", "learning_rate = 1e-4")
    weak = run(checkout)
    weak.assert_outcomes(passed=2, failed=1)
    weak.stdout.fnmatch_lines(
        [
            "phase1/tiny accuracy drop ≤ .05 fails: these adapters differ? loss * is shown to exceed 0.05, p = *",
            f"accepted .* (phase1/{path.name}, 1 seed) → tuned *",
        ]
    )
    record, verdict = drop_of(results(checkout))
    assert verdict["state"] == "fails"
    assert record["reference"]["loss"]["value"] == pytest.approx(
        record["reference"]["value"] - record["tuned"]["value"]
    )
    assert 0.05 < verdict["detectable"] < 1
    report = (checkout.path / "reports" / "latest" / "report.md").read_text()
    assert "sft.learning\\_rate" in report or "sft.learning_rate" in report
    assert f"Since the accepted run right → wrong by accuracy: {min(20, record['reference']['worse'])} of" in report
    assert "Against the accepted run" in (checkout.path / "reports" / "latest" / "report.html").read_text()
    assert "it failed" in prism(checkout, "accept").stderr

    compared = prism(checkout, "compare", "git:HEAD", "reports/latest")
    assert compared.returncode == 1, compared.stderr
    assert "sft.learning_rate: 0.01 → 0.0001" in compared.stdout

    path.write_text(path.read_text().replace('"version":1', '"version":2', 1))
    run(checkout).stdout.fnmatch_lines(["phase1/tiny accuracy drop ≤ .05 fails: *was edited by hand or damaged*"])


@pytest.mark.slow
def test_accept_fresh_measures_new_seeds_and_a_reference_spends_its_alarms(checkout):
    change(checkout, "num_train_epochs = 2", "num_train_epochs = 6")
    change(checkout, "floor = 0.0, gain = 0.9", "floor = 0.0, drop = 0.05")
    (checkout.path / ".gitignore").write_text(
        "home/\nrunpytest-*\nstdout\nstderr\nreports/runs/\nreports/latest\n.pytest_cache/\n__pycache__/\n.cache/\n.config/\n"
    )
    ask_git(checkout.path, "init", "-q")
    commit(checkout.path, "recipe")
    run(checkout)
    run(checkout, "--prism-seeds", "43-43")
    picked = prism(checkout, "accept")
    assert "looks: 2 measurements since the last acceptance" in picked.stdout
    [path] = (checkout.path / "reports" / "reference" / "phase1").iterdir()
    path.unlink()

    accepted = prism(checkout, "accept", "--fresh")
    assert accepted.returncode == 0, accepted.stderr
    assert "phase1/tiny: measured anew with the seeds 44, 45" in accepted.stderr
    assert "looks" not in accepted.stdout
    content = json.loads(path.read_text())
    assert content["origin"]["looks"] == 1
    assert list(content["training"]["adapters"]) == ["44", "45"]
    assert results(checkout)["command"] == "prism accept reports/latest --fresh"
    assert results(checkout)["complete"] is True
    commit(checkout.path, "reference")

    run(checkout, "--prism-alarms", "reference")
    record, _ = drop_of(results(checkout))
    assert record["reference"]["alpha"] == pytest.approx(0.05 / 40)
    assert "Comparison 1 with it" in (checkout.path / "reports" / "latest" / "report.md").read_text()
    subprocess.run(["git", "clone", "-q", "--depth=1", f"file://{checkout.path}", checkout.path / "cut"], check=True)
    cut = checkout.runpytest_subprocess("--rootdir=cut", "cut/benchmarks", "--prism-alarms", "reference")
    cut.stderr.fnmatch_lines(["*this clone lacks a part of them*fetch-depth: 0*"])


@pytest.mark.slow
def test_thresholds_are_proposed_from_seeds_as_toml_that_a_spec_takes(checkout):
    path = checkout.path / "benchmarks" / "specs" / "phase1" / "tiny.toml"
    path.write_text(path.read_text().partition("[gate.tier1]")[0])
    few = prism(checkout, "thresholds", "tiny", "--seeds", "2")
    assert few.returncode == 2
    assert "needs at least 3 seeds" in few.stderr
    proposed = prism(checkout, "thresholds", "tiny", "--seeds", "3")
    assert proposed.returncode == 0, proposed.stderr
    assert "FAIL" not in proposed.stdout + proposed.stderr, "a spec without a gate has nothing to fail"
    assert tomllib.loads(proposed.stdout)["gate"]["tier1"] == {}, "40 rows and a base of noise support nothing"
    assert "# accuracy: these seeds support no floor or ceiling" in proposed.stdout
    assert "# accuracy drop: no loss can be distinguished from chance" in proposed.stdout
    path.write_text(path.read_text() + proposed.stdout)
    assert list(load_spec(path).limits()) == []
    assert not (checkout.path / "reports").exists(), "nothing is accepted from a proposal"

    folder = next((checkout.path / "home" / "adapters").glob("*/manifest.json")).parent
    change(checkout, 'profile  = "nano"', f'profile  = "nano"\nadapter = "{folder}"')
    finished = prism(checkout, "thresholds", "tiny")
    assert finished.returncode == 0, finished.stderr
    assert "# phase1/tiny: one adapter." in finished.stdout
