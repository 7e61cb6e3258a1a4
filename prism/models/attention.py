"""Attention of a step of answers, one new token a row, added up in the order of PyTorch's flash attention.

Flash attention works on tiles of 128 queries, of which a step fills as many as heads share a key, and reads keys and values at
a third of the memory's speed. This kernel's tiles are small, so that more of them are in flight. In half precision the order of
a sum decides some answers, so it takes keys in the same blocks, the last first, and adds up what each of a warp's lanes adds up
there (`compute_attn_1rowblock` and `softmax.h` of flash attention 2). `usable` tries whether the results are the same to the bit.
"""

# mypy: disable-error-code="no-untyped-def"
from __future__ import annotations

import math
from functools import cache

import numpy
import torch
import torch.nn.functional as F

from prism.models import kernels

try:
    import triton
    import triton.language as tl
except ImportError:  # CPU builds of torch do not install it
    triton = None

# head_dim: keys of a block of flash attention's, whose blocks are others on GPUs of compute capability 8.6 and 8.9
BLOCKS = {64: 128, 128: 64}
MANY = 512  # programs; fewer leave room for more blocks of each in flight
TILE = 16  # queries that share a key, at most; the least that a tensor core takes


def attended(query: torch.Tensor, keys: torch.Tensor, values: torch.Tensor, used: torch.Tensor) -> torch.Tensor:
    """What one query a head and row reads in the first `used` tokens of its row. Returns (rows, heads, head_dim).

    `query` is (rows, heads, head_dim), `keys` and `values` (rows, length, key heads, head_dim), `used` (rows, int32), above 0.
    """
    rows, heads, head_dim = query.shape
    out = torch.empty_like(query)
    # In the precision of flash attention's own: its scale is a float, the logarithm a double.
    scale = float(numpy.float32(float(numpy.float32(1 / math.sqrt(head_dim))) * math.log2(math.e)))
    _attended[(rows, keys.shape[2])](
        query,
        keys,
        values,
        used,
        out,
        scale,
        keys.stride(0),
        keys.stride(1),
        heads // keys.shape[2],
        heads * head_dim,
        head_dim,
        BLOCKS[head_dim],
        TILE,
        num_warps=1,  # whose lanes then hold what they hold in flash attention
        num_stages=2 if rows * keys.shape[2] >= MANY else 3,
        **kernels.NO_FUSION,
    )
    return out


def flash(
    query: torch.Tensor,
    keys: torch.Tensor,
    values: torch.Tensor,
    used: torch.Tensor,
    starts: torch.Tensor,
    row_starts: torch.Tensor,
    longest: int,
    causal: bool = False,
    scale: float | None = None,
    window: int = 0,
) -> torch.Tensor:
    """What queries of several tokens a row read, by PyTorch's flash attention. Returns (tokens, heads, head_dim) like `query`.

    `keys`, `values` and `used` are those of `attended`. `starts` and `row_starts` (rows + 1, int32) are where the tokens of each
    row begin in `query`, and in `keys`; `longest` is the most tokens of a row. If `causal`, the last token sees all that is used;
    else each does. Of that, with a `window`, a token sees as many of the last ones, itself included.
    """
    length, kv_heads, head_dim = keys.shape[1:]
    if window and not causal:  # one token a row, or several that stand at the same place
        row_starts = row_starts + F.pad((used - window).clamp(min=0), (0, 1))
        used = used.clamp(max=window)
    found: torch.Tensor = torch.ops.aten._flash_attention_forward(
        query,
        keys.view(-1, kv_heads, head_dim),
        values.view(-1, kv_heads, head_dim),
        starts,
        row_starts,
        longest,
        length,
        0.0,  # dropout
        causal,
        False,  # debug mask
        scale=scale,
        window_size_left=window - 1 if window and causal else None,
        window_size_right=0 if window and causal else None,
        seqused_k=used,
    )[0]
    return found


