"""Tells local folders from hub ids, identifies a base model, and refuses unsafe weights.

This module imports no model library, so that a fully cached run starts fast.
"""

from __future__ import annotations

import json
from pathlib import Path

from prism.errors import ModelError
from prism.progress import CONSOLE
from prism.store import digest, file_digest, hub
from prism.store.hub import Say

MODEL_NAME = "[model].model_name"  # where a spec names its base
PICKLES = ("*.bin", "*.pt", "*.pth", "*.pkl")


def is_local(name: str, root: Path) -> bool:
    """Whether a model or data set is a local folder or file; a hub id is always "owner/name"."""
    return name.startswith((".", "/", "~", "fixtures/")) or name.count("/") != 1 or (root / name).exists()


def model_source(name: str, root: Path, models: Path | None = None) -> str:
    """A model's name, or the folder in `models` that replaces a hub model: the one called like the id's last part."""
    if models and not is_local(name, root) and (folder := models / name.rpartition("/")[2]).is_dir():
        return str(folder)
    return name


def local_folder(name: str, root: Path, key: str = MODEL_NAME) -> Path:
    folder = (root / Path(name).expanduser()).resolve()
    if not folder.is_dir():
        raise ModelError(f"{name}: no such model folder under {root}; check {key}")
    return folder


def base_identity(
    name: str,
    root: Path,
    key: str = MODEL_NAME,
    revision: str | None = None,
    say: Say = CONSOLE.say,
) -> dict[str, str]:
    """The digest of a local folder, or a hub id with its commit; `revision` is a branch, tag or commit of the hub.

    Raises ModelError if a folder is missing, has only pickled weights or needs remote code, or if neither the hub nor
    its local cache has the model.
    """
    if not is_local(name, root):
        return {"hub": name, "revision": hub.commit("model", name, revision, key, say).sha}
    if revision:
        raise ModelError(f"{name}: is a local folder, which has no revision {revision!r}; delete [model].revision")
    folder = local_folder(name, root, key)
    if not (folder / "config.json").is_file():
        raise ModelError(f"{name}: contains no config.json, so it is no model folder; check {key}")
    for file in sorted(folder.glob("*config.json")):
        try:
            config = json.loads(file.read_text(encoding="utf-8"))
        except ValueError as error:
            raise ModelError(f"{name}/{file.name}: is not JSON ({error}); restore the file") from None
        if "auto_map" in config:
            raise ModelError(
                f"{name}/{file.name}: needs remote code (auto_map), which PRISM never runs; use a model that "
                f"transformers supports"
            )
    require_safetensors(folder, "model")
    found = sorted([*folder.iterdir(), *folder.glob("additional_chat_templates/**/*")])  # which transformers reads, too
    files = (file for file in found if file.is_file() and file.suffix != ".md")
    return {"bytes": digest({file.relative_to(folder).as_posix(): file_digest(file) for file in files})}


def require_safetensors(folder: Path, what: str) -> None:
    """Raise ModelError if weights exist only as pickles, since unpickling can run any code."""
    if any(folder.glob("*.safetensors")):
        return
    pickled = [file.name for pattern in PICKLES for file in folder.glob(pattern)]
    if pickled:
        raise ModelError(f"{folder.name}/{pickled[0]}: a pickled {what} can run any code; convert it to safetensors")
    raise ModelError(f"{folder.name}: contains no .safetensors file, so no {what}; restore the folder")
