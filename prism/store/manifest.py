"""The manifest of an artifact: what makes it whole, and how it is told from a damaged one or from another's."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

from prism.errors import StoreError
from prism.store.files import digest, file_digest, read_json

MANIFEST = "manifest.json"


def read_manifest(folder: Path) -> dict[str, Any]:
    """Raises ValueError or AttributeError if it is none."""
    return dict(read_json((folder / MANIFEST).read_text(encoding="utf-8")).items())


KEYS = {"kind", "identity", "files", "notes"}  # of a manifest, besides its checksum
MISSING = (FileNotFoundError, IsADirectoryError, NotADirectoryError)  # no file is there; another OSError is no damage


def verify(folder: Path, kind: str, expected: str) -> None:
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


def is_whole(partial: Path, kind: str, expected: str) -> bool:
    """Whether only the rename is missing; removes a manifest that says so and is wrong."""
    if not (partial / MANIFEST).exists():
        return False
    try:
        verify(partial, kind, expected)
    except StoreError:
        shutil.rmtree(partial / MANIFEST, ignore_errors=True)
        (partial / MANIFEST).unlink(missing_ok=True)
        return False
    return True


def made(folder: Path) -> tuple[int, int] | None:
    """Which making of an artifact this is: the clock of this machine has no part in it."""
    try:
        found = (folder / MANIFEST).stat()
    except OSError:
        return None
    return found.st_ino, found.st_mtime_ns


def pending(artifact: Path) -> Path:
    """The file that marks an artifact or a small file of a cache which storage does not have yet."""
    return artifact.with_name(f"{artifact.name}.pending")
