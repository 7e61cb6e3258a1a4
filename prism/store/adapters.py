"""Finds a finished adapter, in a folder or on the hub, and refuses one whose files cannot be used.

This module imports no model library, so that a fully cached run starts fast. `prism.models.adapters` checks the weights.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from prism.errors import ModelError
from prism.progress import CONSOLE
from prism.store import file_digest, hub, read_json
from prism.store.hub import Say
from prism.store.sources import PICKLES, is_local

CONFIG, WEIGHTS = "adapter_config.json", "adapter_model.safetensors"  # the names that PEFT reads
TOKENIZER = (
    "tokenizer.json",
    "tokenizer_config.json",
    "chat_template.jinja",
    "special_tokens_map.json",
    "added_tokens.json",
    "vocab.json",
    "merges.txt",
    "tokenizer.model",
)


def find_adapter(name: str, root: Path, place: str, say: Say = CONSOLE.say) -> tuple[Path, dict[str, Any]]:
    """The folder of a finished adapter, and its identity: its files' digests, and the revision of one from the hub.

    `place` is the spec's key, for messages. Of a hub adapter nothing but `CONFIG`, `WEIGHTS` and `TOKENIZER` is
    downloaded. Raises ModelError if there is none, its weights are pickled, or it is no LoRA adapter.
    """
    folder, origin = _local(name, root, place), {}
    if folder is None:
        folder = _downloaded(name, place, say)
        origin = {"hub": name, "revision": folder.name}
    _check_files(folder, place)
    _check_config(read_config(folder, place), place)
    used = (folder / file for file in (CONFIG, WEIGHTS, *TOKENIZER))
    return folder, {**origin, "files": {file.name: file_digest(file) for file in used if file.is_file()}}


def read_config(folder: Path, place: str) -> dict[str, Any]:
    """The content of adapter_config.json. Raises ModelError if it is no JSON object."""
    try:
        config = read_json((folder / CONFIG).read_text(encoding="utf-8"))
    except ValueError as error:
        raise ModelError(f"{place}: {CONFIG} is not JSON ({error}); restore the adapter") from None
    if not isinstance(config, dict):
        raise ModelError(f"{place}: {CONFIG} is a {type(config).__name__} and no JSON object; restore the adapter")
    return config


def _local(name: str, root: Path, place: str) -> Path | None:
    """The folder; None if the name is a hub id."""
    folder = (root / Path(name).expanduser()).resolve()
    if not is_local(name, root):
        return None
    if not folder.is_dir():
        raise ModelError(f"{place}: there is no such folder under {root}; correct the path")
    return folder


def _downloaded(name: str, place: str, say: Say) -> Path:
    """An adapter of the hub at this run's commit: the hub's, or the local cache's if the hub does not give it."""
    from huggingface_hub import snapshot_download

    found = hub.commit("model", name, None, place, say)
    files = [CONFIG, WEIGHTS, *TOKENIZER]
    try:
        folder = hub.patiently(
            name,
            lambda: snapshot_download(
                name, revision=found.sha, allow_patterns=files, local_files_only=bool(found.cached)
            ),
            say,
        )
    except Exception as error:  # noqa: BLE001  # an unreachable hub raises any of a dozen types of three libraries
        raise ModelError(
            f"{place}: cannot be downloaded from the hub ({hub.reason_of(error)}); put the adapter into a local folder "
            f"and set adapter to that folder"
        ) from None
    hub.remember("model", name, None)
    return Path(folder)


def _check_files(folder: Path, place: str) -> None:
    """Raise ModelError if the folder lacks one of the two files that PEFT reads; name the folder that was meant."""
    if not (folder / CONFIG).is_file():
        if inside := _inside(folder):
            count = f"{len(inside)} adapters, the last" if len(inside) > 1 else "one"
            raise ModelError(f"{place}: contains no {CONFIG}, but {count} in {inside[-1]}; set adapter to that folder")
        if (folder / "config.json").is_file():
            raise ModelError(
                f"{place}: is a whole model and no adapter; name it in [model].model_name, or set adapter to the folder "
                f"with {CONFIG}"
            )
        raise ModelError(f"{place}: contains no {CONFIG}, so it is no adapter; correct the path")
    if not (folder / WEIGHTS).is_file():
        if pickled := [file.name for pattern in PICKLES for file in folder.glob(pattern)]:
            raise ModelError(f"{place}: {pickled[0]}: a pickled adapter can run any code; convert it to safetensors")
        raise ModelError(f"{place}: contains no {WEIGHTS}; restore the adapter")


def _inside(folder: Path) -> list[str]:
    """The adapters in subfolders, by the numbers in their names: of a training run's checkpoints the newest is last."""
    found = [config.parent.relative_to(folder) for depth in ("*", "*/*") for config in folder.glob(f"{depth}/{CONFIG}")]
    return [path.as_posix() for path in sorted(found, key=lambda path: (_number(path.name), path))]


def _number(name: str) -> int:
    return int("0" + "".join(filter(str.isdecimal, name)))


def _check_config(config: dict[str, Any], place: str) -> None:
    if config.get("peft_type") != "LORA":
        raise ModelError(f"{place}: its peft_type is {config.get('peft_type')}; PRISM measures LORA adapters")
