"""A store of a URL: nothing half-written, nothing lost, nothing made twice, whichever machine looks at it."""

import errno
import json
import os
import subprocess
import sys
import threading
import time
import warnings
from datetime import UTC, datetime

import fsspec
import pytest
from fsspec.implementations.memory import MemoryFileSystem

from prism.errors import StoreError
from prism.store import MANIFEST, Store, digest, file_digest, lease, read_manifest, write_text
from prism.store.homes import open_store
from prism.store.manifest import pending
from prism.store.packing import pack, unpack
from prism.verdicts import looks
from tests.conftest import ROOT
from tests.scored import answers, scored, tiny_spec
from tests.test_store import IDENTITY, never, write

NAME = f"adapters/{digest(IDENTITY)}"
URLS = ["memory://bucket/store", "file://{folder}/storage"]


class Told(list):
    """What a store said."""

    def text(self):
        return "\n".join(self)


@pytest.fixture(autouse=True)
def empty():
    """Storage that no other test has written to."""
    MemoryFileSystem.store.clear()
    MemoryFileSystem.pseudo_dirs[:] = [""]


@pytest.fixture(params=URLS, ids=["memory", "file"])
def url(request, tmp_path):
    return request.param.format(folder=tmp_path)


@pytest.fixture(autouse=True)
def quick(monkeypatch):
    for name, seconds in {"RENEWED": 0.05, "DEAD": 0.5, "ASKED": 0.05}.items():
        monkeypatch.setattr(lease, name, seconds)


def machine(url, folder, gib="1"):
    """The store as another machine sees it: with a cache of its own."""
    said = Told()
    store = open_store(url, said.append, str(folder), gib)
    store.said = said
    return store


def listed(store):
    return {each.name: each for each in store.shared.remote.objects()}


def test_what_one_machine_made_another_finds(url, tmp_path):
    first, second = machine(url, tmp_path / "a"), machine(url, tmp_path / "b")
    assert second.find("adapters", IDENTITY) is None
    made = first.make("adapters", IDENTITY, write)
    found = second.make("adapters", IDENTITY, never)
    assert found != made
    assert (found / "weights").read_text() == "the content"
    assert read_manifest(found) == read_manifest(made)
    assert listed(first).keys() == {f"{NAME}.tar"}, "no probe, lease or checkpoint is left"
    assert abs(listed(first)[f"{NAME}.tar"].time - time.time()) < 60
    assert second.find("adapters", IDENTITY) == second.make("adapters", IDENTITY, never) == found


def test_what_is_in_the_cache_asks_storage_nothing(url, tmp_path):
    machine(url, tmp_path / "a").make("adapters", IDENTITY, write)
    again = machine(url, tmp_path / "a")
    again.make("adapters", IDENTITY, never)
    assert again.shared.remote.requests == 0
    other = machine(url, tmp_path / "b")
    other.make("adapters", IDENTITY, never)
    assert other.shared.remote.requests <= 2, "the storage is opened and the object fetched"


def test_the_same_files_are_the_same_object(tmp_path):
    for name, order in (("a", ("x", "sub/y")), ("b", ("sub/y", "x"))):
        for file in order:
            write_text(tmp_path / name / file, "content")
            os.chmod(tmp_path / name / file, 0o600 if name == "a" else 0o644)
            os.utime(tmp_path / name / file, (1, len(name + file)))
        pack(tmp_path / name, tmp_path / f"{name}.tar")
    assert file_digest(tmp_path / "a.tar") == file_digest(tmp_path / "b.tar")
    unpack(tmp_path / "a.tar", tmp_path / "c")
    assert (tmp_path / "c" / "sub" / "y").read_text() == "content"


