"""Judgements that are paid for once: an append-only log, a line each, that outlives a kill at any moment.

The store's folder an artifact (lock, manifest, checksum, rename) suits an adapter; a judgement is a score and a
sentence, and ten thousand of them would be ten thousand folders and lock files. So there is one log for each judge and
metric, named by their digest, and each line carries its own checksum.
"""

from __future__ import annotations

import json
import os
import sys
import time
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from prism.store import Store, digest, unwritable, write_text


class Ledger:
    """What was judged so far, by the digest of what was judged. Open it under its lock only."""

    def __init__(self, home: Path, path: Path) -> None:
        self.home = home
        self.entries: dict[str, dict[str, Any]] = {}
        lines = path.read_bytes().splitlines(keepends=True) if path.exists() else []
        if lines and not lines[-1].endswith(b"\n"):
            os.truncate(path, sum(map(len, lines[:-1])))  # a kill cut the last line off
            del lines[-1]
        whole = [line for line in lines if self._holds(line)]
        if damaged := len(lines) - len(whole):
            aside = path.with_name(f"judgements.damaged-{time.time_ns()}.jsonl")
            os.replace(path, aside)
            path.write_bytes(b"".join(whole))
            warnings.warn(
                f"{path}: holds lines that were not written so ({damaged}); set aside as {aside.name}, and "
                f"what they held is judged again",
                stacklevel=3,
            )
        self.file = path.open("ab")

    def _holds(self, line: bytes) -> bool:
        if entry := _checked(line):
            self.entries[entry["key"]] = entry
        return entry is not None

    def add(self, key: str, **entry: Any) -> None:
        """Write one judgement down at once."""
        line = {"key": key, **entry}
        self.entries[key] = line
        try:
            self.file.write(json.dumps({**line, "check": digest(line)[:12]}, ensure_ascii=False).encode() + b"\n")
            self.file.flush()
        except OSError as error:
            raise unwritable(self.home, error) from error


def _checked(line: bytes) -> dict[str, Any] | None:
    try:
        entry = json.loads(line)
        return entry if entry.pop("check") == digest(entry)[:12] and "key" in entry else None
    except (ValueError, AttributeError, KeyError, TypeError):
        return None


def read(store: Store, identity: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    """What was judged so far, without the right to add to it: for an estimate."""
    path = _folder(store, identity) / "judgements.jsonl"
    lines = path.read_bytes().splitlines() if path.exists() else []
    return {entry["key"]: entry for line in lines if (entry := _checked(line))}


@contextmanager
def held(store: Store, identity: Mapping[str, Any], what: str) -> Iterator[Ledger]:
    """The log of this identity, held alone: two runs that judge the same would otherwise both pay."""
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
        ledger = Ledger(store.home, folder / "judgements.jsonl")
    except OSError as error:
        lock.release()
        raise unwritable(store.home, error) from error
    try:
        with ledger.file:
            yield ledger
    finally:
        lock.release()


def _folder(store: Store, identity: Mapping[str, Any]) -> Path:
    return store.home / "judgements" / digest(identity)
