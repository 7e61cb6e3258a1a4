"""`prism store`: what is listed, cleared, verified and copied, of folders and URLs alike."""

import json
import os
import threading
import time

import pytest
from typer.testing import CliRunner

from prism.cli import app
from prism.errors import StoreError
from prism.judge import ledger
from prism.store import Store, digest, keeping, write_text
from prism.store.homes import open_store
from tests.test_shared import IDENTITY, NAME, broken, empty, machine, never, write  # noqa: F401  # fixtures

JUDGE = {"judge": "a"}
KINDS = ["folder", "memory", "file"]


def address(kind, tmp_path, name="one"):
    return {
        "folder": str(tmp_path / name),
        "memory": f"memory://bucket/{name}",
        "file": f"file://{tmp_path}/{name}-storage",
    }[kind]


@pytest.fixture(params=KINDS)
def home(request, tmp_path, monkeypatch):
    """The address of a store with three artifacts, one of them unfinished, a look and judgements."""
    monkeypatch.setenv("PRISM_CACHE", str(tmp_path / "cache"))
    home = address(request.param, tmp_path)
    fill(open_store(home))
    return home


def fill(store):
    store.make("adapters", IDENTITY, write)
    store.make("tables", {"a": 1}, write)

    def fail(folder):
        (folder / "half").write_text("half")
        store.keep(folder)
        raise RuntimeError

    with pytest.raises(RuntimeError):
        store.make("predictions", {"b": 1}, fail)
    look = store.home / "evaluations" / "phase1" / "nano@12345678" / "a.json"
    write_text(look, "{}")
    store.share(look)


def prism(*words):
    return CliRunner().invoke(app, ["store", *words])


def age(store, name, days):
    """As if something was written and last used long ago."""
    then = time.time() - 86_400 * days
    if store.shared is None:
        os.utime(store.home / name, (then, then))
        return
    files, path = store.shared.remote._files, store.shared.remote._path(name)
    if getattr(files, "local_file", False):
        os.utime(path, (then, then))
    else:
        from datetime import UTC, datetime

        files.store[path].created = datetime.fromtimestamp(then, UTC)


def stored(home, kind="whole"):
    return {item.artifact: item for item in keeping.contents(open_store(home)) if item.state == kind}


def test_ls_counts_by_kind(home):
    done = prism("ls", "--home", home)
    assert done.exit_code == 0, done.output
    rows = {line.split()[0]: line.split()[1:5] for line in done.output.splitlines() if line and line[0] != "-"}
    assert rows["adapters"] == rows["tables"] == ["1", "0", "0", "0"]
    assert rows["predictions"] == ["0", "0", "1", "0"]
    assert rows["evaluations"] == ["0", "1", "0", "0"]
    assert rows["total"] == ["2", "1", "1", "0"]


def test_ls_of_a_kind_says_whose_each_is(home, tmp_path):
    from tests.test_report import made_up_run

    run = made_up_run()
    from dataclasses import replace

    from prism.report import write as write_report

    run = replace(
        run, results=[replace(run.results[0], details={**run.results[0].details, "artifacts": {"training": NAME}})]
    )
    write_report(tmp_path / "reports" / "runs" / "20260101-000000-x", run, {}, None)
    done = prism("ls", "adapters", "--home", home, "--reports", str(tmp_path / "reports"))
    assert digest(IDENTITY)[:16] in done.output
    assert f"{run.results[0].id}, training" in done.output


def test_ls_of_a_kind_that_is_not_there(home):
    done = prism("ls", "adaptors", "--home", home)
    assert done.exit_code == 2
    assert "holds no 'adaptors', but adapters, evaluations, predictions, tables" in done.output


def test_verify_passes_a_whole_store_and_names_what_is_damaged(home):
    assert prism("verify", "--home", home).exit_code == 0
    store = open_store(home)
    if store.shared:
        whole = store.shared.remote.read(f"{NAME}.tar")
        store.shared.remote.write(f"{NAME}.tar", whole.replace(b"the content", b"the c0ntent"), replace=True)
    else:
        (store.home / NAME / "weights").write_text("the c0ntent")
    done = prism("verify", "--home", home)
    assert done.exit_code == 1
    assert f"{NAME}: damaged (" in done.output
    assert "weights: the file has changed since it was stored" in done.output
    assert "1 artifacts whole, 1 damaged" in done.output