def test_a_tar_of_a_stranger_leads_nowhere(tmp_path):
    import tarfile

    (tmp_path / "secret").write_text("x")
    for name, member in {"link": {"type": tarfile.SYMTYPE, "linkname": "../secret"}, "../out": {}, "/out": {}}.items():
        with tarfile.open(tmp_path / "bad.tar", "w") as bad:
            info = tarfile.TarInfo(name)
            for key, value in member.items():
                setattr(info, key, value)
            bad.addfile(info)
        target = tmp_path / f"to-{name.replace('/', '-')}"
        if name == "/out":  # the filter takes the slash away
            unpack(tmp_path / "bad.tar", target)
            assert [path.name for path in target.iterdir()] == ["out"]
        else:
            with pytest.raises(StoreError, match="is no packed artifact"):
                unpack(tmp_path / "bad.tar", target)
    assert not (tmp_path / "out").exists()


def test_the_first_writer_wins_and_the_second_takes_what_differs(url, tmp_path):
    """On a GPU the same recipe gives other bytes; what is stored stays what others were given."""
    first, second = machine(url, tmp_path / "a"), machine(url, tmp_path / "b")

    def meanwhile(folder):
        (folder / "weights").write_text("others' bytes")
        first.shared._conditional = False  # as if it had seen no lease
        first.make("adapters", IDENTITY, write)
        return {}

    taken = second.make("adapters", IDENTITY, meanwhile)
    assert (taken / "weights").read_text() == "the content"
    assert "another machine stored it first" in second.said.text()
    assert not pending(taken).exists()


def test_made_again_replaces_what_is_stored(url, tmp_path):
    first, second = machine(url, tmp_path / "a"), machine(url, tmp_path / "b")
    first.make("adapters", IDENTITY, write)

    def other(folder):
        (folder / "weights").write_text("trained again")
        return {}

    second.make("adapters", IDENTITY, other, again=True)
    found = machine(url, tmp_path / "c").find("adapters", IDENTITY)
    assert (found / "weights").read_text() == "trained again"


@pytest.mark.parametrize("damage", ["flipped", "cut", "no tar", "another's", "empty"])
def test_a_damaged_object_is_not_used_and_is_replaced(url, tmp_path, damage):
    first = machine(url, tmp_path / "a")
    first.make("adapters", IDENTITY, write)
    first.make("adapters", {"seed": 1}, write)
    remote = first.shared.remote
    whole = remote.read(f"{NAME}.tar")
    content = {
        "flipped": whole.replace(b"the content", b"the c0ntent"),
        "cut": whole[: whole.index(b"the content") + 3],
        "no tar": b"<html>not found</html>",
        "another's": remote.read(f"adapters/{digest({'seed': 1})}.tar"),
        "empty": b"",
    }[damage]
    remote.write(f"{NAME}.tar", content, replace=True)
    other = machine(url, tmp_path / "b")
    with pytest.warns(UserWarning, match=r"\.tar: is damaged \(.*\); it is made again and replaced"):
        assert (other.make("adapters", IDENTITY, write) / "weights").read_text() == "the content"
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert machine(url, tmp_path / "c").make("adapters", IDENTITY, never)


def test_damage_in_the_cache_is_fetched_again(url, tmp_path):
    store = machine(url, tmp_path / "a")
    folder = store.make("adapters", IDENTITY, write)
    (folder / "weights").write_text("changed")
    with pytest.warns(UserWarning, match="set aside as"):
        assert (store.make("adapters", IDENTITY, never) / "weights").read_text() == "the content"


class Broken(MemoryFileSystem):
    """Storage that loses writes of artifacts or of all, refuses them, or lists late, as `does` says."""

    protocol = "broken"
    does = ""
    cachable = False

    @classmethod
    def _strip_protocol(cls, path):
        return MemoryFileSystem._strip_protocol(path.replace("broken://", "memory://"))

    def _keeps(self, path):
        if self.does == "refuses":
            raise PermissionError("no write permission")
        return self.does != "loses all" and not (self.does == "loses artifacts" and path.endswith(".tar"))

    def pipe_file(self, path, value, mode="overwrite", **kwargs):
        if self.does == "creates twice":
            mode = "overwrite"
        if self._keeps(path):
            super().pipe_file(path, value, mode=mode, **kwargs)

    def put_file(self, lpath, rpath, **kwargs):
        if self._keeps(rpath):
            super().put_file(lpath, rpath, **kwargs)

    def find(self, path, **kwargs):
        return {} if self.does == "lists late" else super().find(path, **kwargs)


