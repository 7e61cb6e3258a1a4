"""The seal on a finished run's folder: the checksums of its files, so that a file that changed since is named.

It stops accidents and edits by hand. It does not stop a forger, who can seal what he made.
"""

from __future__ import annotations

import json
from pathlib import Path

from prism.errors import StoreError
from prism.store import digest, file_digest, read_json, write_text

SEAL = "seal.json"
AGAIN = "run the benchmarks again, which makes nothing anew that the store still holds"


def seal(folder: Path) -> None:
    """Write the checksums of a folder's files, as its last file. Hidden files are left out: they are nobody's result."""
    files = {name: file_digest(folder / name) for name in sorted(_names(folder))}
    write_text(folder / SEAL, json.dumps({"checksum": digest(files), "files": files}, indent=1) + "\n")


def require_sealed(folder: Path, *parts: str) -> list[str]:
    """The names of a sealed folder's files, or of those in some of its `parts`, relative to it and sorted.

    Raises StoreError if it has no seal, or if one of these files was changed, added, removed or made a link since.
    """
    path = folder / SEAL
    if not path.is_file():
        raise StoreError(f"{folder}: has no {SEAL}, so it is not a finished run, or one of an older PRISM; {AGAIN}")
    try:
        content = read_json(path.read_text(encoding="utf-8"))
        files, checksum = content["files"], content["checksum"]
        whole = isinstance(files, dict) and digest(files) == checksum
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise StoreError(f"{path}: cannot be read ({error!r}); {AGAIN}") from None
    if not whole:
        raise StoreError(f"{path}: was edited by hand or damaged, its checksum differs; {AGAIN}")
    present = _names(folder)
    for name in sorted(present | files.keys()):
        if parts and name.partition("/")[0] not in parts:
            continue
        if name not in present:
            raise StoreError(f"{folder / name}: was removed since the run was finished; {AGAIN}")
        if name not in files:
            raise StoreError(f"{folder / name}: was added since the run was finished; move it away")
        if file_digest(folder / name) != files[name]:
            raise StoreError(f"{folder / name}: was changed since the run was finished; {AGAIN}")
    return sorted(name for name in files if not parts or name.partition("/")[0] in parts)


def _names(folder: Path) -> set[str]:
    """The files of a folder, without hidden ones. Raises StoreError for a link, which could lead anywhere."""
    found = {path.relative_to(folder): path for path in folder.rglob("*")}
    shown = {name: path for name, path in found.items() if not any(part.startswith(".") for part in name.parts)}
    for path in shown.values():
        if path.is_symlink():
            raise StoreError(f"{path}: is a link, which a run's folder has none of; {AGAIN}")
    return {name.as_posix() for name, path in shown.items() if path.is_file()} - {SEAL}
