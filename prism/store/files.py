"""Files that survive a power cut, digests of what is in them, and the sentence for a disk that cannot be written."""

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
from collections.abc import Iterable
from functools import lru_cache
from itertools import islice
from pathlib import Path
from typing import Any

import psutil

from prism.errors import PrismError, StoreError
from prism.redaction import redacted

AT_ONCE = 256  # parts of a list that are made JSON in one call: for each its own takes three times as long
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


def write_text(path: Path, text: str, *, durable: bool = True) -> None:
    """Write a text file atomically, as UTF-8, without known secrets."""
    write_bytes(path, redacted(text).encode(), durable=durable)


def write_bytes(path: Path, content: bytes, *, durable: bool = True) -> None:
    """Write a file atomically, so that it survives a power cut: a temporary file on the disk, a rename, the folder.

    One that is not `durable` need not survive it, which spares two waits for the disk. Removes what a killed process has
    left of an earlier write of this file on this machine.
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
        if durable:
            file.flush()
            os.fsync(file.fileno())
    os.replace(temporary, path)
    if durable:
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
    found, rest, comma = hashlib.sha256(b"["), iter(parts), b""
    while some := list(islice(rest, AT_ONCE)):
        found.update(comma + canonical(some)[1:-1])
        comma = b","
    found.update(b"]")
    return found.hexdigest()


def file_digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def digest_once(path: Path) -> str:
    """`file_digest` of an input that each seed and stage asks for, read again only where the file has changed."""
    found = path.stat()
    return _digest_once(path, found.st_size, found.st_mtime_ns, found.st_ino)


@lru_cache(1 << 16)
def _digest_once(path: Path, size: int, changed: int, inode: int) -> str:
    return file_digest(path)


def folder_digest(folder: Path) -> str:
    """SHA-256 over the names and bytes of a folder's files; independent of the folder's path."""
    files = sorted(file for file in folder.rglob("*") if file.is_file() and not file.name.startswith("."))
    return digest({file.relative_to(folder).as_posix(): file_digest(file) for file in files})


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


def settle(folder: Path) -> None:
    """Give each file the mode that the umask allows, whichever library wrote it, and write it to the disk."""
    os.umask(mask := os.umask(0))
    for file in folder.rglob("*"):
        if file.is_symlink():
            continue
        with contextlib.suppress(PermissionError):  # a file of another user, who has settled it
            file.chmod((0o777 if file.is_dir() else 0o666) & ~mask)
        sync(file)