@pytest.fixture
def broken(monkeypatch):
    fsspec.register_implementation("broken", Broken, clobber=True)

    def behaves(how):
        monkeypatch.setattr(Broken, "does", how)

    return behaves


def test_storage_that_cannot_be_written_is_one_sentence_before_any_work(broken, tmp_path):
    broken("refuses")
    with pytest.raises(StoreError, match=r"cannot be written \(PermissionError: .*\); check the credentials"):
        machine("broken://bucket/x", tmp_path / "a").make("adapters", IDENTITY, never)


def test_storage_that_loses_writes_is_one_sentence_before_any_work(broken, tmp_path):
    broken("loses all")
    with pytest.raises(StoreError, match="loses what is written to it; set another --prism-home"):
        machine("broken://bucket/x", tmp_path / "a").make("adapters", IDENTITY, never)


def test_a_lost_artifact_is_said_and_the_next_run_stores_it_without_making_it(broken, tmp_path):
    broken("loses artifacts")
    store = machine("broken://bucket/x", tmp_path / "a")
    with pytest.raises(
        StoreError, match=r"was written and is not there, so storage loses writes; what was made is kept"
    ):
        store.make("adapters", IDENTITY, write)
    broken("")
    machine("broken://bucket/x", tmp_path / "a").make("adapters", IDENTITY, never)
    assert machine("broken://bucket/x", tmp_path / "b").find("adapters", IDENTITY)


def test_what_was_made_again_and_lost_replaces_what_is_stored(broken, tmp_path):
    """The next run stores it, and does not take the older one for another machine's."""
    broken("")
    store = machine("broken://bucket/x", tmp_path / "a")
    store.make("adapters", IDENTITY, lambda folder: (folder / "weights").write_text("old") and {})

    def work(folder):
        broken("refuses")
        return write(folder)

    with pytest.raises(StoreError, match="cannot be written"):
        store.make("adapters", IDENTITY, work, again=True)
    broken("")
    machine("broken://bucket/x", tmp_path / "a").find("adapters", IDENTITY)
    found = machine("broken://bucket/x", tmp_path / "b").find("adapters", IDENTITY)
    assert (found / "weights").read_text() == "the content"


def test_a_file_system_without_hard_links(tmp_path, monkeypatch):
    def link(*_):
        raise OSError(errno.EPERM, "Operation not permitted")

    monkeypatch.setattr(os, "link", link)
    remote = machine(f"file://{tmp_path}/storage", tmp_path / "a").shared.remote
    assert remote.write("x", b"first")
    assert not remote.write("x", b"second")
    assert remote.read("x") == b"first"
    assert [path.name for path in (tmp_path / "storage").iterdir()] == ["x"]


def test_storage_that_lists_late_hides_no_artifact(broken, tmp_path):
    broken("lists late")
    machine("broken://bucket/x", tmp_path / "a").make("adapters", IDENTITY, write)
    other = machine("broken://bucket/x", tmp_path / "b")
    assert other.shared.remote.objects() == []
    other.make("adapters", IDENTITY, never)


def test_storage_without_a_conditional_put_is_used_and_says_what_it_costs(broken, tmp_path):
    broken("creates twice")
    store = machine("broken://bucket/x", tmp_path / "a")
    store.make("adapters", IDENTITY, write)
    assert "two machines may make the same" in store.said.text()
    machine("broken://bucket/x", tmp_path / "b").make("adapters", IDENTITY, never)


