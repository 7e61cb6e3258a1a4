"""Text models that PRISM computes itself, by their configurations: which they are, and what their layers compute."""

from __future__ import annotations

from typing import Any

import torch
from transformers.modeling_rope_utils import ROPE_INIT_FUNCTIONS

# RMS norms before attention and a gated MLP, rounded before their weights, rotary positions, causal attention
LEAN = ("qwen2", "qwen3", "llama")
FAMILIES = (*LEAN, "gemma3_text")  # also by `captured` and `decode`; Gemma has four norms a layer, rounded once
WITH_TOWER = {"gemma3"}  # whose text passes no part of the tower for images
ACTIVATIONS = ("silu", "gelu_pytorch_tanh")
LAYER_TYPES = {"full_attention", "sliding_attention"}
STATIC_ROPE = ("default", "linear", "llama3")  # rotations that do not depend on the sequence length


def unsupported(config: Any) -> str:
    """Why `decode` does not support a text model; empty if it does."""
    if reason := unknown(config, FAMILIES):
        return reason
    if others := sorted(set(layer_types(config)) - LAYER_TYPES):
        return f"some of its layers are of another kind ({others[0]})"
    if (used := activation(config)) not in ACTIVATIONS:
        return f"its activation ({used}) is none of {', '.join(ACTIVATIONS)}"
    for kind in layer_types(config):
        if (rope := _rope(config, kind)["rope_type"]) not in STATIC_ROPE:
            return f"its rotary positions ({rope}) change with the length"
    return ""


def unknown(config: Any, known: tuple[str, ...]) -> str:
    """Why a text model is none of the `known` families, or computes what these do not; empty if it is one."""
    if config.model_type not in known:
        return f"{config.model_type} is none of {', '.join(known)}"
    if any(getattr(config, key, None) for key in ("attn_logit_softcapping", "final_logit_softcapping")):
        return "it caps logits"
    if getattr(config, "use_bidirectional_attention", False):
        return "its tokens see later ones"
    return ""


def text_part(causal: Any) -> Any:
    """The layers, norm and embeddings of a causal model, which may have a tower for images beside them."""
    return getattr(causal.model, "language_model", causal.model)


def head_dim(config: Any) -> int:
    return getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads


def activation(config: Any) -> str:
    """The name of the function between the MLP's products; Gemma has a key of its own for it."""
    return str(getattr(config, "hidden_activation", None) or config.hidden_act)


def layer_types(config: Any) -> list[str]:
    """Of each layer; `sliding_attention` sees a window of tokens."""
    return list(getattr(config, "layer_types", None) or ["full_attention"] * config.num_hidden_layers)


def window(config: Any, kind: str, length: int) -> int:
    """How many tokens layers of a kind see of `length`, 0 if all."""
    return config.sliding_window if kind == "sliding_attention" and config.sliding_window < length else 0


def _rope(config: Any, kind: str) -> dict[str, Any]:
    """What rotates heads in layers of a kind; Gemma 3 has one for each."""
    found: dict[str, Any] = config.rope_parameters.get(kind, config.rope_parameters)
    return found


def rotation(config: Any, kind: str, length: int, dtype: torch.dtype, device: torch.device) -> torch.Tensor:
    """Cosine and sine of each position, (length, 2, head_dim), as transformers computes them.

    The first half of the sines is negated, so that the rotation is x · cos + roll(x, head_dim / 2) · sin.
    """
    rope, width = _rope(config, kind), head_dim(config)
    if rope["rope_type"] == "default":
        exponents = torch.arange(0, width, 2, dtype=torch.float) / width
        frequencies, scale = 1.0 / rope["rope_theta"] ** exponents, 1.0
    else:
        named = {} if rope is config.rope_parameters else {"layer_type": kind}
        frequencies, scale = ROPE_INIT_FUNCTIONS[rope["rope_type"]](config, None, **named)
    angles = torch.outer(torch.arange(length, dtype=torch.float), frequencies.cpu()).repeat(1, 2)
    angles = angles.to(device)  # a GPU's cosines differ from a CPU's in the last digit
    cosines, sines = angles.cos() * scale, angles.sin() * scale
    sines[:, : width // 2] *= -1
    return torch.stack([cosines, sines], 1).to(dtype)
