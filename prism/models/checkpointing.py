"""Gradient checkpointing: computed activations are thrown away and made again, where memory does not hold them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from trl import SFTConfig

from prism.models import cost, vision, window
from prism.models.load import Base
from prism.rows import Example
from prism.spec import Spec

# Bytes that a layer stores for its backward pass, per token and unit of (hidden + intermediate) width, rounded up. On
# an H200, 16,384 tokens a step of Qwen2.5-1.5B took 33 GiB compiled and 28 with Unsloth; 32 rows of plain TRL took 43.
ACTIVATION_BYTES = {"compiled": 8, "unsloth": 8, "transformers": 32}


def activation_bytes(model: Any, path: str) -> int:
    """Bytes that all layers store for the backward pass of one token; `path` is a key of ACTIVATION_BYTES."""
    config = model.config.get_text_config()
    return int(config.num_hidden_layers * (config.hidden_size + config.intermediate_size) * ACTIVATION_BYTES[path])


def decide(base: Base, config: SFTConfig, examples: Sequence[Example]) -> dict[str, Any]:
    """If the spec does not decide, use gradient checkpointing on a GPU only if activations exceed the memory that it may plan with.

    Sets `config.gradient_checkpointing` and returns the estimate for the notes.
    """
    if "gradient_checkpointing" in base.spec.sft or base.model.device.type != "cuda":
        return {"gradient_checkpointing": config.gradient_checkpointing}
    rows, longest = config.per_device_train_batch_size, max_length(base.spec, config)
    if config.packing:
        tokens = rows * longest
    elif base.processor:
        tokens = rows * max(map(sum, vision.lengths(base, examples)))
    else:
        tokens = rows * min(max(window.lengths(base, examples, answered=True)), longest)
    path = "compiled" if base.spec.sft.get("torch_compile") else base.library
    needed = tokens * activation_bytes(base.model, path) / 2**30
    available = cost.available_memory(base.spec) / 2**30
    config.gradient_checkpointing = needed > available
    return {
        "gradient_checkpointing": config.gradient_checkpointing,
        "activations_gib": round(needed, 2),
        "available_gib": round(available, 2),
    }


def max_length(spec: Spec, config: SFTConfig) -> int:
    """Tokens that a training row is cut to."""
    return config.max_length or spec.model.max_seq_length
