"""A content-addressed store of adapters, predictions and judgements, each under the digest of its inputs.

An artifact is a folder. Its `manifest.json`, written last, contains the identity (the inputs that the digest covers)
and a checksum of every file. A process works in `<digest>.partial`, under a lock, and one rename makes it the artifact;
the next process resumes from a partial folder that a killed one left behind.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import json
import os
import shutil
import sys
import time
import warnings
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from prism.errors import StoreError

MANIFEST = "manifest.json"


def write_text(path: Path, text: str) -> None:
    """Write a text file atomically, as UTF-8."""
    write_bytes(path, text.encode())


def write_bytes(path: Path, content: bytes) -> None:
    """Write a file atomically: a temporary file in the same folder, then a rename."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    temporary.write_bytes(content)
    os.replace(temporary, path)


def digest(identity: object) -> str:
    """SHA-256 of an identity's canonical JSON, in hex."""
    canonical = json.dumps(identity, sort_keys=True, ensure_ascii=False, separators=(",", ":"))
    return hashlib.sha256(canonical.encode()).hexdigest()


def file_digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def folder_digest(folder: Path) -> str:
    """SHA-256 over the names and bytes of a folder's files; independent of the folder's path."""
    files = sorted(file for file in folder.rglob("*") if file.is_file() and not file.name.startswith("."))
    return digest({file.relative_to(folder).as_posix(): file_digest(file) for file in files})


class Store:
    """Artifacts under one home folder (PRISM_HOME, by default ~/.cache/prism)."""

    def __init__(
        self, home: Path, say: Callable[[str], object] = lambda sentence: print(f"prism: {sentence}", file=sys.stderr)
    ) -> None:
        self.home, self.say = home, say

    def find(self, kind: str, identity: Mapping[str, Any]) -> Path | None:
        """The complete artifact of this identity, or None. A damaged one is set aside with a warning."""
        folder = self.home / kind / digest(identity)
        if not (folder / MANIFEST).exists():
            return None
        try:
            _verify(folder)
        except StoreError as error:
            damaged = folder.with_name(f"{folder.name}.damaged-{time.time_ns()}")
            with contextlib.suppress(FileNotFoundError):  # another process has set it aside already
                os.replace(folder, damaged)
            warnings.warn(f"{error}; set aside as {damaged.name} and made again", stacklevel=2)
            return None
        return folder

    def make(
        self, kind: str, identity: Mapping[str, Any], work: Callable[[Path], Mapping[str, Any]], *, again: bool = False
    ) -> Path:
        """Find the artifact, or make it: `work(folder)` fills a partial folder and returns notes for the manifest.

        Only one process makes it; others report that they wait, then find it. `again` replaces an existing artifact.
        """
        folder = self.home / kind / digest(identity)
        if not again and (existing := self.find(kind, identity)):
            return existing
        requested = time.time()
        try:
            folder.parent.mkdir(parents=True, exist_ok=True)
            with self._locked(folder.with_suffix(".lock"), f"{kind}/{folder.name[:8]}"):
                existing = self.find(kind, identity)
                if existing and not (again and (existing / MANIFEST).stat().st_mtime < requested):
                    return existing
                partial = folder.with_suffix(".partial")
                if again:
                    shutil.rmtree(partial, ignore_errors=True)
                partial.mkdir(exist_ok=True)
                notes = work(partial)
                files = sorted(file for file in partial.rglob("*") if file.is_file())
                checksums = {file.relative_to(partial).as_posix(): file_digest(file) for file in files}
                manifest = {"kind": kind, "identity": identity, "files": checksums, "notes": notes}
                write_text(partial / MANIFEST, json.dumps(manifest, indent=1, ensure_ascii=False))
                if existing:
                    shutil.rmtree(existing)
                os.replace(partial, folder)
        except OSError as error:
            if error.errno is None:  # a library raised it for a missing file; errors of the system have a number
                raise
            raise unwritable(self.home, error) from error
        return folder

    @contextlib.contextmanager
    def _locked(self, path: Path, what: str) -> Iterator[None]:
        lock = FileLock(path)
        try:
            lock.acquire(timeout=0)
        except Timeout:
            self.say(f"waiting for {what}, which another process makes")
            lock.acquire()
        try:
            yield
        finally:
            lock.release()


def unwritable(home: Path, error: OSError, option: str = "--prism-home") -> StoreError:
    """The error for a failed write, with its remedy; `option` is the command-line option that sets `home`."""
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        existing = next(folder for folder in (home, *home.parents) if folder.exists())
        free = shutil.disk_usage(existing).free / 2**30
        return StoreError(f"{home}: the disk is full ({free:.1f} GiB free); free some space or set another {option}")
    return StoreError(f"{error.filename or home}: {error.strerror or error}; set a writable folder with {option}")


def read_manifest(folder: Path) -> dict[str, Any]:
    return json.loads((folder / MANIFEST).read_text(encoding="utf-8"))


def _verify(folder: Path) -> None:
    try:
        files = read_manifest(folder)["files"]
    except (ValueError, KeyError, TypeError) as error:
        raise StoreError(f"{folder}: the manifest cannot be read ({error})") from None
    for name, checksum in files.items():
        path = folder / name
        if not path.is_file():
            raise StoreError(f"{path}: the file is missing")
        if file_digest(path) != checksum:
            raise StoreError(f"{path}: the file has changed since it was stored")
