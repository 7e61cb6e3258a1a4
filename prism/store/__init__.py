"""A content-addressed store of adapters, predictions and judgements, each under the digest of its inputs.

An artifact is a folder. Its `manifest.json`, written last, contains the identity (the inputs that the digest covers),
notes, a checksum of every file and one of itself. A process works in `<digest>.partial`, under a lock, and one rename makes it the artifact;
the next process resumes from a partial folder that a killed one left behind. What is stored survives a power cut: files
and folder reach the disk before the rename. A store of a URL is a local folder, the cache, before storage that others share.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import time
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from filelock import FileLock, Timeout

from prism.errors import StoreError
from prism.progress import CONSOLE
from prism.store.files import (
    FAULTS,
    digest,
    digest_once,
    disk_fault,
    file_digest,
    folder_digest,
    list_digest,
    make_folder,
    read_json,
    settle,
    sync,
    unwritable,
    write_bytes,
    write_text,
)
from prism.store.manifest import MANIFEST, is_whole, made, pending, read_manifest, verify

if TYPE_CHECKING:
    from prism.store.shared import Shared

__all__ = [
    "FAULTS",
    "LOG",
    "MANIFEST",
    "SEGMENTS",
    "Store",
    "digest",
    "digest_once",
    "disk_fault",
    "file_digest",
    "folder_digest",
    "list_digest",
    "make_folder",
    "read_json",
    "read_manifest",
    "sync",
    "unwritable",
    "write_bytes",
    "write_text",
]

LOG, SEGMENTS = "judgements.jsonl", "shared"  # of a judge's replies, which are no artifacts (`prism.judge.ledger`)
AGAIN = "again"  # in the mark of an artifact that storage lacks: it replaces the one that is stored


class Store:
    """Artifacts under one home folder (PRISM_HOME, by default ~/.cache/prism), which `shared` storage may stand behind."""

    def __init__(self, home: Path, say: Callable[[str], object] = CONSOLE.say, shared: Shared | None = None) -> None:
        self.home, self.say, self.shared = home, say, shared
        self.used: set[str] = set()  # <kind>/<digest> of what was found or made (`prism.store.uses`)

    @property
    def name(self) -> str:
        """The folder, or the URL before which it is the cache."""
        return self.shared.remote.url if self.shared else str(self.home)

    def find(self, kind: str, identity: Mapping[str, Any]) -> Path | None:
        """The complete artifact of this identity, or None. A damaged one is set aside with a warning.

        Raises StoreError for one that this user or this machine cannot read: it may be whole.
        """
        folder = self.home / kind / digest(identity)
        here = self._find_here(folder)
        found = here or (self.shared.bring(folder) if self.shared else None)
        if found is None:
            return None
        self.used.add(f"{kind}/{folder.name}")
        if here is None:
            return found
        with contextlib.suppress(OSError):  # another user's; `prism store gc` may delete what nobody used for long
            os.utime(folder)
        if self.shared is None:
            return here
        if pending(folder).exists():  # its process was killed, or storage was away
            with contextlib.suppress(Timeout), FileLock(folder.with_suffix(".lock")).acquire(timeout=0):  # or is at it
                self.shared.offer(folder, replace=pending(folder).read_text() == AGAIN)
        return self.shared.cache.use(folder)

    def _find_here(self, folder: Path) -> Path | None:
        damaged = folder.with_name(f"{folder.name}.damaged-{time.time_ns()}")
        try:
            if not folder.exists():
                return None
            try:
                verify(folder, folder.parent.name, folder.name)
            except StoreError as error:
                with contextlib.suppress(FileNotFoundError):  # another process has set it aside already
                    os.replace(folder, damaged)
                warnings.warn(f"{error}; set aside as {damaged.name} and made again", stacklevel=3)
                return None
        except OSError as error:
            raise StoreError(
                f"{error.filename or folder}: cannot be read or set aside ({error.strerror or error}); restore access to "
                f"it, or set another --prism-home"
            ) from None
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
        before = made(folder)
        try:
            make_folder(folder.parent)
            with (
                self._locked(folder.with_suffix(".lock"), f"{kind}/{folder.name[:8]}"),
                self.shared.working(folder, again) if self.shared else contextlib.nullcontext(),
            ):
                existing = self._find_here(folder)
                if existing and not (again and made(folder) == before):
                    return existing
                partial = folder.with_suffix(".partial")
                if again:
                    shutil.rmtree(partial, ignore_errors=True)
                partial.mkdir(exist_ok=True)
                if not is_whole(partial, kind, folder.name):  # else a process was killed before its last step
                    notes = work(partial)
                    for leftover in partial.rglob(".*.*-[0-9]*"):  # half a file, also of a process on another machine
                        leftover.unlink()
                    files = sorted(file for file in partial.rglob("*") if file.is_file())
                    checksums = {file.relative_to(partial).as_posix(): file_digest(file) for file in files}
                    settle(partial)
                    manifest = {"kind": kind, "identity": identity, "files": checksums, "notes": notes}
                    manifest["check"] = digest(manifest)
                    write_bytes(partial / MANIFEST, json.dumps(manifest, indent=1, ensure_ascii=False).encode())
                sync(partial)
                if self.shared:
                    pending(folder).write_text(AGAIN if again else "")
                if existing:  # not deleted in place, where another process would find half of it
                    os.replace(existing, folder.with_suffix(f".replaced-{os.getpid()}"))
                os.replace(partial, folder)
                sync(folder.parent)
                for replaced in folder.parent.glob(f"{folder.name}.replaced-*"):  # also a killed process's
                    shutil.rmtree(replaced, ignore_errors=True)
                self.used.add(f"{kind}/{folder.name}")
                if self.shared:
                    self.shared.offer(folder, replace=again)
        except Exception as error:
            if fault := disk_fault(error):
                raise unwritable(self.home, fault) from error
            raise
        return folder

    @contextlib.contextmanager
    def _locked(self, path: Path, what: str) -> Iterator[None]:
        lock = FileLock(path)
        try:
            lock.acquire(timeout=0)
        except Timeout:
            self.say(f"waiting for {what}, which another process makes")
            lock.acquire()
        except NotImplementedError:
            raise StoreError(f"{path}: its file system has no locks; set --prism-home to a folder that has") from None
        try:
            yield
        finally:
            lock.release()

    def bring(self, names: Iterable[str]) -> None:
        """Have these artifacts (`<kind>/<digest>`) here if storage has them, several fetched at once."""
        if self.shared:
            self.shared.bring_all(self.home / name for name in names)

    def keep(self, partial: Path) -> None:
        """A checkpoint in this partial folder is whole: another machine may go on from it."""
        if self.shared:
            self.shared.keep(partial)

    def gather(self, part: str) -> Path:
        """The folder of small files beside the artifacts, with those of other machines."""
        if self.shared:
            self.shared.gather(part)
        return self.home / part

    def gather_file(self, file: Path) -> None:
        """Have the newest of a small file that is replaced, if storage has it."""
        if self.shared and not self.is_unshared(file):
            self.shared.gather_file(file.relative_to(self.home).as_posix())

    def share(self, file: Path, *, replace: bool = False) -> None:
        """A small file beside the artifacts was written: other machines may read it. Raises StoreError."""
        if self.shared:
            self.shared.share(file, replace)

    def is_unshared(self, file: Path) -> bool:
        """Whether a small file was written here, and storage did not take it yet."""
        return pending(file).exists()
