"""Artifacts that travel as the bytes of a tar file, where nodes do not see the store."""

from __future__ import annotations

import io
import shutil
import tarfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from prism.errors import StoreError
from prism.store import MANIFEST, Store, file_digest, read_json


def pack(folder: Path) -> bytes:
    """An artifact's files, its manifest included."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as tar:
        for file in sorted(folder.rglob("*")):
            if file.is_file():
                tar.add(file, file.relative_to(folder).as_posix(), recursive=False)
    return buffer.getvalue()


def unpack(artifact: str, content: bytes, store: Store) -> Path:
    """Store an artifact, kind/digest, from `pack`, whole: under its lock, checked, with one rename.

    Raises StoreError if its files are not those of its manifest.
    """
    kind, _ = artifact.split("/")

    def work(folder: Path) -> Mapping[str, Any]:
        for left in folder.iterdir():  # of a training here that was killed
            shutil.rmtree(left) if left.is_dir() else left.unlink()
        tar.extractall(folder, members=[each for each in tar if each.name != MANIFEST], filter="data")
        for file, checksum in manifest["files"].items():
            if not (folder / file).is_file() or file_digest(folder / file) != checksum:
                raise StoreError(f"{artifact[:24]}: {file} was changed on its way between machines; run it again")
        return dict(manifest["notes"])

    with tarfile.open(fileobj=io.BytesIO(content)) as tar:
        described = tar.extractfile(MANIFEST)
        assert described is not None
        manifest = read_json(described.read().decode())
        return store.make(kind, manifest["identity"], work)
