"""What is said to be stored survives a power cut: every file and folder reaches the disk before and after its rename."""

import errno
import os
import time
from pathlib import Path

import pytest

from prism import store as store_module
from prism.errors import PrismError, StoreError
from prism.judge.ledger import locked
from prism.models import resuming
from prism.plugin.results import Results
from prism.store import MANIFEST, Store, write_text
from prism.verdicts.scores import write_scores
from tests.scored import answers, scored, tiny_spec

IDENTITY = {"rows": "abc", "seed": 42}


@pytest.fixture
def calls(monkeypatch):
    """The order of fsync and rename, by path; a descriptor's path is read from /proc."""
    seen: list[tuple[str, str]] = []
    fsync, rename = os.fsync, os.replace

    def watched_fsync(descriptor):
        seen.append(("sync", os.readlink(f"/proc/self/fd/{descriptor}")))
        fsync(descriptor)

    def watched_rename(old, new, **options):
        seen.append(("rename", f"{old} {new}"))
        rename(old, new, **options)

    monkeypatch.setattr(os, "fsync", watched_fsync)
    monkeypatch.setattr(os, "replace", watched_rename)
    return seen


pytestmark = pytest.mark.skipif(not Path("/proc/self/fd").is_dir(), reason="descriptors have no paths here")


def write(folder):
    (folder / "sub").mkdir(exist_ok=True)
    (folder / "sub" / "weights").write_text("the content")
    return {}


def test_an_artifact_is_on_the_disk_before_it_has_its_name_and_its_name_is_before_it_is_returned(tmp_path, calls):
    folder = Store(tmp_path / "new" / "home").make("adapters", IDENTITY, write)
    partial = str(folder.with_suffix(".partial"))
    renamed = calls.index(("rename", f"{partial} {folder}"))
    before, after = calls[:renamed], calls[renamed + 1 :]
    for path in (f"{partial}/sub/weights", f"{partial}/sub", partial):
        assert ("sync", path) in before
    manifest = next(i for i, (what, path) in enumerate(calls) if what == "rename" and path.endswith(f"/{MANIFEST}"))
    assert before.index(("sync", f"{partial}/sub/weights")) < manifest, "the manifest is written last"
    assert ("sync", partial) in calls[manifest:renamed]
    assert after == [("sync", str(folder.parent))]
    for made in (tmp_path, tmp_path / "new", tmp_path / "new" / "home"):
        assert ("sync", str(made)) in before, "a new folder's name, too"


def test_a_file_is_on_the_disk_before_and_after_its_rename(tmp_path, calls):
    write_text(tmp_path / "new" / "a.json", "whole")
    [renamed] = [i for i, (what, _) in enumerate(calls) if what == "rename"]
    temporary, final = calls[renamed][1].split(" ")
    assert final == str(tmp_path / "new" / "a.json")
    assert calls[renamed - 1] == ("sync", temporary)
    assert calls[renamed + 1 :] == [("sync", str(tmp_path / "new"))]


def test_accepted_scores_are_on_the_disk(tmp_path, calls):
    write_scores(scored(tiny_spec(tmp_path), {42: answers(12)}), tmp_path / "tiny.json")
    assert [what for what, path in calls if "tiny.json" in path] == ["sync", "rename"]
    assert calls[-1] == ("sync", str(tmp_path))


def test_each_judgement_is_on_the_disk_before_the_next_is_asked_for(tmp_path, calls):
    with locked(Store(tmp_path), {"judge": "a"}, "x") as log:
        for n in range(2):
            log.add(str(n), score=0.5, reason="", note="", judge="m")
            assert calls[-1][1].endswith("judgements.jsonl")
            assert sum(path.endswith("judgements.jsonl") for _, path in calls) == n + 1


def test_a_report_is_on_the_disk_before_latest_points_at_it(tmp_path, calls, monkeypatch):
    from prism import report

    monkeypatch.setattr(report, "write", lambda folder, *_: write_text(folder / "report.md", "whole"))
    results = Results(tmp_path, "20260102-030405-1f", "main")
    (results.folder / "results").mkdir(parents=True)
    run = type("Run", (), {"results": ()})
    folder = results.publish(run, Store(tmp_path))
    order = [
        call for call in calls if call[1] in (str(folder.parent), str(results.folder), f"{results.folder} {folder}")
    ]
    assert [what for what, _ in order][-3:] == ["sync", "rename", "sync"]
    assert calls[-1][0] == "rename", "the link comes last"


def test_a_checkpoint_is_on_the_disk_before_it_counts_as_whole(tmp_path, calls):
    checkpoint = made_checkpoint(tmp_path)
    paths = [path for what, path in calls if what == "sync"]
    assert paths[-2:] == [str(checkpoint / resuming.EPOCH), str(checkpoint)]
    assert str(checkpoint / "optimizer.pt") in paths[:-2]


