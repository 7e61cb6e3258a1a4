"""Judgements that are paid for once: an append-only log, a line each, that outlives a kill at any moment.

The store's folder an artifact (lock, manifest, checksum, rename) suits an adapter; a judgement is a score and a
sentence, and ten thousand of them would be ten thousand folders and lock files. So there is one log for each judge and
metric, named by their digest, and each line carries its own checksum.
"""

from __future__ import annotations

import json
import sys
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from prism.record import write_text
from prism.store import Store, digest, unwritable


class Ledger:
    """What was judged so far, by the digest of what was judged."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.entries: dict[str, dict[str, Any]] = {}
        damaged = 0
        whole = 0
        for line in path.read_bytes().splitlines(keepends=True) if path.exists() else ():
            if not line.endswith(b"\n"):
                break  # a kill cut this line off
            whole += len(line)
            if entry := _checked(line):
                self.entries[entry["key"]] = entry
            else:
                damaged += 1
        if damaged:
            warnings.warn(f"{path}: {damaged} damaged lines are left out and will be judged again", stacklevel=2)
        self.file = path.open("ab")
        self.file.truncate(whole)

    def add(self, key: str, **entry: Any) -> None:
        """Write one judgement down at once."""
        line = {"key": key, **entry}
        self.entries[key] = line
        self.file.write(json.dumps({**line, "check": digest(line)[:12]}, ensure_ascii=False).encode() + b"\n")
        self.file.flush()


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
    try:
        folder.mkdir(parents=True, exist_ok=True)
        lock = FileLock(folder / "judgements.lock")
        try:
            lock.acquire(timeout=0)
        except Timeout:
            print(f"prism: waiting for {what}, which another process is judging", file=sys.stderr, flush=True)
            lock.acquire()
        with lock:
            lock.release()  # `with` counts a second hold; the first one goes
            write_text(folder / "identity.json", json.dumps(identity, indent=1, ensure_ascii=False))
            ledger = Ledger(folder / "judgements.jsonl")
            with ledger.file:
                yield ledger
    except OSError as error:
        raise unwritable(store.home, error) from error


def _folder(store: Store, identity: Mapping[str, Any]) -> Path:
    return store.home / "judgements" / digest(identity)
