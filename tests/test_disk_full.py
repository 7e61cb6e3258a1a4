"""A disk that is full at any stage of a run: one sentence with the folder and the remedy, and nothing half-written."""

import errno
import os
import subprocess
from pathlib import Path
from xml.etree import ElementTree

import pytest

from prism.errors import SpecError
from prism.judge import ledger
from prism.store import Store, StoreError, disk_fault
from tests.conftest import results
from tests.test_plugin import run

FULL = """
import contextlib, pathlib

def full(call):
    def filled(*given, **options):
        with contextlib.suppress(OSError), pathlib.Path("disk", "ballast").open("ab", buffering=0) as file:
            while True:
                file.write(bytes(1 << 16))
        return call(*given, **options)
    return filled
"""
STAGES = {  # in the order of a run; what is full is said by the option that moves it
    "answers": ("import prism.models.generate as place", "finished_ids", "--prism-home"),
    "adapter": ("from peft import PeftModel as place", "save_pretrained", "--prism-home"),  # of the first checkpoint
    "checkpoint": ("import torch as place", "save", "--prism-home"),
    "samples": ("import prism.plugin.results as place", "write_scores", "--prism-report"),
    "report": ("import prism.report as place", "write", "--prism-report"),
}


@pytest.fixture
def disk():
    """A file system of 64 MiB; a function of its folder mounts it."""
    mounted = []

    def mount(folder):
        folder.mkdir()
        made = subprocess.run(
            ["mount", "-t", "tmpfs", "-o", "size=64m", "tmpfs", str(folder)],
            capture_output=True,
            text=True,
            check=False,
        )
        if made.returncode:
            pytest.skip(f"no file system of 64 MiB can be mounted here: {made.stderr.strip()}")
        mounted.append(folder)
        return folder

    yield mount
    for folder in mounted:
        subprocess.run(["umount", "--lazy", str(folder)], check=False)


@pytest.mark.slow
def test_a_full_disk_is_one_sentence_at_every_stage(checkout, disk, monkeypatch):
    folder = disk(checkout.path / "disk")
    monkeypatch.setenv("PRISM_HOME", str(folder / "home"))
    conftest = checkout.path / "conftest.py"
    whole = conftest.read_text()
    options = ("--prism-report=disk/reports", "--junitxml=disk/junit.xml")
    for stage, (place, name, option) in STAGES.items():
        conftest.write_text(f"{whole}\n{FULL}\n{place}\nplace.{name} = full(place.{name})\n")
        out = run(checkout, *options)
        said = out.stdout.str() + out.stderr.str()
        assert out.ret == pytest.ExitCode.TESTS_FAILED, (stage, said)
        assert f"free some space or set another {option}" in said, (stage, said)
        assert "Traceback" not in said
        assert "INTERNALERROR" not in said
        assert not (folder / "reports" / "latest").exists()
        assert not list(folder.glob("reports/runs/.*")), stage
        (folder / "ballast").unlink()
    conftest.write_text(whole)
    out = run(checkout, *options)
    assert "set aside" not in out.stdout.str(), "nothing half-written was taken for whole"
    (checkout.path / "reports").symlink_to(folder / "reports")
    assert results(checkout)["complete"] is True
    assert ElementTree.parse(folder / "junit.xml")


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="there is no /dev/full here")
def test_junit_on_a_full_disk_costs_no_report(checkout):
    out = run(checkout, "--junitxml=/dev/full", "-k", "floor")
    assert out.ret == pytest.ExitCode.TESTS_FAILED
    out.stdout.fnmatch_lines("prism: no JUnit XML was written: /dev: the disk is full*set another --junitxml")
    assert "Traceback" not in out.stdout.str() + out.stderr.str()
    assert results(checkout)["verdict"] == "pass"
    assert Path("/dev/full").exists()


def test_judgements_on_a_full_disk_are_one_sentence_and_the_next_run_reads_the_whole_lines(tmp_path, disk):
    store = Store(disk(tmp_path / "disk") / "home")

    def judge():
        with ledger.locked(store, {"judge": "a"}, "a") as log:
            for n in range(100_000):
                log.add(str(n), score=1.0, reason="b" * 1_000)

    with pytest.raises(StoreError, match="the disk is full"):
        judge()
    kept = ledger.read(store, {"judge": "a"})
    assert list(kept) == [str(n) for n in range(len(kept))]
    assert len(kept) > 1_000


def numbered(number):
    return OSError(number, os.strerror(number), "a")


class SafetensorError(Exception):
    pass


@pytest.mark.parametrize(
    ("error", "number"),
    [
        (numbered(errno.ENOSPC), errno.ENOSPC),
        (numbered(errno.ESTALE), errno.ESTALE),
        (SafetensorError("Error while serializing: I/O error: No space left on device (os error 28)"), errno.ENOSPC),
        (SafetensorError("I/O error: Read-only file system (os error 30)"), errno.EROFS),
        (RuntimeError("basic_ios::clear: iostream error"), errno.ENOSPC),
        (RuntimeError("write(): fd 3 failed with No space left on device"), errno.ENOSPC),
        (
            RuntimeError("[enforce fail] . PytorchStreamWriter failed writing file data/0: file write failed"),
            errno.ENOSPC,
        ),
        (RuntimeError("CUDA out of memory"), None),
        (SafetensorError("No such file or directory (os error 2)"), None),
        (OSError("a is no folder of a model"), None),
        (SpecError("a"), None),
    ],
)
def test_the_system_s_error_is_found_behind_a_library_s(error, number):
    found = disk_fault(error)
    assert (found.errno if found else None) == number


def test_the_system_s_error_is_found_behind_the_one_that_hides_it():
    error = RuntimeError("[enforce fail at inline_container.cc:672] . unexpected pos 704 vs 598")
    error.__context__ = numbered(errno.EDQUOT)  # torch's, of a file that Python writes
    assert disk_fault(error).errno == errno.EDQUOT


def test_what_a_library_raises_for_a_full_disk_is_a_sentence_of_the_store(tmp_path):
    def work(folder):
        raise SafetensorError("I/O error: No space left on device (os error 28)")

    with pytest.raises(StoreError, match="the disk is full .* set another --prism-home"):
        Store(tmp_path).make("adapters", {"a": 1}, work)
    assert not list(tmp_path.rglob("manifest.json"))
