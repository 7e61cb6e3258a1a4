"""Store judgements, so that each is paid for once: an append-only log of one per line, which survives any kill.

The store's folder per artifact (lock, manifest, checksum, rename) suits an adapter; a judgement is a score and a
sentence, and ten thousand of them would be ten thousand folders and lock files. So there is one log per judge and
metric, named by their digest, and each line has its own checksum. In a store that machines share, what each adds to its
log is a file of its own, a segment, which the others join to theirs.
"""

from __future__ import annotations

import hashlib
import json
import os
import sys
import time
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from prism.errors import StoreError
from prism.store import LOG, SEGMENTS, Store, digest, unwritable, write_bytes, write_text


class Ledger:
    """The judgements so far, by the digest of what was judged. Open it only under its lock."""

    def __init__(self, home: Path, path: Path) -> None:
        self.home = home
        self.entries: dict[str, dict[str, Any]] = {}
        lines = path.read_bytes().splitlines(keepends=True) if path.exists() else []
        if lines and not lines[-1].endswith(b"\n"):
            os.truncate(path, sum(map(len, lines[:-1])))  # a kill cut off the last line
            del lines[-1]
        valid = [line for line in lines if self._add_if_valid(line)]
        if damaged := len(lines) - len(valid):
            aside = path.with_name(f"judgements.damaged-{time.time_ns()}.jsonl")
            os.replace(path, aside)
            write_bytes(path, b"".join(valid))
            warnings.warn(
                f"{path}: contains damaged lines ({damaged}); the file is set aside as {aside.name}, and "
                f"their samples are judged again",
                stacklevel=3,
            )
        self.file = path.open("ab")

    def _add_if_valid(self, line: bytes) -> bool:
        if entry := _parse_line(line):
            self.entries[entry["key"]] = entry
        return entry is not None

    def add(self, key: str, **entry: Any) -> None:
        """Write one judgement to the disk immediately: it was paid for."""
        line = {"key": key, **entry}
        self.entries[key] = line
        try:
            self.file.write(json.dumps({**line, "check": digest(line)[:12]}, ensure_ascii=False).encode() + b"\n")
            self.file.flush()
            os.fsync(self.file.fileno())
        except OSError as error:
            raise unwritable(self.home, error) from error


def _parse_line(line: bytes) -> dict[str, Any] | None:
    try:
        entry = json.loads(line)
        whole = entry.pop("check") == digest(entry)[:12] and {"key", "score", "reason"} <= entry.keys()
        return entry if whole else None
    except (ValueError, AttributeError, KeyError, TypeError, RecursionError):
        return None


def read(store: Store, identity: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    """Read the judgements so far, without the lock, for an estimate; storage is asked nothing."""
    return {entry["key"]: entry for line in lines(store, identity).splitlines() if (entry := _parse_line(line))}


def lines(store: Store, identity: Mapping[str, Any]) -> bytes:
    """The log with those segments of other machines that are here, without the lock.

    Between files is a line end, since the last line of each may be cut off.
    """
    folder = _folder(store, identity)
    segments = folder / SEGMENTS
    try:
        return b"\n".join(file.read_bytes() for file in (folder / LOG, *segments.glob("*.jsonl")) if file.exists())
    except OSError as error:
        raise unwritable(store.home, error) from error


def gather(store: Store, identity: Mapping[str, Any]) -> None:
    """Have other machines' segments here."""
    store.gather(f"judgements/{digest(identity)}/{SEGMENTS}")


def receive(store: Store, identity: Mapping[str, Any], content: bytes) -> None:
    """Store the log of another machine as a segment beside the own one, which joins it when it is opened."""
    if content:
        write_bytes(_segment(_folder(store, identity), content), content)


@contextmanager
def locked(store: Store, identity: Mapping[str, Any], what: str) -> Iterator[Ledger]:
    """Open the log of this identity under its lock: otherwise two runs that judge the same would both pay."""
    folder = _folder(store, identity)
    lock = FileLock(folder / "judgements.lock")
    try:
        folder.mkdir(parents=True, exist_ok=True)
        try:
            lock.acquire(timeout=0)
        except Timeout:
            print(f"prism: waiting for {what}, which another process is judging", file=sys.stderr, flush=True)
            lock.acquire()
        write_text(folder / "identity.json", json.dumps(identity, indent=1, ensure_ascii=False))
        ledger = Ledger(store.home, folder / LOG)
        _join(store, folder, ledger)
    except StoreError:
        lock.release()
        raise
    except OSError as error:
        lock.release()
        raise unwritable(store.home, error) from error
    except NotImplementedError:
        raise StoreError(f"{folder}: its file system has no locks; set --prism-home to a folder that has") from None
    try:
        yield ledger
    finally:
        with suppress(OSError):  # it tries again to write what `add` has said that it cannot
            ledger.file.close()
        _share(store, folder)
        lock.release()


@contextmanager
def alone(store: Store, identity: Mapping[str, Any], what: str, ledger: Ledger) -> Iterator[None]:
    """While a judge is asked: no other machine asks it, and the judgements that one has received are in the log."""
    if store.shared is None:
        yield
        return
    folder = _folder(store, identity)
    with store.shared.alone(folder, what):
        _join(store, folder, ledger)
        try:
            yield
        finally:
            _share(store, folder)


def _join(store: Store, folder: Path, ledger: Ledger) -> None:
    """Add to the log what other machines' segments hold beyond it."""
    segments = store.gather(f"judgements/{folder.name}/{SEGMENTS}")
    lines = {line for file in segments.glob("*.jsonl") for line in file.read_bytes().splitlines(keepends=True)}
    for line in sorted(lines):
        if (entry := _parse_line(line)) and entry["key"] not in ledger.entries:
            ledger.entries[entry["key"]] = entry
            ledger.file.write(line)
    ledger.file.flush()


def _share(store: Store, folder: Path) -> None:
    """Give other machines what the log holds beyond the segments. If storage does not take it, say so."""
    if store.shared is None:
        return
    segments = (folder / SEGMENTS).glob("*.jsonl")
    known = {line for file in segments for line in file.read_bytes().splitlines(keepends=True)}
    lines = (folder / LOG).read_bytes().splitlines(keepends=True)
    if new := b"".join(line for line in lines if line not in known and line.endswith(b"\n")):
        segment = _segment(folder, new)
        try:
            write_bytes(segment, new)
            store.share(segment)
        except (OSError, StoreError) as error:
            why = unwritable(store.home, error) if isinstance(error, OSError) else error
            store.say(f"{why}; until the next run, these judgements are on this machine only")


def _segment(folder: Path, content: bytes) -> Path:
    return folder / SEGMENTS / f"{hashlib.sha256(content).hexdigest()[:16]}.jsonl"


def _folder(store: Store, identity: Mapping[str, Any]) -> Path:
    return store.home / "judgements" / digest(identity)
