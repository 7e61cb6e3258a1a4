"""A content-addressed store of adapters, predictions and judgements, each under the digest of its inputs.

An artifact is a folder. Its `manifest.json`, written last, contains the identity (the inputs that the digest covers),
notes, a checksum of every file and one of itself. A process works in `<digest>.partial`, under a lock, and one rename makes it the artifact;
the next process resumes from a partial folder that a killed one left behind. What is stored survives a power cut: files
and folder reach the disk before the rename.
"""

from __future__ import annotations

import contextlib
import errno
import glob
import hashlib
import json
import os
import platform
import re
import shutil
import time
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import psutil
from filelock import FileLock, Timeout

from prism.errors import PrismError, StoreError
from prism.progress import CONSOLE
from prism.redaction import redacted

MANIFEST = "manifest.json"
# Why a file cannot be written: a full disk or quota, no permission, a file system that is read-only, gone or broken.
FAULTS = (
    errno.ENOSPC,
    errno.EDQUOT,
    errno.EFBIG,
    errno.EACCES,
    errno.EPERM,
    errno.EROFS,
    errno.ESTALE,
    errno.EIO,
)


def write_text(path: Path, text: str) -> None:
    """Write a text file atomically, as UTF-8, without known secrets."""
    write_bytes(path, redacted(text).encode())