@pytest.mark.parametrize(
    ("home", "said"),
    [
        ("ftp2://host/x", "ftp2 is no protocol of fsspec"),
        ("s3://", "names no bucket or folder"),
        ("s3://key:secret@host/x", "must be one plain URL"),
        ("simplecache::memory://bucket", "must be one plain URL"),
        ("oci://bucket/x", "needs ocifs; pip install ocifs"),
        ("gs://bucket/x", f"needs gcsfs; pip install gcsfs=={fsspec.__version__}"),
    ],
)
def test_a_url_of_no_use_is_one_sentence(home, said):
    with pytest.raises(StoreError, match="--prism-home") as raised:
        open_store(home)
    assert said in str(raised.value)
    assert "secret" not in str(raised.value)


@pytest.mark.parametrize("gib", ["0", "-1", "many", "nan", "inf"])
def test_a_size_of_no_use_is_one_sentence(gib):
    with pytest.raises(StoreError, match=f"--prism-cache-gib {gib}: must be a number of GiB above 0"):
        open_store("memory://bucket", gib=gib)


def test_a_folder_is_a_store_without_storage(tmp_path, monkeypatch):
    monkeypatch.setenv("PRISM_HOME", str(tmp_path))
    assert open_store(None).shared is None
    assert open_store(None).home == tmp_path == open_store(None).gather("evaluations").parent
    monkeypatch.setenv("PRISM_HOME", "memory://bucket/x/")
    monkeypatch.setenv("PRISM_CACHE", str(tmp_path))
    assert open_store(None).name == "memory://bucket/x"
    assert open_store(None).home != open_store("memory://bucket/y").home


# Machines that work at the same time


WORKER = """
import sys
from prism.store import lease
from prism.store.homes import open_store
lease.RENEWED, lease.DEAD, lease.ASKED = .1, float(sys.argv[4]), .1
store = open_store(sys.argv[1], lambda sentence: print(sentence, flush=True), sys.argv[2])
def work(folder):
    with (folder / "log").open("a") as log: log.write("made\\n")
    store.keep(folder)
    print("working", flush=True)
    if sys.argv[3] == "wait": sys.stdin.read()
    return {}
folder = store.make("adapters", {"rows": "abc", "seed": 42}, work)
print((folder / "log").read_text().count("made"), flush=True)
"""


def start(url, cache, then, dead=600):
    """A machine that makes an artifact, at once ("go") or when its input is closed ("wait")."""
    command = [sys.executable, "-c", WORKER, url, str(cache), then, str(dead)]
    pipe = subprocess.PIPE
    return subprocess.Popen(command, stdin=pipe, stdout=pipe, stderr=subprocess.STDOUT, text=True, cwd=ROOT)


def made_once(url, tmp_path):
    """The second machine says that it waits, and finds what the first one makes."""
    first = start(url, tmp_path / "a", "wait")
    assert first.stdout.readline() == "working\n"
    second = start(url, tmp_path / "b", "go")
    assert "waiting for adapters/" in second.stdout.readline()
    first.stdin.close()
    assert second.stdout.read().endswith("1\n")
    assert [first.wait(), second.wait()] == [0, 0]


def taken_over(url, tmp_path):
    """The first machine is killed, and the second one goes on from its checkpoint."""
    first = start(url, tmp_path / "a", "wait")
    assert first.stdout.readline() == "working\n"
    first.kill()
    first.wait()
    out, _ = start(url, tmp_path / "b", "go").communicate()
    assert "taken over" in out
    assert "goes on from the checkpoint that another machine has left" in out
    assert out.endswith("\n2\n"), "its log goes on where the other's ended"
    assert list(listed(machine(url, tmp_path / "c"))) == [f"{NAME}.tar"]


def test_two_machines_make_it_once_and_the_second_says_that_it_waits(tmp_path):
    made_once(f"file://{tmp_path}/storage", tmp_path)


def test_a_killed_machine_is_taken_over_from_its_checkpoint(tmp_path):
    taken_over(f"file://{tmp_path}/storage", tmp_path)


