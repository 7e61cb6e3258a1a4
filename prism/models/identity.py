"""The identities that the store's digests cover: exactly the inputs that determine an artifact.

This module imports no model library, so that a fully cached run starts fast.
"""

from __future__ import annotations

import importlib.util
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from prism.devices import cuda_devices, cuda_memory
from prism.errors import SpecError
from prism.rows import Example
from prism.rows.images import image_digests
from prism.rows.remembered import trained_on
from prism.spec import Spec
from prism.store import file_digest, list_digest, read_manifest
from prism.store.adapters import find_adapter
from prism.store.provenance import versions

# The versions of the training and the answering code on each device. Raise one if the same inputs give another adapter or other
# answers; all stored adapters or answers of users are then made again. `tests/test_identity.py` fails after a change of
# that code until its author has decided.
TRAINING_VERSION = {"cpu": 4, "cuda": 6}
ANSWERING_VERSION = {"cpu": 3, "cuda": 5}

TRAINING_LIBRARIES = (
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
ANSWERING_LIBRARIES = ("torch", "transformers", "peft", "bitsandbytes", "unsloth", "unsloth_zoo", "triton")


# Keys of [model] that determine no artifact: the base's own identity says which weights they are.
NOT_IDENTIFYING = {"model_name", "revision", "measured_with"}

ENGINES = ("auto", "plain")  # values of --prism-engine: what is fastest, or only what the libraries themselves do


def engine(spec: Spec) -> dict[str, str]:
    """The library that loads the model, the device and the dtype of its computation.

    Unsloth is for images and for little memory, and for one process; its patches can be neither compiled nor captured.
    """
    on_cpu = bool(spec.sft.get("use_cpu")) or not cuda_devices()
    small = plain_only() or bool(spec.image or spec.sft.get("gradient_checkpointing")) or _small_card(spec)
    compiled = bool(spec.sft.get("torch_compile")) or not small or spec.launch.processes > 1
    unsloth = not on_cpu and not compiled and importlib.util.find_spec("unsloth") is not None
    return {
        "library": "unsloth" if unsloth else "transformers",
        "device": "cpu" if on_cpu else "cuda",
        "dtype": spec.model.dtype or ("float32" if on_cpu else "bfloat16"),
    }


_expected: list[Spec] = []


def expect(specs: Sequence[Spec]) -> None:
    """Name all specs whose models this process may load, so that it imports no library that none of them uses."""
    _expected[:] = specs


def imports_unsloth() -> bool:
    """Whether to import Unsloth, which has to come before what it patches: not where every expected spec does without.

    The processes of `prism.models.launch` do without it, too; it would replace how the trainer divides a base.
    """
    if "LOCAL_RANK" in os.environ:
        return False
    return not _expected or any(engine(spec)["library"] == "unsloth" for spec in _expected)


def plain_only() -> bool:
    """Whether nothing may be captured while training: PRISM_ENGINE, which `--prism-engine` sets. Raises SpecError."""
    chosen = os.environ.get("PRISM_ENGINE") or ENGINES[0]
    if chosen not in ENGINES:
        raise SpecError(f"PRISM_ENGINE = {chosen!r}: must be {' or '.join(ENGINES)}; correct or unset it")
    return chosen == "plain"


def _small_card(spec: Spec) -> bool:
    """Whether a GPU has less than twice what the spec requires; training without checkpointing needs about that."""
    return any(gib < 2 * (spec.requires.vram_gb or 0) for _, gib in cuda_memory())


def adapter_identity(
    spec: Spec, base: Mapping[str, str], training: Sequence[Example], seed: int, root: Path
) -> dict[str, Any]:
    """What determines an adapter: base, rows in order, options, seed, libraries and version of the training code.

    Of a finished adapter it is the files that are used. Raises ModelError if these are missing or unsafe.
    """
    if spec.adapter:
        # [model] is part of it since the parity check merges the adapter into a float32 base but not into a 4-bit one.
        return {
            "base": dict(base),
            "finished": find_adapter(spec.adapter, root, f'{spec.id}.toml adapter = "{spec.adapter}"')[1],
            "model": spec.model.model_dump(exclude=NOT_IDENTIFYING),
            "engine": engine(spec),
            "versions": versions(TRAINING_LIBRARIES),
            "path": TRAINING_VERSION[engine(spec)["device"]],
            **({"template": spec.template} if spec.template else {}),
        }
    return {
        "base": dict(base),
        "rows": trained_on(training),
        "model": spec.model.model_dump(exclude=NOT_IDENTIFYING),
        "lora": spec.lora,
        "sft": {key: _option_identity(value, root) for key, value in spec.sft.items()},
        "seed": seed,
        "engine": engine(spec) | ({"path": "plain"} if plain_only() else {}),
        "versions": versions(TRAINING_LIBRARIES),
        "path": TRAINING_VERSION[engine(spec)["device"]],
        **({"template": spec.template} if spec.template else {}),
    }


def template_file(spec: Spec, root: Path) -> Path | None:
    """The file of `[sft].chat_template_path`, from the project's root; None if the model's own template is used.

    Raises SpecError if there is no such file.
    """
    name = spec.sft.get("chat_template_path")
    if name is None:
        return None
    file = root / Path(str(name)).expanduser()
    if not file.is_file() or file.suffix not in (".jinja", ".j2"):
        raise SpecError(
            f"{spec.id}.toml [sft] chat_template_path = {name!r}: no .jinja file of that name under {root}; correct or "
            f"delete it"
        )
    return file


def _option_identity(value: Any, root: Path) -> Any:
    """An option's value, or the digest of the file that it names (chat_template_path)."""
    if isinstance(value, str) and value and (root / value).is_file():
        return {"file": file_digest(root / value)}
    return value


def predictions_identity(
    spec: Spec, base: Mapping[str, str], adapter: str | None, examples: Sequence[Example], kind: str
) -> dict[str, Any]:
    """What determines answers. `kind` separates greedy answers from label likelihoods of the same questions."""
    return {
        "kind": kind,
        "base": dict(base),
        "adapter": adapter,
        "messages": list_digest([example.id, example.messages, image_digests(example)] for example in examples),
        "max_seq_length": spec.model.max_seq_length,
        "quantized": [spec.model.load_in_4bit, spec.model.load_in_8bit],
        "generate": spec.generate,
        "engine": engine(spec),
        "versions": versions(ANSWERING_LIBRARIES),
        "path": ANSWERING_VERSION[engine(spec)["device"]],
    }


def training_side(adapters: Mapping[int, Path], answers: Mapping[int, Path], rows: int) -> dict[str, Any]:
    """How adapters were trained and how they answered, which may differ between runs that are compared.

    `adapters` and `answers` are artifact folders by training seed, `rows` is the number of training rows, 0 if unknown.
    """
    made, answered = (read_manifest(next(iter(folders.values())))["identity"] for folders in (adapters, answers))
    # Equal in both runs, or in `made`.
    compared = {"kind", "base", "adapter", "messages", "generate", "engine", "max_seq_length"}
    return {
        **{key: value for key, value in made.items() if key != "seed"},
        **({"training_rows": rows} if rows else {}),
        "answering": {key: value for key, value in answered.items() if key not in compared},
        "adapters": {str(seed): folder.name for seed, folder in adapters.items()},
    }
