"""Packed training rows in which a sample attends to itself alone, and decoder layers compiled one by one.

TRL packs samples into one long row and marks their beginnings by position ids. Plain scaled-dot-product attention
would need a mask as large as the row squared to keep them apart; flash attention for rows of unequal length takes
their boundaries instead. `worn` gives a model that attention while it is trained, through transformers' own interface.
"""

from __future__ import annotations

import inspect
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import pairwise
from typing import Any

import torch
import torch.nn.functional as F
from torch.nn.attention.varlen import varlen_attn
from transformers import AttentionInterface

NAME = "prism_packed"
GROUPED = "enable_gqa" in inspect.signature(varlen_attn).parameters
MOST = 16  # boundaries are kept for one sample in so many tokens at least, so that compiled shapes stay the same


def boundaries(position_ids: torch.Tensor, longest: int) -> torch.Tensor:
    """Where each sample of a packed row begins, and the row's end; int32, padded with the end to a fixed length.

    `position_ids` has shape (1, tokens). Padding at the row's end, whose positions are 0, is cut into samples of its own,
    none above `longest`: what the kernel leaves out it leaves unwritten.
    """
    positions = position_ids[0]
    tokens = len(positions)
    filled = int(positions.nonzero().max()) + 1 if bool(positions.any()) else 1
    starts = (positions[:filled] == 0).nonzero()[:, 0]
    rest = torch.arange(filled, tokens, longest, device=positions.device)
    found = F.pad(torch.cat([starts, rest]), (0, 1), value=tokens).to(torch.int32)
    room = max(tokens // MOST, len(found) + 1) + 1
    return F.pad(found, (0, room - len(found)), value=tokens)


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
    """Causal attention within each sample. Query (1, heads, tokens, head_dim); the answer (1, tokens, heads, head_dim)."""
    if packed_boundaries is None:
        raise RuntimeError("packed attention was asked for without the samples' boundaries")
    if query.is_cuda:
        q, k, v = (part[0].transpose(0, 1) for part in (query, key, value))
        # torch 2.11 groups the heads without being told, later ones want to be.
        grouped: dict[str, Any] = {"enable_gqa": True} if GROUPED else {}
        ends = packed_boundaries
        heard: Any = varlen_attn(
            q, k, v, ends, ends, packed_longest, packed_longest, scale=scaling, window_size=(-1, 0), **grouped
        )
        return heard[None], None
    parts = []
    ends = packed_boundaries.unique().tolist()
    for start, end in pairwise(ends):
        q, k, v = (part[:, :, start:end] for part in (query, key, value))
        parts.append(F.scaled_dot_product_attention(q, k, v, is_causal=True, scale=scaling, enable_gqa=True))
    return torch.cat(parts, 2).transpose(1, 2), None


@contextmanager
def worn(model: Any, longest: int) -> Iterator[None]:
    """Let a PEFT model train on packed rows of samples of at most `longest` tokens, and be as it was before."""
    causal = model.get_base_model()
    before = causal.config._attn_implementation

    def mark(_: Any, args: tuple, kwargs: dict[str, Any]) -> tuple[tuple, dict[str, Any]]:
        found = boundaries(kwargs["position_ids"], longest)
        return args, kwargs | {"packed_boundaries": found, "packed_longest": longest}

    AttentionInterface.register(NAME, attend)
    causal.set_attn_implementation(NAME)
    hook = causal.model.register_forward_pre_hook(mark, with_kwargs=True)
    try:
        yield
    finally:
        hook.remove()
        causal.set_attn_implementation(before)


@contextmanager
def compiled(model: Any) -> Iterator[None]:
    """Compile the decoder layers of a PEFT model, one by one, while it is trained.

    One compilation serves all layers; the whole model as one graph takes minutes.
    """
    layers = model.get_base_model().model.layers
    for layer in layers:
        layer.compile()
    try:
        yield
    finally:
        for layer in layers:
            layer._compiled_call_impl = None  # what `compile` set; torch has no call that takes it back
