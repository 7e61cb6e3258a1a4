"""Tells local folders from hub ids, identifies a base model, and refuses unsafe weights.

This module imports no model library, so that a fully cached run starts fast.
"""

from __future__ import annotations

import re
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from prism.errors import ModelError
from prism.progress import CONSOLE
from prism.store import digest, digest_once, hub, read_json
from prism.store.hub import Say

MODEL_NAME = "[model].model_name"  # where a spec names its base
PART = re.compile(r"[\w-][\w.-]*")  # a file of weights, of no other folder
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
    check_configs(folder, name)
    require_safetensors(folder, "model")
    found = sorted([*folder.iterdir(), *folder.glob("additional_chat_templates/**/*")])  # which transformers reads, too
    files = (file for file in found if file.is_file() and file.suffix != ".md")
    names = {file.relative_to(folder).as_posix(): file for file in files}
    with ThreadPoolExecutor() as threads:  # hashing lets other threads run
        return {"bytes": digest(dict(zip(names, threads.map(digest_once, names.values()))))}


def check_configs(folder: Path, name: str) -> None:
    """Raise ModelError if a model folder's JSON is none, names code that would be run, or files of another folder."""
    for file in sorted(folder.glob("*config.json")):
        require_no_code(_json_object(file, f"{name}/{file.name}"), f"{name}/{file.name}")
    for file in sorted(folder.glob("*.index.json")):
        parts = _json_object(file, f"{name}/{file.name}").get("weight_map")
        if not isinstance(parts, dict) or not all(
            isinstance(part, str) and PART.fullmatch(part) for part in parts.values()
        ):
            raise ModelError(
                f"{name}/{file.name}: its weight_map names no plain files of this folder; restore the file"
            )


def _json_object(file: Path, place: str) -> dict[str, Any]:
    try:
        content = read_json(file.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ModelError(f"{place}: is not JSON ({error}); restore the file") from None
    if not isinstance(content, dict):
        raise ModelError(f"{place}: is a {type(content).__name__} and no JSON object; restore the file")
    return content


def require_no_code(config: Any, place: str) -> None:
    """Raise ModelError if a configuration names code that a library would fetch and run: a module, a kernel of the hub.

    A kernel is named like a repository, by the key of the attention: `attn_implementation = "owner/kernel"`.
    """
    rest: list[tuple[Any, Any]] = list(config.items() if isinstance(config, dict) else enumerate(config))
    while rest:  # a stranger's may be nested more deeply than Python calls itself
        key, value = rest.pop()
        if key == "auto_map":
            raise ModelError(
                f"{place}: needs remote code (auto_map), which PRISM never runs; use a model that transformers supports"
            )
        named = value if isinstance(value, dict) else {"": value}
        if "attn_implementation" in str(key) and any("/" in str(name) for name in named.values()):
            raise ModelError(
                f"{place}: {key} = {value!r} names code of the hub, which PRISM never runs; delete the key"
            )
        if isinstance(value, dict | list):
            rest += value.items() if isinstance(value, dict) else enumerate(value)


def require_safetensors(folder: Path, what: str) -> None:
    """Raise ModelError if weights exist only as pickles, since unpickling can run any code."""
    if any(folder.glob("*.safetensors")):
        return
    pickled = [file.name for pattern in PICKLES for file in folder.glob(pattern)]
    if pickled:
        raise ModelError(f"{folder.name}/{pickled[0]}: a pickled {what} can run any code; convert it to safetensors")
    raise ModelError(f"{folder.name}: contains no .safetensors file, so no {what}; restore the folder")
