"""What a store holds, and what is done with all of it: listed, cleared, verified, copied; of folders and URLs alike."""

from __future__ import annotations

import contextlib
import os
import shutil
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from filelock import FileLock, Timeout

from prism.errors import StoreError
from prism.store import LOG, MANIFEST, SEGMENTS, Store, file_digest, make_folder, sync, unwritable
from prism.store.cache import DIGEST, WORK
from prism.store.files import settle
from prism.store.manifest import verify
from prism.store.shared import ARTIFACT, AT_ONCE, LEASE, PARTIAL, PROBE, place

State = Literal["whole", "partial", "leftover", "file"]
LOGS = "judgements"  # paid for, and no artifacts: `prism.judge.ledger` keeps them
UNLISTED = (WORK, "shared")  # of a home: processes' own folders, the caches of URLs
DAY = 86_400.0
PARTIAL_DAYS = 7.0  # after which nobody goes on with an unfinished artifact
USED_DAYS = 1.0  # what was used since may be in use


@dataclass(frozen=True)
class Item:
    """Something in a store: its name below the home or URL, bytes, and when it was last used or written (epoch)."""

    kind: str
    name: str
    state: State
    size: int
    time: float

    @property
    def digest(self) -> str:
        """Of an artifact, in hex."""
        return self.name.rpartition("/")[2].partition(".")[0]

    @property
    def artifact(self) -> str:
        """`<kind>/<digest>`, as runs name it."""
        return f"{self.kind}/{self.digest}"


def contents(store: Store) -> list[Item]:
    """Everything in a store, by name; no artifact is opened. Raises StoreError if it cannot be listed."""
    if store.shared:
        return [_item(found.name, found.size, found.time) for found in store.shared.remote.objects()]
    try:
        return sorted(_below(store.home), key=lambda item: item.name)
    except OSError as error:
        raise StoreError(f"{error.filename or store.home}: cannot be listed ({error.strerror or error})") from None


def _item(name: str, size: int, written: float) -> Item:
    kind, _, rest = name.partition("/")
    digest, _, suffix = rest.partition(".")
    state: State = "file"
    if DIGEST.fullmatch(digest):
        states: dict[str, State] = {ARTIFACT: "whole", PARTIAL: "partial", LEASE: "leftover"}
        state = states.get(f".{suffix}", "file")
    elif name.startswith(PROBE) or name.rpartition("/")[2].startswith("."):
        state = "leftover"
    return Item(kind if rest else "", name, state, size, written)


def _below(home: Path) -> Iterator[Item]:
    if not home.exists():
        return
    for kind in (each for each in os.scandir(home) if each.is_dir() and each.name not in UNLISTED):
        for entry in os.scandir(kind.path):
            name, of = f"{kind.name}/{entry.name}", entry.stat(follow_symlinks=False)
            digest, _, suffix = entry.name.partition(".")
            if entry.is_dir(follow_symlinks=False) and DIGEST.fullmatch(digest) and kind.name != LOGS:
                files = {file.name: file.stat().st_size for file in _files(entry.path)}
                whole: State = "whole" if MANIFEST in files else "leftover"
                state: State = "partial" if suffix == "partial" else "leftover" if suffix else whole
                yield Item(kind.name, name, state, sum(files.values()), of.st_mtime)
            elif entry.is_dir(follow_symlinks=False) and entry.name.startswith("."):
                size = sum(file.stat().st_size for file in _files(entry.path))
                yield Item(kind.name, name, "leftover", size, of.st_mtime)
            elif entry.is_dir(follow_symlinks=False):
                for file in _files(entry.path):
                    found = Path(file.path).relative_to(home).as_posix()
                    if not found.endswith((".lock", ".pending")):
                        yield Item(kind.name, found, "file", file.stat().st_size, file.stat().st_mtime)
            elif not entry.name.endswith((".lock", ".pending")):
                yield Item(kind.name, name, "file", of.st_size, of.st_mtime)


def _files(folder: str) -> Iterator[os.DirEntry[str]]:
    with contextlib.suppress(FileNotFoundError):  # another process deletes it
        for entry in os.scandir(folder):
            if entry.is_dir(follow_symlinks=False):
                yield from _files(entry.path)
            else:
                yield entry


# Clearing


def unneeded(items: Iterable[Item], older: float | None = None, over: float | None = None) -> list[Item]:
    """What nothing needs: damaged and replaced artifacts, what was left half-done and is a week old.

    `older` adds artifacts that were not used for as many days (in storage: written before), `over` the oldest ones
    until the others take at most as many GiB. What was used within a day stays, as do looks, judgements, calibrations.
    """
    now = time.time()
    known = list(items)
    gone = [each for each in known if each.state == "leftover" and each.time < now - DAY * USED_DAYS]
    gone += [each for each in known if each.state == "partial" and each.time < now - DAY * PARTIAL_DAYS]
    whole = sorted((each for each in known if each.state == "whole"), key=lambda each: each.time)
    held = sum(each.size for each in whole)
    for each in whole:
        too_old = older is not None and each.time < now - DAY * older
        too_much = over is not None and held > over * 2**30
        if (too_old or too_much) and each.time < now - DAY * USED_DAYS:
            gone.append(each)
            held -= each.size
    return gone


