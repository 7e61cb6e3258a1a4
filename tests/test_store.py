"""Nothing half-written, nothing damaged, nothing made twice."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time

import pytest

from prism.errors import StoreError
from prism.rows.answers import ANSWERS, finished_ids
from prism.store import MANIFEST, Store, digest, folder_digest, read_manifest, write_text
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


def test_again_makes_it_anew_whatever_the_clock_says(tmp_path):
    store = Store(tmp_path)
    folder = store.make("adapters", IDENTITY, write)
    os.utime(folder / MANIFEST, (time.time() + 1e6, time.time() + 1e6))
    made = store.make("adapters", IDENTITY, lambda f: {**write(f), "new": 1}, again=True)
    assert "new" in read_manifest(made)["notes"]


def test_kill_before_the_rename_costs_nothing(tmp_path, monkeypatch):
    """What lacks only its last step is taken; what has a manifest that does not fit is completed."""
    store = Store(tmp_path)
    partial = store.make("adapters", IDENTITY, write)
    os.replace(partial, partial.with_suffix(".partial"))
    assert (store.make("adapters", IDENTITY, never) / "weights").exists()

    folder = store.make("adapters", {"seed": 1}, write).rename(tmp_path / "adapters" / "other")
    os.replace(folder, tmp_path / "adapters" / f"{digest({'seed': 2})}.partial")
    found = store.make("adapters", {"seed": 2}, write)
    assert read_manifest(found)["files"].keys() == {"weights"}
    assert store.find("adapters", {"seed": 2}) == found


def test_a_stored_file_has_the_mode_of_the_umask(tmp_path):
    def private(folder):
        (folder / "sub").mkdir(mode=0o700)
        (folder / "sub" / "weights").touch(mode=0o600)
        return {}

    before = os.umask(0o022)
    try:
        folder = Store(tmp_path).make("adapters", IDENTITY, private)
    finally:
        os.umask(before)
    modes = [oct(path.stat().st_mode & 0o777) for path in (folder / "sub", folder / "sub" / "weights")]
    assert modes == ["0o755", "0o644"]


def test_what_a_killed_writer_left_is_cleared(tmp_path):
    script = "import os, sys; from pathlib import Path; from prism import store; os.replace = lambda *_: os._exit(9); "
    script += "store.write_text(Path(sys.argv[1]), 'half')"
    subprocess.run([sys.executable, "-c", script, str(tmp_path / "run.json")], cwd=ROOT, check=False)
    assert len(list(tmp_path.iterdir())) == 1
    write_text(tmp_path / "run.json", "whole")
    assert [path.name for path in tmp_path.iterdir()] == ["run.json"]


@pytest.mark.parametrize(
    "rest", ["é".encode()[:1], b'{"id": "c", "answer": "\xc3', b'{"x": 1}\n', b"[1]\n", b'{"id": 3}\n', b"[" * 100_000]
)
def test_answers_resume_after_the_last_whole_line(tmp_path, rest):
    whole = '{"id": "a"}\n{"id": "b", "answer": "é"}\n'.encode()
    (tmp_path / ANSWERS).write_bytes(whole + rest)
    assert finished_ids(tmp_path / ANSWERS) == {"a", "b"}
    assert (tmp_path / ANSWERS).read_bytes() == whole


def test_another_identity_is_another_artifact(tmp_path):
    store = Store(tmp_path)
    assert store.make("adapters", IDENTITY, write) != store.make("adapters", {**IDENTITY, "seed": 43}, write)
    assert digest({"a": 1, "b": 2}) == digest({"b": 2, "a": 1}) != digest({"a": 2, "b": 1})


def damage_of(kind, store, folder):
    if kind == "changed":
        (folder / "weights").write_text("the c0ntent")
    elif kind == "missing":
        (folder / "weights").unlink()
    elif kind == "added":
        (folder / "model.safetensors").write_text("another's")
    elif kind == "no manifest":
        (folder / MANIFEST).unlink()
    elif kind == "a folder":
        (folder / MANIFEST).unlink()
        (folder / MANIFEST).mkdir()
    elif kind == "another recipe's":
        shutil.rmtree(folder)
        shutil.copytree(store.make("adapters", {**IDENTITY, "seed": 43}, write), folder)
    elif kind == "another kind's":
        shutil.rmtree(folder)
        shutil.copytree(store.make("predictions", IDENTITY, write), folder)
    else:
        manifest = read_manifest(folder)
        text = {
            "half": "{",
            "no file": json.dumps(manifest | {"files": {}}),
            "a list": "[]",
            "files as a list": json.dumps(manifest | {"files": ["weights"]}),
            "deep": "[" * 100_000,
            "long": json.dumps(manifest).replace("1.0", "9" * 5_000),
        }[kind]
        (folder / MANIFEST).write_text(text)


DAMAGE = """changed missing added no-manifest a-folder another-recipe's another-kind's half no-file a-list files-as-a-list
deep long"""


@pytest.mark.parametrize("damage", [name.replace("-", " ") for name in DAMAGE.split()])
def test_damage_is_noticed_set_aside_and_made_again(tmp_path, damage):
    store = Store(tmp_path)
    folder = store.make("adapters", IDENTITY, write)
    damage_of(damage, store, folder)
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