def padded(
    query: torch.Tensor,
    keys: torch.Tensor,
    values: torch.Tensor,
    row: torch.Tensor,
    column: torch.Tensor,
    positions: torch.Tensor,
    longest: int,
    scale: float | None = None,
    window: int = 0,
) -> torch.Tensor:
    """What `flash` gives, where it does not run: each token, the `column`th of a `row`, sees what stands up to its position."""
    heads, head_dim = query.shape[1:]
    rows, length, kv_heads = keys.shape[:3]
    spread = query.new_zeros(rows, longest, heads, head_dim)
    spread[row, column] = query
    stands = torch.zeros(rows, longest, dtype=torch.long, device=query.device)
    stands[row, column] = positions
    behind = stands[:, None, :, None] - torch.arange(length, device=query.device)
    found = F.scaled_dot_product_attention(
        spread.transpose(1, 2),
        keys.transpose(1, 2).repeat_interleave(heads // kv_heads, 1),
        values.transpose(1, 2).repeat_interleave(heads // kv_heads, 1),
        attn_mask=(behind >= 0) & (behind < window) if window else behind >= 0,
        scale=scale,
    )
    return found.transpose(1, 2)[row, column]


def grouped_flash(query: torch.Tensor, keys: torch.Tensor, values: torch.Tensor, used: torch.Tensor) -> torch.Tensor:
    """As `attended`, by `flash`, to which query heads that share a key are tokens."""
    rows, heads, head_dim = query.shape
    length, kv_heads = keys.shape[1:3]
    starts = torch.arange(rows + 1, device=query.device, dtype=torch.int32)
    grouped = query.view(rows, kv_heads, -1, head_dim).transpose(1, 2)
    group = heads // kv_heads
    found = flash(grouped.flatten(0, 1), keys, values, used, starts * group, starts * length, group)
    return found.view(grouped.shape).transpose(1, 2).reshape(query.shape)


@cache
def usable(heads: int, kv_heads: int, head_dim: int, dtype: torch.dtype) -> bool:
    """Whether `attended` gives what flash attention gives, to the bit; tried once in a process for each shape of a model."""
    if head_dim not in BLOCKS or heads // kv_heads > TILE or not kernels.built():
        return False
    draw, length = torch.Generator("cuda").manual_seed(0), 300
    for rows in (-(-MANY // kv_heads), -(-64 // kv_heads)):
        query = torch.randn(rows, heads, head_dim, device="cuda", generator=draw).mul_(2).to(dtype)
        keys, values = torch.randn(2, rows, length, kv_heads, head_dim, device="cuda", generator=draw).to(dtype)
        used = torch.linspace(1, length, rows, device="cuda").int()
        try:
            own = attended(query, keys, values, used)
        except Exception:  # noqa: BLE001  # Triton's and its compilers' errors have no common base class
            return False
        if not torch.equal(own, grouped_flash(query, keys, values, used)):
            return False
    return True


if triton:

    @triton.jit
    def _attended(
        query,
        keys,
        values,
        used,
        out,
        scale,
        row_stride,
        position_stride: tl.constexpr,
        group: tl.constexpr,
        query_stride: tl.constexpr,
        head_dim: tl.constexpr,
        block: tl.constexpr,
        tile: tl.constexpr,
    ):
        row, kv_head = tl.program_id(0).to(tl.int64), tl.program_id(1)
        member, dims, columns = tl.arange(0, tile), tl.arange(0, head_dim), tl.arange(0, block)
        inside = (member < group)[:, None]
        at = row * query_stride + (kv_head * group + member)[:, None] * head_dim + dims[None, :]
        asked = tl.load(query + at, inside, 0.0)
        length = tl.load(used + row)
        first = row * row_stride + kv_head * head_dim
        cells = columns[:, None] * position_stride + dims[None, :]
        most = tl.full((tile,), float("-inf"), tl.float32)
        sums = tl.zeros((tile, 4), tl.float32)  # of each of four lanes
        read = tl.zeros((tile, head_dim), tl.float32)
        for start in range((length - 1) // block * block, -1, -block):
            there = columns < length - start
            here = first + start * position_stride
            key = tl.load(keys + here + cells, there[:, None], 0.0)
            value = tl.load(values + here + cells, there[:, None], 0.0)
            score = tl.where(there[None, :], tl.dot(asked, tl.trans(key)), float("-inf"))
            higher = tl.maximum(most, tl.max(score, 1))
            shrink = tl.exp2((most - higher) * scale)
            share = tl.exp2(score * scale - (higher * scale)[:, None])
            # A lane holds two of each eight columns and adds them up from left to right, after what it has; nvcc fuses
            # the product before it.
            lanes = tl.permute(tl.reshape(share, (tile, block // 8, 4, 2)), (0, 2, 1, 3))
            lanes = tl.reshape(lanes, (tile, 4, block // 4))
            begun = tl.fma(
                tl.broadcast_to(sums[:, :, None], lanes.shape),
                tl.broadcast_to(shrink[:, None, None], lanes.shape),
                lanes,
            )
            sums = tl.sum(tl.where((tl.arange(0, block // 4) == 0)[None, None, :], begun, lanes), 2)
            read = tl.dot(share.to(value.dtype), value, read * shrink[:, None])
            most = higher
        total = tl.sum(tl.sum(tl.reshape(sums, (tile, 2, 2)), 1), 1)
        result = read * tl.div_rn(tl.full((tile,), 1.0, tl.float32), total)[:, None]
        tl.store(out + at, result.to(asked.dtype), inside)
