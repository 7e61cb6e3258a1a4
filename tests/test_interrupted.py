"""Ctrl-C and SIGTERM at any stage: exit code 2, one sentence, no traceback, a whole report or none, nothing left over."""

import errno
import os
import re
import shutil
from xml.etree import ElementTree

import pytest
from typer.testing import CliRunner

from prism.cli import app
from tests.conftest import results
from tests.test_plugin import run, start

INTERRUPT = """
import asyncio, os, signal, time

if "PYTEST_XDIST_WORKER" not in os.environ:
    os.setpgrp()  # a terminal sends Ctrl-C to the run and its workers

def once():
    if not hasattr(once, "done"):
        once.done = True
        os.kill(0, signal.{signal})

def interrupt(*_, **__):
    once()
    time.sleep(30)

async def interrupt_judging(*_, **__):
    once()
    await asyncio.sleep(30)
"""
KEPT = "the next run reuses the finished work in"
JUDGE = ("--prism-judge", "http://127.0.0.1:9/v1#none")
STAGES = {  # in the order of a run, so that each is reached after what came before is stored
    "collecting": "prism.plugin.session.Session.all_specs = interrupt",
    "baseline": "prism.models.generate.answers = interrupt",
    "judging": "prism.judge.grading._judgement = interrupt_judging",
    "scoring": "prism.experiment.score = interrupt",
    "report": "prism.report.write = interrupt",
    "JUnit": "_pytest.junitxml.LogXML.pytest_sessionfinish = interrupt",
    "summary": "prism.report.terminal.lines = interrupt",
}


@pytest.fixture
def interrupted(checkout):
    """A function that runs the checkout and interrupts it where a line of Python says, and returns what was printed."""
    conftest = checkout.path / "conftest.py"
    whole = conftest.read_text()

    def interrupt(patch, *options, by="SIGINT"):
        module = re.match(r"[a-z._]+(?=\.)", patch)[0]
        conftest.write_text(f"{whole}\nimport {module}\n{INTERRUPT.format(signal=by)}\n{patch}\n")
        process = start(checkout, *options)
        output, _ = process.communicate(timeout=120)
        conftest.write_text(whole)
        assert process.returncode == pytest.ExitCode.INTERRUPTED, output
        assert "Traceback" not in output
        assert "INTERNALERROR" not in output
        return output

    return interrupt


def leftovers(checkout):
    reports = checkout.path / "reports"
    return [path.name for folder in (reports, reports / "runs") for path in folder.glob(".*")]


@pytest.mark.slow
def test_ctrl_c_in_every_stage_keeps_what_is_finished(checkout, interrupted):
    junit = checkout.path / "junit.xml"
    for stage, patch in STAGES.items():
        output = interrupted(patch, f"--junitxml={junit}", *(JUDGE if stage == "judging" else ()))
        assert KEPT in output or stage == "summary", (stage, output)
        assert not leftovers(checkout), stage
        assert (checkout.path / "reports" / "latest").exists() == (stage == "summary")
        assert junit.exists() == (stage != "JUnit")
        if junit.exists():
            ElementTree.parse(junit)
    run(checkout)
    assert results(checkout)["complete"] is True


@pytest.mark.parametrize("by", ["SIGINT", "SIGTERM"])
def test_the_former_report_stays_while_the_next_is_written(checkout, interrupted, by):
    run(checkout)
    before = (checkout.path / "reports" / "latest").resolve()
    for patch in ("prism.report.write = interrupt", "prism.report.page.render = interrupt"):
        output = interrupted(patch, by=by)
        assert f"no report was written; reports{os.sep}latest is older; {KEPT}" in output
        assert (checkout.path / "reports" / "latest").resolve() == before
        assert [path.name for path in (checkout.path / "reports" / "runs").iterdir()] == [before.name]


def test_a_report_that_is_in_its_place_is_the_latest(checkout, interrupted):
    output = interrupted("prism.plugin.results.point_latest = interrupt")
    assert "no report was written" not in output
    assert len(list((checkout.path / "reports" / "runs").iterdir())) == 1


def test_workers_are_interrupted_with_the_run(checkout, interrupted):
    output = interrupted("prism.report.write = interrupt", "-n", "2")
    assert f"no report was written; {KEPT}" in output
    output = interrupted("prism.experiment.measured = interrupt", "-n", "2", "--prism-retrain")  # scores are kept
    assert KEPT in output


def test_what_a_killed_run_left_is_cleared(checkout):
    """Of this machine and a dead process; another machine's process ids say nothing here."""
    from prism.plugin.results import MACHINE

    process = start(checkout, "--collect-only")
    process.communicate(timeout=60)
    runs = checkout.path / "reports" / "runs"
    dead = runs / f".20260102-030405-{process.pid:x}@{MACHINE}"
    others = runs / f".20260102-030405-{process.pid:x}@elsewhere", runs / f".20260102-030405-{os.getpid():x}@{MACHINE}"
    for folder in (dead, *others):
        (folder / "results").mkdir(parents=True)
    link = checkout.path / "reports" / f".latest-{MACHINE}-{process.pid}"
    link.symlink_to(dead)
    run(checkout)
    assert not dead.exists()
    assert not link.is_symlink()
    assert all(folder.exists() for folder in others)
    shutil.rmtree(runs)


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (KeyboardInterrupt(), "prism: interrupted; what was finished is in the store"),
        (
            OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), "a/b"),
            "prism: a/b: No space left on device; free some space",
        ),
    ],
)
def test_a_command_that_is_interrupted_or_cannot_write_has_exit_code_2(tmp_path, monkeypatch, error, said):
    """And not 1, which `prism compare` has for a loss."""

    def stop(*_):
        raise error

    monkeypatch.setattr("prism.verdicts.accepted.gather_scores", stop)
    shown = CliRunner().invoke(app, ["compare", "a", "b", "--root", str(tmp_path)])
    assert shown.exit_code == 2
    assert said in shown.output