@pytest.mark.parametrize("damage", ["flip", "cut", "missing", "added"])
def test_a_changed_checkpoint_is_not_resumed_from(tmp_path, damage):
    file = made_checkpoint(tmp_path) / "optimizer.pt"
    content = bytearray(file.read_bytes())
    if damage == "flip":
        content[3] ^= 1
    file.write_bytes(content[:5] if damage == "cut" else content)
    if damage == "missing":
        file.unlink()
    if damage == "added":
        file.with_name("other.pt").write_bytes(b"")
    assert resuming.last_checkpoint(tmp_path) is None


def made_checkpoint(folder: Path) -> Path:
    """A checkpoint as transformers and the callback leave it, without a training."""
    from transformers import TrainerControl, TrainerState, TrainingArguments

    checkpoint = folder / "checkpoint-3"
    checkpoint.mkdir()
    (checkpoint / "optimizer.pt").write_bytes(b"moments")
    state = TrainerState(global_step=3, epoch=0.5)
    state.save_to_json(str(checkpoint / "trainer_state.json"))
    callback = resuming.SameOrder(None)
    arguments = TrainingArguments(output_dir=str(folder), use_cpu=True)
    callback.on_epoch_begin(arguments, TrainerState(epoch=0.0), TrainerControl())
    callback.on_save(arguments, state, TrainerControl())
    assert resuming.last_checkpoint(folder) == checkpoint
    return checkpoint


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT, errno.EACCES, errno.ESTALE, errno.EIO, errno.EROFS])
@pytest.mark.parametrize("call", ["fsync", "replace", "open", "mkdir"])
def test_a_failing_disk_is_one_sentence_and_leaves_nothing_that_looks_whole(tmp_path, monkeypatch, call, number):
    def fail(*arguments, **_):
        raise OSError(number, os.strerror(number), str(arguments[0]))

    store = Store(tmp_path)
    with monkeypatch.context() as broken:
        if call == "open":
            broken.setattr(Path, "open", fail)
        elif call == "mkdir":
            broken.setattr(Path, "mkdir", fail)
        else:
            broken.setattr(store_module.os, call, fail)
        with pytest.raises(StoreError) as error:
            store.make("adapters", IDENTITY, write)
    assert "--prism-home" in str(error.value)
    assert store.find("adapters", IDENTITY) is None
    assert (store.make("adapters", IDENTITY, write) / "sub" / "weights").read_text() == "the content"


@pytest.mark.parametrize("number", [errno.EACCES, errno.ESTALE, errno.EIO])
@pytest.mark.parametrize("name", [MANIFEST, "weights"])
def test_an_artifact_that_cannot_be_read_now_is_not_taken_for_damaged(tmp_path, monkeypatch, name, number):
    """Another user's, or on a server that is away: made again, hours would be lost, and the name is taken."""
    folder = Store(tmp_path).make("adapters", IDENTITY, write)
    read = Path.open

    def fail(path, *arguments, **options):
        if path.name == name:
            raise OSError(number, os.strerror(number), str(path))
        return read(path, *arguments, **options)

    with monkeypatch.context() as broken:
        broken.setattr(Path, "open", fail)
        with pytest.raises(StoreError, match=r"cannot be read or set aside .* --prism-home"):
            Store(tmp_path).find("adapters", IDENTITY)
    assert Store(tmp_path).find("adapters", IDENTITY) == folder


def test_a_file_system_without_locks_is_one_sentence(tmp_path, monkeypatch):
    from filelock import FileLock

    def fail(*_, **__):
        raise NotImplementedError("FileSystem does not appear to support flock")

    monkeypatch.setattr(FileLock, "acquire", fail)
    with pytest.raises(StoreError, match="its file system has no locks; set --prism-home"):
        Store(tmp_path).make("adapters", IDENTITY, write)
    with pytest.raises(PrismError, match="no locks"), locked(Store(tmp_path), {"judge": "a"}, "x"):
        pass


def test_a_slow_disk_changes_nothing(tmp_path, monkeypatch):
    fsync = os.fsync
    monkeypatch.setattr(os, "fsync", lambda descriptor: (time.sleep(0.02), fsync(descriptor)))
    assert Store(tmp_path).make("adapters", IDENTITY, write) == Store(tmp_path).find("adapters", IDENTITY)


def test_what_a_killed_process_replaced_is_cleared(tmp_path):
    folder = Store(tmp_path).make("adapters", IDENTITY, write)
    leftover = folder.with_suffix(".replaced-99999999")
    leftover.mkdir()
    Store(tmp_path).make("adapters", IDENTITY, lambda folder: {}, again=True)
    assert not leftover.exists()