def test_gc_deletes_what_was_left_half_done_for_a_week(home):
    (partial,) = (item for item in keeping.contents(open_store(home)) if item.state == "partial")
    assert "0 artifacts and 0 leftovers to delete" in prism("gc", "--home", home, "--yes").output
    age(open_store(home), partial.name, 8)
    dry = prism("gc", "--home", home, "--dry-run")
    assert partial.name in dry.output
    assert len(stored(home, "partial")) == 1, "nothing is deleted yet"
    assert "1 deleted" in prism("gc", "--home", home, "--yes").output
    assert not stored(home, "partial")
    assert len(stored(home)) == 2


def test_gc_asks_first(home):
    age(open_store(home), next(iter(stored(home).values())).name, 40)
    done = CliRunner().invoke(app, ["store", "gc", "--home", home, "--older-than", "30"], input="n\n")
    assert done.exit_code == 2
    assert "1 artifacts and 0 leftovers to delete" in done.output
    assert len(stored(home)) == 2


def test_gc_of_old_artifacts_keeps_looks_and_what_was_used(home):
    for item in keeping.contents(open_store(home)):
        if item.state == "whole":
            age(open_store(home), item.name, 40)
    if "://" not in home:
        open_store(home).find("adapters", IDENTITY)  # which is a use
    prism("gc", "--home", home, "--older-than", "30", "--yes")
    assert stored(home).keys() == (set() if "://" in home else {NAME})
    assert [item.name for item in keeping.contents(open_store(home)) if item.state == "file"] == [
        "evaluations/phase1/nano@12345678/a.json"
    ]


def test_gc_to_a_size_deletes_the_oldest_first(tmp_path):
    store = Store(tmp_path)
    for seed in range(3):
        folder = store.make("adapters", {"seed": seed}, lambda f: (f / "w").write_bytes(b"x" * 2**20) and {})
        age(store, f"adapters/{folder.name}", 10 - seed)
    prism("gc", "--home", str(tmp_path), "--over", str(2.5 / 1024), "--yes")
    assert stored(str(tmp_path)).keys() == {f"adapters/{digest({'seed': seed})}" for seed in (1, 2)}
    prism("gc", "--home", str(tmp_path), "--over", "0", "--yes")
    assert not stored(str(tmp_path))


def test_gc_deletes_what_was_set_aside_and_nothing_that_is_being_made(tmp_path):
    store = Store(tmp_path)
    folder = store.make("adapters", IDENTITY, write)
    (folder / "weights").write_text("changed")
    with pytest.warns(UserWarning, match="set aside"):
        store.make("adapters", IDENTITY, write)
    (aside,) = stored(str(tmp_path), "leftover").values()
    age(store, aside.name, 2)

    def work(partial):
        age(store, f"adapters/{partial.name}", 30)
        assert "1 deleted" in prism("gc", "--home", str(tmp_path), "--yes").output, "the one that was set aside"
        assert partial.exists()
        return write(partial)

    store.make("adapters", {"seed": 7}, work)
    assert not stored(str(tmp_path), "leftover")


@pytest.mark.parametrize("to", KINDS)
def test_copy_gives_what_is_lacking_and_goes_on(home, to, tmp_path):
    target = address(to, tmp_path, "two")
    done = prism("copy", home, target)
    assert done.exit_code == 0, done.output
    assert "2 artifacts and 1 files copied" in done.output
    assert stored(target).keys() == stored(home).keys()
    assert "0 artifacts and 0 files copied" in prism("copy", home, target).output
    other = open_store(target)
    assert (other.make("adapters", IDENTITY, never) / "weights").read_text() == "the content"
    assert (other.gather("evaluations/phase1/nano@12345678") / "a.json").read_text() == "{}"
    assert not stored(target, "leftover")


