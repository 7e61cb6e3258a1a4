"""Nothing half-written, nothing damaged, nothing made twice."""

import json
import os
import signal
import subprocess
import sys
import time

import pytest

from prism.errors import StoreError
from prism.store import MANIFEST, Store, digest, folder_digest, read_manifest
from tests.conftest import ROOT

IDENTITY = {"rows": "abc", "seed": 42}


def write(folder):
    (folder / "weights").write_text("the content")
    return {"seconds": 1.0}


def never(folder):
    raise AssertionError("made again")


def test_made_once_and_found_again(tmp_path):
    store = Store(tmp_path)
    assert store.find("adapters", IDENTITY) is None
    folder = store.make("adapters", IDENTITY, write)
    assert folder == store.make("adapters", IDENTITY, never) == store.find("adapters", IDENTITY)
    assert read_manifest(folder)["notes"] == {"seconds": 1.0}
    assert read_manifest(folder)["identity"] == IDENTITY


def test_again_makes_it_anew(tmp_path):
    store = Store(tmp_path)
    first = read_manifest(store.make("adapters", IDENTITY, write))
    second = read_manifest(store.make("adapters", IDENTITY, lambda f: {**write(f), "new": 1}, again=True))
    assert "new" not in first["notes"]
    assert "new" in second["notes"]


def test_another_identity_is_another_artifact(tmp_path):
    store = Store(tmp_path)
    assert store.make("adapters", IDENTITY, write) != store.make("adapters", {**IDENTITY, "seed": 43}, write)
    assert digest({"a": 1, "b": 2}) == digest({"b": 2, "a": 1}) != digest({"a": 2, "b": 1})


@pytest.mark.parametrize("damage", ["changed", "missing", "manifest"])
def test_damage_is_noticed_set_aside_and_made_again(tmp_path, damage):
    store = Store(tmp_path)
    folder = store.make("adapters", IDENTITY, write)
    if damage == "changed":
        (folder / "weights").write_text("the c0ntent")
    elif damage == "missing":
        (folder / "weights").unlink()
    else:
        (folder / MANIFEST).write_text("{")
    with pytest.warns(UserWarning, match=r"set aside as .*\.damaged-.* and made again"):
        again = store.make("adapters", IDENTITY, write)
    assert (again / "weights").read_text() == "the content"
    assert list(tmp_path.glob("adapters/*.damaged-*"))


def test_failed_work_leaves_nothing_that_could_be_taken_for_whole(tmp_path):
    store = Store(tmp_path)

    def fail(folder):
        (folder / "half").write_text("half")
        raise RuntimeError("out of luck")

    with pytest.raises(RuntimeError):
        store.make("adapters", IDENTITY, fail)
    assert store.find("adapters", IDENTITY) is None

    def resume(folder):
        assert (folder / "half").read_text() == "half"
        return write(folder)

    store.make("adapters", IDENTITY, resume)


def test_full_disk(tmp_path):
    def fill(folder):
        (folder / "weights").symlink_to("/dev/full")
        with (folder / "weights").open("w") as file:
            file.write("x" * 100_000)
        return {}

    with pytest.raises(
        StoreError, match=r"the disk is full \(.* GiB free\); free some space or set another --prism-home"
    ):
        Store(tmp_path).make("adapters", IDENTITY, fill)
    assert Store(tmp_path).find("adapters", IDENTITY) is None


def test_home_that_cannot_be_written(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(StoreError, match="--prism-home"):
        Store(tmp_path / "file" / "home").make("adapters", IDENTITY, write)


WORKER = """
import sys, time
from pathlib import Path
from prism.store import Store
def work(folder):
    with (folder / "log").open("a") as log: log.write("made\\n")
    print("working", flush=True)
    time.sleep(float(sys.argv[2]))
    return {}
folder = Store(Path(sys.argv[1])).make("adapters", {"rows": "abc", "seed": 42}, work)
print((folder / "log").read_text().count("made"))
"""


def start(home, seconds):
    command = [sys.executable, "-c", WORKER, str(home), str(seconds)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, cwd=ROOT)


def test_two_processes_make_it_once_and_the_second_says_that_it_waits(tmp_path):
    first = start(tmp_path, 1.5)
    assert first.stdout.readline() == "working\n"
    second = start(tmp_path, 0)
    out, err = second.communicate(timeout=60)
    assert out == "1\n"
    assert "waiting for adapters/" in err
    assert first.wait(60) == 0


def test_killed_writer(tmp_path):
    writer = start(tmp_path, 60)
    assert writer.stdout.readline() == "working\n"
    writer.send_signal(signal.SIGKILL)
    writer.wait()
    store = Store(tmp_path)
    assert store.find("adapters", IDENTITY) is None
    began = time.monotonic()
    folder = store.make("adapters", IDENTITY, write)  # the dead process's lock is no lock
    assert time.monotonic() - began < 5
    assert (folder / "log").read_text() == "made\n"  # what it left is where the next one goes on


def test_folder_digest_knows_names_and_bytes_not_the_place(tmp_path):
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "x").write_text("1")
    assert folder_digest(tmp_path / "a") == folder_digest(tmp_path / "b")
    os.rename(tmp_path / "b" / "x", tmp_path / "b" / "y")
    assert folder_digest(tmp_path / "a") != folder_digest(tmp_path / "b")


def test_manifest_is_readable_by_people(tmp_path):
    text = (Store(tmp_path).make("adapters", IDENTITY, write) / MANIFEST).read_text()
    assert json.loads(text)["kind"] == "adapters"
    assert text.count("\n") > 5