def write_bytes(path: Path, content: bytes) -> None:
    """Write a file atomically, so that it survives a power cut: a temporary file on the disk, a rename, the folder.

    Removes what a killed process has left of an earlier write of this file on this machine.
    """
    make_folder(path.parent)
    prefix = f".{path.name}.{platform.node().partition('.')[0]}-"
    for leftover in path.parent.glob(glob.escape(prefix) + "*"):
        process = leftover.name.removeprefix(prefix)
        if process.isdecimal() and not psutil.pid_exists(int(process)):
            leftover.unlink(missing_ok=True)
    temporary = path.with_name(f"{prefix}{os.getpid()}")
    with temporary.open("wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())
    os.replace(temporary, path)
    sync(path.parent)


def make_folder(folder: Path) -> None:
    """Make a folder and those above it, and write the names of new ones to the disk."""
    new = [each for each in (folder, *folder.parents) if not each.exists()]
    folder.mkdir(parents=True, exist_ok=True)
    for each in new:
        sync(each.parent)


def sync(path: Path) -> None:
    """Write a file, or a folder's list of names, to the disk. Windows has no such call for folders."""
    if path.is_dir() and os.name == "nt":
        return
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def read_json(text: str) -> Any:
    """Parse JSON that PRISM did not write now.

    Raises ValueError where it is none, nested beyond what Python reads, or holds half a surrogate pair, which no file can.
    """
    try:
        content = json.loads(text)
        if "\\ud" in text.lower():
            json.dumps(content, ensure_ascii=False).encode()
        return content
    except RecursionError:
        raise ValueError("it is nested too deeply") from None


def digest(identity: object) -> str:
    """SHA-256 of an identity's canonical JSON, in hex."""
    return hashlib.sha256(canonical(identity)).hexdigest()


def canonical(identity: object) -> bytes:
    """The JSON that digests are made of."""
    return json.dumps(identity, sort_keys=True, ensure_ascii=False, separators=(",", ":")).encode()


def list_digest(parts: Iterable[object]) -> str:
    """The `digest` of a list of these, which is never in memory as a whole."""
    found = hashlib.sha256(b"[")
    for place, part in enumerate(parts):
        found.update(b"," * bool(place) + canonical(part))
    found.update(b"]")
    return found.hexdigest()


def file_digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def folder_digest(folder: Path) -> str:
    """SHA-256 over the names and bytes of a folder's files; independent of the folder's path."""
    files = sorted(file for file in folder.rglob("*") if file.is_file() and not file.name.startswith("."))
    return digest({file.relative_to(folder).as_posix(): file_digest(file) for file in files})


class Store:
    """Artifacts under one home folder (PRISM_HOME, by default ~/.cache/prism)."""

    def __init__(self, home: Path, say: Callable[[str], object] = CONSOLE.say) -> None:
        self.home, self.say = home, say

    def find(self, kind: str, identity: Mapping[str, Any]) -> Path | None:
        """The complete artifact of this identity, or None. A damaged one is set aside with a warning.

        Raises StoreError for one that this user or this machine cannot read: it may be whole.
        """
        folder = self.home / kind / digest(identity)
        damaged = folder.with_name(f"{folder.name}.damaged-{time.time_ns()}")
        try:
            if not folder.exists():
                return None
            try:
                _verify(folder, kind, folder.name)
            except StoreError as error:
                with contextlib.suppress(FileNotFoundError):  # another process has set it aside already
                    os.replace(folder, damaged)
                warnings.warn(f"{error}; set aside as {damaged.name} and made again", stacklevel=2)
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
        before = _made(folder)
        try:
            make_folder(folder.parent)
            with self._locked(folder.with_suffix(".lock"), f"{kind}/{folder.name[:8]}"):
                existing = self.find(kind, identity)
                if existing and not (again and _made(folder) == before):
                    return existing
                partial = folder.with_suffix(".partial")
                if again:
                    shutil.rmtree(partial, ignore_errors=True)
                partial.mkdir(exist_ok=True)
                if not _is_whole(partial, kind, folder.name):  # else a process was killed before its last step
                    notes = work(partial)
                    for leftover in partial.rglob(".*.*-[0-9]*"):  # half a file, also of a process on another machine
                        leftover.unlink()
                    files = sorted(file for file in partial.rglob("*") if file.is_file())
                    checksums = {file.relative_to(partial).as_posix(): file_digest(file) for file in files}
                    _settle(partial)
                    manifest = {"kind": kind, "identity": identity, "files": checksums, "notes": notes}
                    manifest["check"] = digest(manifest)
                    write_bytes(partial / MANIFEST, json.dumps(manifest, indent=1, ensure_ascii=False).encode())
                sync(partial)
                if existing:  # not deleted in place, where another process would find half of it
                    os.replace(existing, folder.with_suffix(f".replaced-{os.getpid()}"))
                os.replace(partial, folder)
                sync(folder.parent)
                for replaced in folder.parent.glob(f"{folder.name}.replaced-*"):  # also a killed process's
                    shutil.rmtree(replaced, ignore_errors=True)
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


def disk_fault(error: BaseException) -> OSError | None:
    """The error of the system behind an exception, also where a library hides it; None if there is none.

    An OSError without a number is a library's, for a missing file. safetensors gives the number in its text; torch gives
    none ("iostream error"), nor does it say that the disk is full, the one cause that it has in practice.
    """
    if isinstance(error, OSError) and error.errno is not None:
        return error
    if isinstance(error, OSError | PrismError):
        return None
    cause: BaseException | None = error
    while cause is not None:
        if isinstance(cause, OSError) and cause.errno in FAULTS:
            return cause
        if (numbered := re.search(r"\(os error (\d+)\)", str(cause))) and int(numbered[1]) in FAULTS:
            return OSError(int(numbered[1]), os.strerror(int(numbered[1])))
        if re.search(
            r"iostream error|PytorchStreamWriter failed|failed with No space left|file write failed", str(cause)
        ):
            return OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        cause = cause.__cause__ or cause.__context__
    return None


def unwritable(home: Path, error: OSError, option: str = "--prism-home") -> StoreError:
    """The error for a failed write, with its remedy; `option` is the command-line option that sets `home`."""
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        existing = next(folder for folder in (home, *home.parents) if folder.exists())
        free = shutil.disk_usage(existing).free / 2**30
        return StoreError(f"{home}: the disk is full ({free:.1f} GiB free); free some space or set another {option}")
    return StoreError(f"{error.filename or home}: {error.strerror or error}; set a writable folder with {option}")


def read_manifest(folder: Path) -> dict[str, Any]:
    """Raises ValueError or AttributeError if it is none."""
    return dict(read_json((folder / MANIFEST).read_text(encoding="utf-8")).items())


KEYS = {"kind", "identity", "files", "notes"}  # of a manifest, besides its checksum
MISSING = (FileNotFoundError, IsADirectoryError, NotADirectoryError)  # no file is there; another OSError is no damage


def _verify(folder: Path, kind: str, expected: str) -> None:
    """Raise StoreError unless the folder has the files of its manifest, and its manifest the identity `expected`.

    Raises OSError where they cannot be read.
    """
    try:
        manifest = read_manifest(folder)
        files, own, identity = dict(manifest["files"]), manifest["kind"], digest(manifest["identity"])
        check = manifest.pop("check", None)
        if manifest.keys() != KEYS or (check is not None and check != digest(manifest)):  # older ones have no checksum
            raise ValueError("it has changed since it was stored")
    except (*MISSING, ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise StoreError(f"{folder}: the manifest cannot be read ({error})") from None
    if (own, identity) != (kind, expected):
        raise StoreError(f"{folder}: it is another artifact, {own}/{identity[:8]}")
    present = {file.relative_to(folder).as_posix() for file in folder.rglob("*") if file.is_file()} - {MANIFEST}
    for name in sorted(present - files.keys()):
        raise StoreError(f"{folder / name}: the manifest does not list the file")
    for name, checksum in files.items():
        if name not in present:
            raise StoreError(f"{folder / name}: the file is missing")
        if file_digest(folder / name) != checksum:
            raise StoreError(f"{folder / name}: the file has changed since it was stored")


def _is_whole(partial: Path, kind: str, expected: str) -> bool:
    """Whether only the rename is missing; removes a manifest that says so and is wrong."""
    if not (partial / MANIFEST).exists():
        return False
    try:
        _verify(partial, kind, expected)
    except StoreError:
        shutil.rmtree(partial / MANIFEST, ignore_errors=True)
        (partial / MANIFEST).unlink(missing_ok=True)
        return False
    return True


def _made(folder: Path) -> tuple[int, int] | None:
    """Which making of an artifact this is: the clock of this machine has no part in it."""
    try:
        found = (folder / MANIFEST).stat()
    except OSError:
        return None
    return found.st_ino, found.st_mtime_ns


def _settle(folder: Path) -> None:
    """Give each file the mode that the umask allows, whichever library wrote it, and write it to the disk."""
    os.umask(mask := os.umask(0))
    for file in folder.rglob("*"):
        if file.is_symlink():
            continue
        with contextlib.suppress(PermissionError):  # a file of another user, who has settled it
            file.chmod((0o777 if file.is_dir() else 0o666) & ~mask)
        sync(file)