def test_copy_leaves_damaged_artifacts_out(home, tmp_path):
    store = open_store(home)
    if store.shared:
        store.shared.remote.write(f"{NAME}.tar", b"damaged", replace=True)
    else:
        (store.home / NAME / "weights").write_text("changed")
    done = prism("copy", home, str(tmp_path / "two"))
    assert done.exit_code == 1
    assert f"{NAME}: damaged (" in done.output
    assert len(stored(str(tmp_path / "two"))) == 1


def test_judgements_are_copied_both_ways(tmp_path, monkeypatch):
    monkeypatch.setenv("PRISM_CACHE", str(tmp_path / "cache"))
    here, there, back = str(tmp_path / "here"), "memory://bucket/there", str(tmp_path / "back")
    with ledger.locked(open_store(here), JUDGE, "x") as log:
        log.add("key", score=1.0, reason="good")
    for source, target in ((here, there), (there, back)):
        assert prism("copy", source, target).exit_code == 0
        with ledger.locked(open_store(target), JUDGE, "x") as log:
            assert log.entries["key"]["score"] == 1.0
        assert ledger.read(open_store(target), JUDGE).keys() == {"key"}


def test_two_machines_judge_each_sample_once(tmp_path):
    stores = [machine("memory://bucket/x", tmp_path / name) for name in "ab"]
    for number, store in enumerate(stores):
        with ledger.locked(store, JUDGE, "x") as log:
            assert log.entries.keys() == {str(n) for n in range(number)}
            log.add(str(number), score=1.0, reason="good")
    assert ledger.read(stores[0], JUDGE).keys() == {"0"}, "an estimate asks storage nothing"
    with ledger.locked(stores[0], JUDGE, "x") as log:
        assert log.entries.keys() == {"0", "1"}
    lines = (stores[0].home / "judgements" / digest(JUDGE) / "judgements.jsonl").read_text().splitlines()
    assert sorted(json.loads(line)["key"] for line in lines) == ["0", "1"], "each line once"


def test_while_one_machine_judges_another_waits(tmp_path, monkeypatch):
    from prism.store import lease

    monkeypatch.setattr(lease, "ASKED", 0.05)
    stores = [machine("memory://bucket/x", tmp_path / name) for name in "ab"]
    judging, order = threading.Event(), []

    def judge():
        with ledger.locked(stores[0], JUDGE, "x") as log, ledger.alone(stores[0], JUDGE, "x", log):
            judging.set()
            time.sleep(0.5)
            log.add("key", score=1.0, reason="good")
            order.append("judged")

    worker = threading.Thread(target=judge)
    worker.start()
    assert judging.wait(10)
    with ledger.locked(stores[1], JUDGE, "x") as log:
        assert not log.entries
        with ledger.alone(stores[1], JUDGE, "x", log):
            order.append("waited")
            assert log.entries["key"]["score"] == 1.0
    worker.join()
    assert order == ["judged", "waited"]
    assert "waiting for x" in stores[1].said.text()


def test_judgements_that_storage_does_not_take_are_kept_and_sent_later(broken, tmp_path):  # noqa: F811
    broken("")
    store = machine("broken://bucket/x", tmp_path / "a")
    with ledger.locked(store, JUDGE, "x") as log:
        log.add("key", score=1.0, reason="good")
        broken("refuses")
    assert "until the next run, these judgements are on this machine only" in store.said.text()
    broken("")
    with ledger.locked(store, JUDGE, "x"):
        pass
    with ledger.locked(machine("broken://bucket/x", tmp_path / "b"), JUDGE, "x") as log:
        assert log.entries.keys() == {"key"}


def test_a_folder_that_cannot_be_written_to_is_one_sentence(tmp_path):
    fill(Store(tmp_path / "one"))
    (tmp_path / "file").write_text("")
    done = prism("copy", str(tmp_path / "one"), str(tmp_path / "file" / "two"))
    assert done.exit_code == 2
    assert done.output.count("\n") == 1


def test_a_folder_that_cannot_be_listed_is_one_sentence(tmp_path, monkeypatch):
    monkeypatch.setattr(keeping.os, "scandir", lambda path: (_ for _ in ()).throw(PermissionError(13, "denied", path)))
    with pytest.raises(StoreError, match="cannot be listed"):
        keeping.contents(Store(tmp_path))