def test_a_machine_that_fell_silent_is_taken_over_whatever_its_clock_says(url, tmp_path):
    """The lease says another host, whose processes nobody here can see."""
    store = machine(url, tmp_path / "a")
    silent = {"host": "far", "process": os.getpid(), "id": "x", "renewed": 4e9}
    store.shared.remote.write(f"{NAME}.lease", json.dumps(silent).encode())
    began = time.monotonic()
    store.make("adapters", IDENTITY, write)
    assert time.monotonic() - began >= lease.DEAD
    assert "waiting for adapters/" in store.said.text()
    assert "far" in store.said.text()


def test_a_lease_is_kept_while_its_holder_works(url, tmp_path):
    """Work that takes longer than `DEAD` is not taken over, since the lease is renewed."""
    store, other = machine(url, tmp_path / "a"), machine(url, tmp_path / "b")
    began, order = threading.Event(), []

    def slow(folder):
        began.set()
        time.sleep(4 * lease.DEAD)
        order.append("made")
        return write(folder)

    worker = threading.Thread(target=store.make, args=("adapters", IDENTITY, slow))
    worker.start()
    assert began.wait(10)
    other.make("adapters", IDENTITY, never)
    order.append("found")
    worker.join()
    assert order == ["made", "found"]


def test_a_lease_of_no_sense_is_taken_over(url, tmp_path):
    store = machine(url, tmp_path / "a")
    store.shared.remote.write(f"{NAME}.lease", b"\xff{")
    store.make("adapters", IDENTITY, write)
    assert f"{NAME}.lease" not in listed(store)


def test_work_that_fails_leaves_its_checkpoint_and_no_lease(url, tmp_path):
    first, second = machine(url, tmp_path / "a"), machine(url, tmp_path / "b")

    def fail(folder):
        (folder / "half").write_text("half")
        first.keep(folder)
        raise RuntimeError("out of luck")

    with pytest.raises(RuntimeError):
        first.make("adapters", IDENTITY, fail)
    assert listed(first).keys() == {f"{NAME}.partial.tar"}

    def resume(folder):
        assert (folder / "half").read_text() == "half"
        return write(folder)

    second.make("adapters", IDENTITY, resume)
    assert listed(first).keys() == {f"{NAME}.tar"}


def test_a_checkpoint_that_cannot_be_kept_stops_nothing(broken, tmp_path):
    broken("")
    store = machine("broken://bucket/x", tmp_path / "a")

    def work(folder):
        broken("refuses")
        store.keep(folder)
        broken("")
        return write(folder)

    store.make("adapters", IDENTITY, work)
    assert "this checkpoint is on this machine only" in store.said.text()


def test_a_damaged_checkpoint_is_not_gone_on_from(url, tmp_path):
    store = machine(url, tmp_path / "a")
    store.shared.remote.write(f"{NAME}.partial.tar", b"half a t")

    def work(folder):
        assert not list(folder.iterdir())
        return write(folder)

    store.make("adapters", IDENTITY, work)
    assert "cannot be used, so it starts again" in store.said.text()
    assert listed(store).keys() == {f"{NAME}.tar"}


def test_each_whole_checkpoint_is_handed_on(tmp_path):
    import torch
    from transformers import TrainerControl, TrainerState, TrainingArguments

    from prism.models import resuming

    kept = []
    callback = resuming.SameOrder(None, kept.append)
    arguments = TrainingArguments(output_dir=str(tmp_path / "partial" / "trainer"), use_cpu=True, report_to="none")
    state = TrainerState(global_step=3, epoch=0.5)
    callback.on_epoch_begin(arguments, state, TrainerControl())
    checkpoint = tmp_path / "partial" / "trainer" / "checkpoint-3"
    checkpoint.mkdir(parents=True)
    (checkpoint / "trainer_state.json").write_text('{"global_step": 3}')
    torch.save({}, checkpoint / "optimizer.pt")
    callback.on_save(arguments, state, TrainerControl())
    assert kept == [tmp_path / "partial"]
    assert resuming.last_checkpoint(checkpoint.parent) == checkpoint, "it was whole when it was handed on"


