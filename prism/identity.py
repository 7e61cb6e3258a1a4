"""What determines an artifact, and nothing else: the identities that the store's digests cover.

Nothing here imports a model library: a run whose results are all cached computes these digests and stops.
"""

from __future__ import annotations

import importlib.util
import json
from collections.abc import Mapping, Sequence
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from prism.data import Example
from prism.devices import cuda_devices
from prism.errors import ModelError
from prism.metrics import Metric
from prism.spec import Spec, is_local
from prism.store import digest, file_digest

TRAINING = (
    "torch",
    "transformers",
    "peft",
    "trl",
    "accelerate",
    "bitsandbytes",
    "unsloth",
    "unsloth_zoo",
    "liger-kernel",
)
GENERATION = ("torch", "transformers", "peft", "bitsandbytes", "unsloth", "unsloth_zoo", "triton")
PICKLES = ("*.bin", "*.pt", "*.pth", "*.pkl")


def engine(spec: Spec) -> dict[str, str]:
    """The library that loads the model, the device and the number format it computes in."""
    on_cpu = bool(spec.sft.get("use_cpu")) or not cuda_devices()
    compiled = bool(spec.sft.get("torch_compile"))  # Unsloth's patches cannot be compiled
    unsloth = not on_cpu and not compiled and importlib.util.find_spec("unsloth") is not None
    return {
        "library": "unsloth" if unsloth else "transformers",
        "device": "cpu" if on_cpu else "cuda",
        "dtype": spec.model.dtype or ("float32" if on_cpu else "bfloat16"),
    }


def versions(packages: Sequence[str]) -> dict[str, str]:
    """Installed versions; a package that is not installed is left out."""
    found = {}
    for package in packages:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            continue
    return found


@cache
def own_source() -> str:
    """The digest of PRISM's own code and lexicons."""
    package = Path(__file__).parent
    files = sorted(file for file in package.rglob("*") if file.suffix in (".py", ".txt"))  # .txt: the lexicons
    return digest({str(file.relative_to(package)): file_digest(file) for file in files})


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


def adapter_identity(
    spec: Spec, base: Mapping[str, str], training: Sequence[Example], seed: int, root: Path
) -> dict[str, Any]:
    """What an adapter is made of: base, rows in order, options, seed, libraries and the training source."""
    if spec.adapter:
        folder = local_folder(spec.adapter, root)
        files = (file for file in sorted(folder.iterdir()) if file.is_file() and file.suffix != ".md")
        return {  # what its parity is checked with is part of it: a 4-bit base cannot be merged into, a float32 one can
            "base": dict(base),
            "loaded": {file.name: file_digest(file) for file in files},
            "model": spec.model.model_dump(exclude={"model_name"}),
            "engine": engine(spec),
            "versions": versions(TRAINING),
        }
    return {
        "base": dict(base),
        "rows": digest([[example.messages, example.reference] for example in training]),
        "model": spec.model.model_dump(exclude={"model_name"}),
        "lora": spec.lora,
        "sft": {key: _content(value, root) for key, value in spec.sft.items()},
        "seed": seed,
        "engine": engine(spec),
        "versions": versions(TRAINING),
        "source": _source("model", "train", "packing"),
    }


def _source(*modules: str) -> list[str]:
    return [file_digest(Path(__file__).with_name(f"{module}.py")) for module in modules]


def _content(value: Any, root: Path) -> Any:
    """An option as it stands; of one that names a file (chat_template_path), what the file holds."""
    if isinstance(value, str) and value and (root / value).is_file():
        return {"file": file_digest(root / value)}
    return value


def predictions_identity(
    spec: Spec, base: Mapping[str, str], adapter: str | None, examples: Sequence[Example], kind: str
) -> dict[str, Any]:
    """What answers are made of. `kind` tells greedy answers from label likelihoods of the same questions."""
    return {
        "kind": kind,
        "base": dict(base),
        "adapter": adapter,
        "messages": digest([[example.id, example.messages, images(example)] for example in examples]),
        "max_seq_length": spec.model.max_seq_length,
        "quantized": [spec.model.load_in_4bit, spec.model.load_in_8bit],
        "generate": spec.generate,
        "engine": engine(spec),
        "versions": versions(GENERATION),
        "source": _source("model", "generate", "decode", "kernels"),
    }


def evaluation_digest(spec: Spec, examples: Sequence[Example], further: Sequence[Metric] = ()) -> str:
    """What makes two runs comparable: held-out samples, their questions and references, metrics and `[generate]`.

    `further` metrics are those that the spec asks for beside its task's.
    """
    task = spec.load_task()
    rows = sorted([e.id, list(e.messages), e.reference, e.group, images(e)] for e in examples)
    metrics = sorted([metric.name, metric.version] for metric in (*task.METRICS, *further))
    return digest([spec.task, task.VERSION, rows, metrics, spec.generate])


def images(example: Example) -> list[str]:
    return [file_digest(image) for image in example.images]