def clear(store: Store, items: Iterable[Item]) -> int:
    """Delete these of a store; returns how many were not in use. Raises StoreError if it cannot be written."""
    remove = _remove_there if store.shared else _remove_here
    with ThreadPoolExecutor(AT_ONCE) as pool:
        return sum(pool.map(lambda item: remove(store, item), items))


def _remove_there(store: Store, item: Item) -> bool:
    assert store.shared
    store.shared.remote.remove(item.name)
    return True


def _remove_here(store: Store, item: Item) -> bool:
    path = store.home / item.name
    made = item.state in ("whole", "partial")
    try:
        lock = FileLock(path.with_name(f"{item.digest}.lock")).acquire(timeout=0) if made else contextlib.nullcontext()
        with lock:
            gone = path.with_name(f".gone-{path.name}-{os.getpid()}")
            os.replace(path, gone)  # not deleted in place, where another process would find half of it
            if gone.is_dir():
                shutil.rmtree(gone, ignore_errors=True)
            else:
                gone.unlink()
    except Timeout:
        return False  # a process is at it
    except FileNotFoundError:
        return False  # another one has deleted it
    except OSError as error:
        raise unwritable(store.home, error, "--home") from error
    return True


# Verifying and copying


def damaged(store: Store, items: Iterable[Item], advance: Callable[[int], object] = lambda _: None) -> dict[str, str]:
    """Why those of these artifacts that are damaged are, by name. Raises StoreError if the store cannot be read."""

    def look(item: Item) -> tuple[str, str]:
        with _opened(store, item) as (_, reason):
            advance(1)
            return item.artifact, reason

    with ThreadPoolExecutor(AT_ONCE if store.shared else os.cpu_count()) as pool:
        return {name: reason for name, reason in pool.map(look, _whole(items)) if reason}


def copy(
    source: Store, target: Store, advance: Callable[[int], object] = lambda _: None
) -> tuple[list[Item], dict[str, str]]:
    """Copy what `target` lacks; returns that, and why artifacts were left out as damaged, by name.

    Artifacts, looks, calibrations, judgements; a target's own stay. Call it again to go on with what was not copied.
    Raises StoreError if a side cannot be read or written.
    """
    held = contents(target)
    names = {each.artifact for each in _whole(held)} | {each.name for each in held if each.state == "file"}
    found = contents(source)
    files = [each for each in found if each.state == "file" and each.kind != "images"]
    lacking = [each for each in _whole(found) if each.artifact not in names]

    def one(item: Item) -> str:
        with _opened(source, item) as (folder, reason):
            if folder:
                _put(target, folder, item.artifact)
        advance(1)
        return reason

    with ThreadPoolExecutor(AT_ONCE) as pool:
        reasons = dict(zip((each.artifact for each in lacking), pool.map(one, lacking)))
        copied = list(pool.map(lambda each: _copy_file(source, target, each, names), files))
    damage = {name: reason for name, reason in reasons.items() if reason}
    return [each for each in lacking if not reasons[each.artifact]] + [
        e for e, new in zip(files, copied) if new
    ], damage


def _whole(items: Iterable[Item]) -> list[Item]:
    return [each for each in items if each.state == "whole"]


@contextlib.contextmanager
def _opened(store: Store, item: Item) -> Iterator[tuple[Path | None, str]]:
    """An artifact's folder, fetched for the time of the block if it is in storage; or why it is damaged."""
    if store.shared:
        with store.shared.cache.scratch() as scratch:
            yield store.shared.fetched(item.kind, item.digest, scratch)
        return
    folder, reason = store.home / item.name, ""
    try:
        verify(folder, item.kind, item.digest)
    except StoreError as error:
        reason = str(error)
    except OSError as error:
        raise StoreError(f"{error.filename or folder}: cannot be read ({error.strerror or error})") from None
    yield (None if reason else folder), reason


def _put(store: Store, folder: Path, artifact: str) -> None:
    if store.shared:
        with store.shared.cache.scratch() as scratch:
            store.shared.put(folder, f"{artifact}{ARTIFACT}", scratch)
        return
    target = store.home / artifact
    try:
        make_folder(target.parent)
        with tempfile.TemporaryDirectory(dir=target.parent, prefix=".copied-") as temporary:
            shutil.copytree(folder, Path(temporary) / "artifact")
            settle(Path(temporary) / "artifact")
            sync(Path(temporary) / "artifact")
            place(Path(temporary) / "artifact", target)
            sync(target.parent)
    except OSError as error:
        raise unwritable(store.home, error, "the folder that is copied to") from error


def _copy_file(source: Store, target: Store, item: Item, names: set[str]) -> bool:
    """Copy a small file that the target lacks; what a log of judgements holds becomes a segment, which a ledger joins."""
    with contextlib.ExitStack() as opened:
        file = source.home / item.name
        if source.shared:
            file = opened.enter_context(source.shared.cache.scratch()) / "file"
            if item.name in names or not source.shared.remote.fetch(item.name, file):
                return False
        name = item.name
        if name.startswith(f"{LOGS}/") and name.endswith(f"/{LOG}"):
            name = f"{name.removesuffix(LOG)}{SEGMENTS}/{file_digest(file)[:16]}.jsonl"
        if name in names:
            return False
        if target.shared:
            return target.shared.remote.write(name, file.read_bytes())
        try:
            make_folder((target.home / name).parent)
            shutil.copyfile(file, target.home / name)
        except OSError as error:
            raise unwritable(target.home, error, "the folder that is copied to") from error
        return True
