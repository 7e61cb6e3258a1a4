"""kill -9 right before each call that changes a file system: what is there afterwards is the old or the new, whole."""

import itertools
import json
import subprocess
import sys
import time

import pytest

from prism.judge.ledger import locked, read
from prism.store import MANIFEST, Store, lease, write_text
from prism.store.homes import open_store
from prism.store.keeping import contents
from prism.verdicts import looks
from prism.verdicts.scores import read_scores, write_scores
from tests.conftest import ROOT
from tests.faults.killing import ended_before, kill
from tests.scored import answers, scored, tiny_spec

IDENTITY = {"rows": "abc", "seed": 42}


def write(text):
    def work(folder):
        (folder / "sub").mkdir(exist_ok=True)
        (folder / "sub" / "weights").write_text(text)
        return {"said": text}

    return work


def kills(tmp_path, work):
    """The folders of kills before each call of the work, until it ends."""
    for number in itertools.count():
        folder = tmp_path / str(number)
        folder.mkdir()
        done = ended_before(number, lambda: work(folder))  # noqa: B023  # called at once
        yield folder
        if done:
            assert number > 3, "the work was killed several times"
            return


def test_an_artifact_that_is_made(tmp_path):
    for home in kills(tmp_path, lambda home: Store(home).make("adapters", IDENTITY, write("new"))):
        assert_whole(home, "new")


def test_an_artifact_that_is_made_again(tmp_path):
    def work(home):
        Store(home).make("adapters", IDENTITY, write("new"), again=True)

    for number in itertools.count():
        home = tmp_path / str(number)
        Store(home).make("adapters", IDENTITY, write("old"))
        done = ended_before(number, lambda: work(home))  # noqa: B023
        found = Store(home).find("adapters", IDENTITY)
        assert found is None or (found / "sub" / "weights").read_text() in ("old", "new")
        assert_whole(home, "new", again=True)
        if done:
            break


@pytest.mark.slow
def test_an_artifact_of_shared_storage(tmp_path, monkeypatch):
    """The same machine and another one end with it whole; what a killed one held is taken over."""
    monkeypatch.setattr(lease, "ASKED", 0.01)
    for folder in kills(tmp_path, lambda folder: machine(folder, "a").make("adapters", IDENTITY, write("new"))):
        for name in ("a", "b"):
            store = machine(folder, name)
            found = store.make("adapters", IDENTITY, write("new"))
            assert (found / "sub" / "weights").read_text() == "new"
        kept = [item.name for item in contents(store) if item.state != "leftover"]
        assert kept == [f"adapters/{found.name}.tar"], "and what `prism store gc` clears"


def machine(folder, name):
    return open_store(f"file://{folder}/storage", lambda sentence: None, str(folder / name))


def assert_whole(home, text, again=False):
    found = Store(home).make("adapters", IDENTITY, write(text), again=again)
    assert (found / "sub" / "weights").read_text() == text
    assert Store(home).find("adapters", IDENTITY) == found
    left = {path.name for path in (home / "adapters").iterdir()} - {found.name, f"{found.name}.lock"}
    assert not left, "the run after a kill clears what it left"


def test_a_file_that_is_replaced(tmp_path):
    def work(folder):
        write_text(folder / "run.json", "new")

    for number in itertools.count():
        folder = tmp_path / str(number)
        write_text(folder / "run.json", "old")
        done = ended_before(number, lambda: work(folder))  # noqa: B023
        assert (folder / "run.json").read_text() in ("old", "new")
        write_text(folder / "run.json", "after")
        assert [path.name for path in folder.iterdir()] == ["run.json"], "git add finds no half-written file"
        if done:
            break


def test_accepted_scores_and_looks(tmp_path):
    good = scored(tiny_spec(tmp_path), {42: answers(12)})

    def work(folder):
        write_scores(good, folder / "tiny@abababab.json")
        looks.record(good, Store(folder))

    for folder in kills(tmp_path / "kills", work) if (tmp_path / "kills").mkdir() is None else ():
        for path in folder.glob("tiny@*.json"):
            assert read_scores(path).ids == good.ids
        assert [look.seeds for look in looks.seen(good, Store(folder))] in ([], [[42]])
        looks.record(good, Store(folder))
        assert looks.count(good, Store(folder), "") == 1


def test_judgements_that_were_graded(tmp_path):
    """What the process was told to be stored is there."""

    def work(home):
        with locked(Store(home), {"judge": "a"}, "x") as log:
            for n in range(3):
                log.add(str(n), score=0.5, reason="é", note="", judge="m")
                (home / f"told-{n}").touch()

    for home in kills(tmp_path, work):
        told = {path.name.removeprefix("told-") for path in home.glob("told-*")}
        assert told <= read(Store(home), {"judge": "a"}).keys() <= {"0", "1", "2"}


def test_a_judgement_that_is_cut_off(tmp_path):
    store, identity = Store(tmp_path), {"judge": "a"}
    with locked(store, identity, "x") as log:
        for n in range(2):
            log.add(str(n), score=0.5, reason="é", note="", judge="m")
    [file] = tmp_path.glob("judgements/*/judgements.jsonl")
    whole = file.read_bytes()
    first = whole.index(b"\n") + 1
    for end in range(len(whole) + 1):
        file.write_bytes(whole[:end])
        with locked(store, identity, "x") as log:
            assert len(log.entries) == (end >= first) + (end == len(whole))
            log.add("1", score=0.5, reason="é", note="", judge="m")
        assert len(read(store, identity)) == 1 + (end >= first)


WORKER = """
import sys, time
from pathlib import Path
from prism.store import Store
def work(folder):
    with (folder / "log").open("a") as log: log.write("made\\n")
    time.sleep(0.5)
    return {}
store = Store(Path(sys.argv[1]), lambda sentence: print(sentence, flush=True))
while time.time() < float(sys.argv[2]): pass
folder = store.make("adapters", {"rows": "abc", "seed": 42}, work)
print((folder / "log").read_text().count("made"))
"""


@pytest.mark.parametrize("processes", [2, 8])
def test_processes_on_one_store_make_it_once_and_the_others_say_that_they_wait(tmp_path, processes):
    begin = str(time.time() + 1.5)
    command = [sys.executable, "-c", WORKER, str(tmp_path), begin]
    started = [
        subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, cwd=ROOT)
        for _ in range(processes)
    ]
    said = [process.communicate(timeout=120) for process in started]
    assert [err for _, err in said if err] == []
    assert all(out.splitlines()[-1] == "1" for out, _ in said), "made once"
    waited = sum("waiting for adapters/" in out for out, _ in said)
    assert waited >= 1
    assert json.loads((Store(tmp_path).find("adapters", IDENTITY) / MANIFEST).read_text())["files"].keys() == {"log"}


def test_the_lock_of_a_killed_process_is_no_lock(tmp_path):
    from tests.faults.killing import ended

    def work():
        Store(tmp_path).make("adapters", IDENTITY, lambda folder: kill())

    assert not ended(work)
    said = []
    Store(tmp_path, said.append).make("adapters", IDENTITY, write("new"))
    assert said == [], "nobody waits for the dead"
