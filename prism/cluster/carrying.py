"""Artifacts that travel as the bytes of a tar file, where nodes do not see the store."""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from prism.errors import StoreError
from prism.store import MANIFEST, Store, file_digest, packing, read_manifest


def pack(folder: Path) -> bytes:
    """An artifact's files, its manifest included."""
    with TemporaryDirectory() as scratch:
        packed = Path(scratch) / "packed.tar"
        packing.pack(folder, packed)
        return packed.read_bytes()


def unpack(artifact: str, content: bytes, store: Store) -> Path:
    """Store an artifact, kind/digest, from `pack`, whole: under its lock, checked, with one rename.

    Raises StoreError if its files are not those of its manifest.
    """
    kind, _ = artifact.split("/")
    with TemporaryDirectory() as scratch:
        packed, arrived = Path(scratch) / "packed.tar", Path(scratch) / "arrived"
        packed.write_bytes(content)
        packing.unpack(packed, arrived)
        manifest = read_manifest(arrived)
        (arrived / MANIFEST).unlink()  # the store writes its own

        def work(folder: Path) -> Mapping[str, Any]:
            for left in folder.iterdir():  # of a training here that was killed
                shutil.rmtree(left) if left.is_dir() else left.unlink()
            for file, checksum in manifest["files"].items():
                if not (arrived / file).is_file() or file_digest(arrived / file) != checksum:
                    raise StoreError(f"{artifact[:24]}: {file} was changed on its way between machines; run it again")
            shutil.copytree(arrived, folder, dirs_exist_ok=True)
            return dict(manifest["notes"])

        return store.make(kind, manifest["identity"], work)