# The cache


def fill(kilobytes):
    def work(folder):
        (folder / "weights").write_bytes(os.urandom(1024 * kilobytes))
        return {}

    return work


def test_a_full_cache_deletes_what_was_not_used_for_longest(url, tmp_path):
    store = machine(url, tmp_path / "a", gib=str(350 / 2**20))
    folders = [store.make("adapters", {"seed": seed}, fill(100)) for seed in range(3)]
    for seconds, folder in zip((300, 100, 200), folders):
        os.utime(folder, (time.time() - seconds, time.time() - seconds))
    later = machine(url, tmp_path / "a", gib=str(350 / 2**20))
    later.make("adapters", {"seed": 3}, fill(100))
    assert [folder.exists() for folder in folders] == [False, True, True]
    later.make("adapters", {"seed": 0}, never)
    assert [folder.exists() for folder in folders] == [True, True, False], "fetched again, and the next one went"


def test_what_a_process_uses_is_not_deleted_by_another(url, tmp_path):
    store = machine(url, tmp_path / "a", gib=str(150 / 2**20))
    folders = [store.make("adapters", {"seed": seed}, fill(100)) for seed in range(3)]
    assert all(folder.exists() for folder in folders), "all three are in use"
    machine(url, tmp_path / "a", gib=str(150 / 2**20)).make("adapters", {"seed": 3}, fill(100))
    assert all(folder.exists() for folder in folders)


def test_what_storage_does_not_have_is_not_deleted(url, tmp_path):
    store = machine(url, tmp_path / "a", gib=str(50 / 2**20))
    folder = store.make("adapters", {"seed": 0}, fill(100))
    pending(folder).touch()
    os.utime(folder, (1, 1))
    machine(url, tmp_path / "a", gib=str(50 / 2**20)).make("adapters", {"seed": 1}, fill(100))
    assert folder.exists()


def test_what_a_killed_process_was_doing_in_the_cache_is_cleared(url, tmp_path):
    store = machine(url, tmp_path / "a")
    dead = subprocess.Popen(["true"])
    dead.wait()
    left = store.home / ".work" / f"{os.uname().nodename.partition('.')[0]}-{dead.pid}"
    left.mkdir(parents=True)
    (left / "began").touch()
    (left / "half.tar").touch()
    far = store.home / ".work" / "far-1"
    far.mkdir()
    (far / "began").touch()
    store.make("adapters", IDENTITY, write)
    assert not left.exists()
    assert far.exists(), "a process of another machine may live"


