"""Attention for packed training rows, in which each sample attends only to itself, and layer-wise compilation.

TRL packs samples into one long row, in which the position ids of each sample start at 0. Scaled-dot-product attention
would need a mask of size tokens × tokens to separate them; variable-length flash attention takes their boundaries
instead. `packed_attention` sets it during training, through transformers' AttentionInterface.
"""

from __future__ import annotations

import inspect
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import pairwise
from typing import Any

import numpy
import torch
import torch.nn.functional as F
from torch.nn.attention.varlen import varlen_attn
from transformers import AttentionInterface

ATTENTION_NAME = "prism_packed"
HAS_ENABLE_GQA = "enable_gqa" in inspect.signature(varlen_attn).parameters
TOKENS_PER_BOUNDARY = (
    16  # `boundaries` returns at least one entry per so many tokens, so that compiled shapes stay the same
)


def unsupported(config: Any, longest: int) -> str:
    """Why `attend` does not compute what a model of this configuration computes; empty if it does."""
    if getattr(config, "attn_logit_softcapping", None):
        return "its attention caps logits"
    window = getattr(config, "sliding_window", None)
    slides = "sliding_attention" in (getattr(config, "layer_types", None) or ["sliding_attention"])
    if window and slides and window < longest:
        return f"some layers attend to a window of {window:,} tokens only"
    return ""


def boundaries(position_ids: torch.Tensor, longest: int) -> torch.Tensor:
    """The start of each sample in a packed row, and the row's end; int32, padded with the end to a fixed length.

    `position_ids` has shape (1, tokens). The padding at the row's end, whose positions are 0, becomes samples of at
    most `longest` tokens, since the kernel leaves the output of other tokens uninitialized.
    """
    positions = position_ids[0]
    tokens = len(positions)
    used = int(positions.nonzero().max()) + 1 if bool(positions.any()) else 1
    starts = (positions[:used] == 0).nonzero()[:, 0]
    padding_starts = torch.arange(used, tokens, longest, device=positions.device)
    bounds = F.pad(torch.cat([starts, padding_starts]), (0, 1), value=tokens).to(torch.int32)
    size = max(tokens // TOKENS_PER_BOUNDARY, len(bounds) + 1) + 1
    return F.pad(bounds, (0, size - len(bounds)), value=tokens)


def samples(positions: numpy.ndarray) -> tuple[numpy.ndarray, numpy.ndarray]:
    """Where each sample of a packed row of (tokens,) positions begins, and its tokens, without the padding at the end."""
    used = int(positions.nonzero()[0].max(initial=0)) + 1
    starts = (positions[:used] == 0).nonzero()[0]
    return starts, numpy.diff(starts, append=used)


def attend(
    module: torch.nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,
    scaling: float | None = None,
    packed_boundaries: torch.Tensor | None = None,
    packed_longest: int = 0,
    **_: Any,
) -> tuple[torch.Tensor, None]:
    """Causal attention within each sample. Query (1, heads, tokens, head_dim); output (1, tokens, heads, head_dim)."""
    if packed_boundaries is None:
        raise RuntimeError("packed attention was called without packed_boundaries; use packing.packed_attention")
    if query.is_cuda:
        q, k, v = (part[0].transpose(0, 1) for part in (query, key, value))
        # torch 2.11 always groups the heads, later versions need the option.
        grouped: dict[str, Any] = {"enable_gqa": True} if HAS_ENABLE_GQA else {}
        bounds = packed_boundaries
        attended: Any = varlen_attn(
            q, k, v, bounds, bounds, packed_longest, packed_longest, scale=scaling, window_size=(-1, 0), **grouped
        )
        return attended[None], None
    parts = []
    bounds = packed_boundaries.unique().tolist()
    for start, end in pairwise(bounds):
        q, k, v = (part[:, :, start:end] for part in (query, key, value))
        parts.append(F.scaled_dot_product_attention(q, k, v, is_causal=True, scale=scaling, enable_gqa=True))
    return torch.cat(parts, 2).transpose(1, 2), None


@contextmanager
def packed_attention(model: Any, longest: int) -> Iterator[None]:
    """Give a PEFT model the attention for packed samples of at most `longest` tokens, and restore the previous one."""
    causal = model.get_base_model()

    def add_boundaries(_: Any, args: tuple, kwargs: dict[str, Any]) -> tuple[tuple, dict[str, Any]]:
        if "packed_boundaries" in kwargs:  # the captured step knows them without waiting for the GPU
            return args, kwargs
        bounds = boundaries(kwargs["position_ids"], longest)
        return args, kwargs | {"packed_boundaries": bounds, "packed_longest": longest}

    previous = causal.config._attn_implementation
    AttentionInterface.register(ATTENTION_NAME, attend)
    causal.set_attn_implementation(ATTENTION_NAME)
    hook = causal.model.register_forward_pre_hook(add_boundaries, with_kwargs=True)
    try:
        yield
    finally:
        hook.remove()
        causal.set_attn_implementation(previous)


@contextmanager
def compiled(model: Any) -> Iterator[None]:
    """Compile the decoder layers of a PEFT model one by one, and undo it afterwards.

    All layers share one compilation; compiling the whole model as one graph takes minutes.
    """
    layers = model.get_base_model().model.layers
    for layer in layers:
        layer.compile()
    try:
        yield
    finally:
        for layer in layers:
            layer._compiled_call_impl = None  # undoes `compile`; torch has no public function for that
