"""What PRISM's own training steps share: the recipes that they train, why one cannot go on, and how they stand in.

They are the captured step of a GPU and the lean step of a CPU.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from trl import SFTConfig

from prism.models import families
from prism.models.identity import plain_only
from prism.models.load import Base

KNOWN = {
    "r",
    "lora_alpha",
    "target_modules",
    "exclude_modules",
    "bias",
    "use_rslora",
    "placement",
    "rank_pattern",
    "alpha_pattern",
    "layers_to_transform",
    "layers_pattern",
}  # options of [lora] that the steps have been tried with


class CannotGoOn(Exception):  # it reports no error: the plain path trains instead
    """Why a step cannot go on, as a phrase."""


def another_recipe(base: Base, config: SFTConfig, known: tuple[str, ...]) -> str:
    """Why only the libraries themselves train an adapter, on whatever device; empty if there is no reason.

    `known` are the families of `prism.models.families` whose loss a step computes.
    """
    lora = base.spec.lora
    if plain_only():
        return "--prism-engine plain"
    if base.spec.sft.get("gradient_checkpointing"):
        return "[sft] gradient_checkpointing is set"
    if base.library != "transformers":
        return "Unsloth trains it"
    if reason := unknown_model(base.model, known):
        return reason
    if config.use_liger_kernel or config.loss_type not in (None, "nll", "chunked_nll"):
        return "[sft] chooses another loss"
    if config.neftune_noise_alpha:
        return "[sft] neftune_noise_alpha is set"
    if others := sorted(key for key, value in lora.items() if value and key not in KNOWN):
        return f"[lora] {others[0]} is set"
    return ""


def unknown_model(causal: Any, known: tuple[str, ...]) -> str:
    """Why a model's loss is not what is computed here; empty if it is."""
    config = causal.config.get_text_config()
    if causal.config is not config:
        return f"{causal.config.model_type} is none of {', '.join(known)}"
    if getattr(config, "attention_dropout", 0):
        return "its attention drops out"
    return families.unknown(config, known)


def require_finite(sums: torch.Tensor) -> None:
    """Raise CannotGoOn if the loss among `sums` is not finite."""
    if not bool(sums[0].isfinite()):
        raise CannotGoOn("the loss of a step was not finite")


@contextmanager
def standing_in(module: Any, forward: Callable[..., Any]) -> Iterator[None]:
    """Give a module another `forward`, and restore its own: the class's, or one that TRL has put in its place."""
    own = module.__dict__.get("forward")
    module.forward = forward
    try:
        yield
    finally:
        del module.forward
        if own is not None:
            module.forward = own
