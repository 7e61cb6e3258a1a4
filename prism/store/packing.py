"""One file of an artifact's folder: the same files give the same bytes, whoever packs them, and when."""

from __future__ import annotations

import tarfile
from pathlib import Path

from prism.errors import StoreError

BLOCK = 2**20


def pack(folder: Path, out: Path) -> None:
    """Write a folder's files as an uncompressed tar: sorted by name, without owners, times and modes of this machine."""
    with tarfile.open(out, "w", format=tarfile.PAX_FORMAT) as packed:
        for file in sorted(path for path in folder.rglob("*") if path.is_file() and not path.is_symlink()):
            member = tarfile.TarInfo(file.relative_to(folder).as_posix())
            member.size, member.mode = file.stat().st_size, 0o644
            with file.open("rb") as content:
                packed.addfile(member, content)


def unpack(packed: Path, folder: Path) -> None:
    """Write the files of a tar into a new folder.

    Raises StoreError if it is none, is cut off, or holds what `pack` does not write: links, paths that lead elsewhere.
    """
    folder.mkdir()
    try:
        with tarfile.open(packed, "r:") as tar:
            for member in tar:
                if not member.isreg():
                    raise ValueError(f"{member.name} is no file")
                tar.extract(member, folder, filter="data")
    except (tarfile.TarError, EOFError, ValueError, KeyError) as error:
        raise StoreError(f"{packed.name}: is no packed artifact ({error})") from None
