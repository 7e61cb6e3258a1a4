"""Resolves models and data sets to a local folder or a hub revision, and refuses unsafe weights.

This module imports no model library, so that a fully cached run starts fast.
"""

from __future__ import annotations

import json
from pathlib import Path

from prism.errors import ModelError
from prism.store import digest, file_digest

PICKLES = ("*.bin", "*.pt", "*.pth", "*.pkl")


def is_local(name: str, root: Path) -> bool:
    """Whether a model or data set is a local folder or file; a hub id is always "owner/name"."""
    return name.startswith((".", "/", "~", "fixtures/")) or name.count("/") != 1 or (root / name).exists()


def local_folder(name: str, root: Path, key: str = "[model].model_name") -> Path:
    folder = (root / Path(name).expanduser()).resolve()
    if not folder.is_dir():
        raise ModelError(f"{name}: no such model folder under {root}; check {key}")
    return folder


def base_identity(name: str, root: Path, key: str = "[model].model_name") -> dict[str, str]:
    """The digest of a local folder, or a hub id with its revision.

    Raises ModelError if a folder is missing, has only pickled weights or needs remote code, or if the hub cannot be
    reached.
    """
    if not is_local(name, root):
        return {"hub": name, "revision": hub_revision(name, key)}
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


def hub_revision(name: str, key: str = "[model].model_name") -> str:
    """The commit of a hub model, from the hub, or from the local cache if the hub cannot be reached."""
    import httpx
    from huggingface_hub import HfApi, try_to_load_from_cache
    from huggingface_hub.errors import (
        HfHubHTTPError,
        HFValidationError,
        OfflineModeIsEnabled,
        RepositoryNotFoundError,
    )

    try:
        return str(HfApi().model_info(name, timeout=10).sha)
    except (HFValidationError, RepositoryNotFoundError):
        raise ModelError(
            f"{name}: is neither a local folder nor a hub model that you can access; check {key}"
        ) from None
    except (httpx.HTTPError, HfHubHTTPError, OfflineModeIsEnabled, OSError) as error:
        cached = try_to_load_from_cache(name, "config.json")
        if isinstance(cached, str):
            return Path(cached).parent.name
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise ModelError(
            f"{name}: the model hub cannot be reached ({reason}); put the model into a local folder and set "
            f"{key} to it (for rows: --prism-data)"
        ) from None