def test_a_cache_that_cannot_be_written_is_one_sentence(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(StoreError, match="set a writable folder with --prism-cache"):
        machine("memory://bucket/x", tmp_path / "file").find("adapters", IDENTITY)


def test_many_artifacts_are_fetched_at_once(broken, tmp_path, monkeypatch):
    broken("")
    store = machine("broken://bucket/x", tmp_path / "a")
    names = [f"adapters/{store.make('adapters', {'seed': seed}, write).name}" for seed in range(8)]
    meeting = threading.Barrier(8, timeout=20)
    get = Broken.get_file

    def slow(self, rpath, lpath, **kwargs):
        meeting.wait()  # all eight are under way, or the barrier breaks
        return get(self, rpath, lpath, **kwargs)

    monkeypatch.setattr(Broken, "get_file", slow)
    other = machine("broken://bucket/x", tmp_path / "b")
    other.bring(names)
    assert all((other.home / name / MANIFEST).is_file() for name in names)


# Small files beside the artifacts


def test_measurements_of_all_machines_are_counted(url, tmp_path):
    first, second = machine(url, tmp_path / "a"), machine(url, tmp_path / "b")
    spec = tiny_spec(tmp_path)
    one, two = scored(spec, {42: answers(12)}), scored(spec, {43: answers(11)})
    before = datetime.now(UTC).isoformat()
    looks.record(one, first)
    looks.record(two, second)
    looks.record(one, second)
    assert (
        [look.seeds for look in looks.seen(one, first)]
        == [[42], [43]]
        == [look.seeds for look in looks.seen(one, second)]
    )
    assert looks.count(two, second, before) == 2
    assert looks.seen(one, first) == looks.seen(one, second), "also the times, which are those of the first"
    looks.record(one, second, fresh=True)
    assert [look.fresh for look in looks.seen(one, first)] == [True, False]


def test_an_object_of_a_stranger_is_written_nowhere_else(tmp_path):
    store = machine("memory://bucket/x", tmp_path / "a" / "b")
    remote = store.shared.remote
    remote.write("evaluations/good.json", b"{}")
    for name in ("evaluations/../../../evil.json", "evaluations//evil.json", "evaluations/./evil.json"):
        MemoryFileSystem.store[f"/bucket/x/{name}"] = MemoryFileSystem.store["/bucket/x/evaluations/good.json"]
    store.gather("evaluations")
    assert [path.name for path in tmp_path.rglob("*.json")] == ["good.json"]


def test_a_measurement_that_storage_did_not_take_is_sent_later(broken, tmp_path):
    one = scored(tiny_spec(tmp_path), {42: answers(12)})
    broken("refuses")
    store, other = machine("broken://bucket/x", tmp_path / "a"), machine("broken://bucket/x", tmp_path / "b")
    looks.record(one, store)
    assert "until then `prism accept` does not count this measurement" in store.said.text()
    broken("")
    looks.record(one, store)
    assert [look.seeds for look in looks.seen(one, other)] == [[42]]


@pytest.mark.slow
def test_a_run_on_another_machine_makes_nothing_and_measures_the_same(checkout):
    """The second machine has no cache, and needs no torch: it fetches what the first one stored."""
    home = ["--prism-home", f"file://{checkout.path}/storage", "-s"]
    first = checkout.runpytest_subprocess("benchmarks", *home, "--prism-cache", "a", "--prism-report", "one")
    first.stdout.fnmatch_lines([f"prism: profile * store file://{checkout.path}/storage"])
    program = "import sys, pytest; code = pytest.main(sys.argv[1:]); print('imported', 'torch' in sys.modules)"
    again = checkout.run(
        sys.executable, "-c", program, "benchmarks", *home, "--prism-cache", "b", "--prism-report", "two"
    )
    assert "imported False" in again.outlines[-1]
    one, two = (json.loads((checkout.path / name / "latest" / "results.json").read_text()) for name in ("one", "two"))
    assert two["records"] == one["records"]
    assert two["cost"][0]["cached"] == ["baseline", "label likelihoods", "training, seed 42", "tuned, seed 42"]
    names = {path.name for path in (checkout.path / "storage").rglob("*") if path.is_file()}
    assert all(name.endswith((".tar", ".json")) and "partial" not in name for name in names), names


def test_a_url_of_no_use_ends_a_run_and_a_command_in_one_sentence(checkout):
    done = checkout.runpytest_subprocess("benchmarks", "--prism-home", "ftp2://host/x")
    assert done.ret == pytest.ExitCode.USAGE_ERROR
    done.stderr.fnmatch_lines(["ERROR: --prism-home ftp2://host/x: ftp2 is no protocol of fsspec; *"])
    done = checkout.run(sys.executable, "-m", "prism", "store", "ls", "--home", "ftp2://host/x")
    assert done.ret == 2
    assert len(done.errlines) == 1


def test_a_plain_store_asks_for_no_storage(tmp_path):
    store = Store(tmp_path)
    store.bring(["adapters/x"])
    store.keep(tmp_path)
    store.share(tmp_path / "x")
    store.gather_file(tmp_path / "x")
    assert not list(tmp_path.iterdir())
