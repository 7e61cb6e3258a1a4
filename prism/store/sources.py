"""Where a model or a set of rows comes from: a local folder or the hub, which revision, and whether its weights are safe.

Nothing here imports a model library: a run whose results are all cached asks these questions and stops.
"""

from __future__ import annotations

import json
from pathlib import Path

from prism.errors import ModelError
from prism.store import digest, file_digest

PICKLES = ("*.bin", "*.pt", "*.pth", "*.pkl")


def is_local(name: str, root: Path) -> bool:
    """Whether a model or a set of rows is a local folder or file: a hub id is "owner/name" and nothing else."""
    return name.startswith((".", "/", "~", "fixtures/")) or name.count("/") != 1 or (root / name).exists()


def local_folder(name: str, root: Path, key: str = "[model].model_name") -> Path:
    folder = (root / Path(name).expanduser()).resolve()
    if not folder.is_dir():
        raise ModelError(f"{name}: no such model folder under {root}; check {key}")
    return folder


def base_identity(name: str, root: Path, key: str = "[model].model_name") -> dict[str, str]:
    """A local folder's bytes, or a hub id with its revision.

    Raises ModelError for a folder that is missing, holds pickled weights only, or asks for remote code, and where the
    hub cannot be reached.
    """
    if not is_local(name, root):
        return {"hub": name, "revision": hub_revision(name, key)}
    folder = local_folder(name, root, key)
    if not (folder / "config.json").is_file():
        raise ModelError(f"{name}: holds no config.json, so it is no model folder; check {key}")
    for file in sorted(folder.glob("*config.json")):
        try:
            config = json.loads(file.read_text(encoding="utf-8"))
        except ValueError as error:
            raise ModelError(f"{name}/{file.name}: is not JSON ({error}); restore the folder") from None
        if "auto_map" in config:
            raise ModelError(
                f"{name}/{file.name}: asks for remote code (auto_map), which PRISM never runs; use a model that "
                f"transformers knows"
            )
    require_safetensors(folder, "model")
    files = (file for file in sorted(folder.iterdir()) if file.is_file() and file.suffix != ".md")
    return {"bytes": digest({file.name: file_digest(file) for file in files})}


def require_safetensors(folder: Path, what: str) -> None:
    """Refuse weights that exist only as pickles: unpickling runs whatever code they hold."""
    if any(folder.glob("*.safetensors")):
        return
    pickled = [file.name for pattern in PICKLES for file in folder.glob(pattern)]
    if pickled:
        raise ModelError(f"{folder.name}/{pickled[0]}: a pickled {what}, which can run code; convert it to safetensors")
    raise ModelError(f"{folder.name}: holds no .safetensors file, so there is no {what} in it; restore the folder")


def hub_revision(name: str, key: str = "[model].model_name") -> str:
    """The commit of a hub model: asked of the hub, or of the local cache where the hub cannot be reached."""
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
            f"{name}: is neither a folder here nor a model of the hub that you may read; check {key}"
        ) from None
    except (httpx.HTTPError, HfHubHTTPError, OfflineModeIsEnabled, OSError) as error:
        cached = try_to_load_from_cache(name, "config.json")
        if isinstance(cached, str):
            return Path(cached).parent.name
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise ModelError(
            f"{name}: the model hub cannot be reached ({reason}); put the model into a local folder and name that "
            f"folder in {key} (for rows: --prism-data)"
        ) from None
