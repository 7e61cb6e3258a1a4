"""What stands between the matrix products of a decoder layer, each in one kernel, rounded where transformers rounds it.

On a GPU a kernel of Triton's, and elsewhere, or where Triton is missing, the same in PyTorch's own operations. One kernel
for a norm and the sum before it reads memory once; what it must not do is round once, too: near-tied tokens hang on
half-precision's roundings. So every value that transformers would have stored is cast (`.to`) before it is used.
"""

# mypy: disable-error-code="no-untyped-def"
from __future__ import annotations

from functools import cache

import torch
import torch.nn.functional as F

try:
    import triton
    import triton.language as tl
except ImportError:  # torch for CPUs comes without it
    triton = None

APART = {"enable_fp_fusion": False}  # a product and a sum in one instruction would be rounded once
BLOCK = 1024  # elements of one program of `_gated`
WIDEST_HEAD = 128
WIDTHS = range(128, 8161)  # in which PyTorch gives a row of a norm to one warp, where there are many


@cache
def built() -> bool:
    """Whether Triton can build its kernels here: it needs a C compiler and Python's headers beside a GPU."""
    if triton is None or not torch.cuda.is_available():
        return False
    try:
        x = torch.zeros(2, device="cuda")
        _gated[(1,)](x, x, 1, BLOCK, **APART)
    except Exception:  # noqa: BLE001  # its own errors and its compilers' have no base in common
        return False
    return True


def _fused(x: torch.Tensor) -> bool:
    return x.is_cuda and built()


def _normed(x: torch.Tensor, weight: torch.Tensor, eps: float) -> torch.Tensor:
    wide = x.float()
    return weight * (wide * torch.rsqrt(wide.square().mean(-1, keepdim=True) + eps)).to(x.dtype)


def add_norm(
    x: torch.Tensor, more: torch.Tensor | None, weight: torch.Tensor, eps: float, alone: bool = False
) -> tuple[torch.Tensor, torch.Tensor]:
    """The residual stream with `more` added, and its RMS norm times `weight`; both (tokens, hidden) like `x`.

    PyTorch adds up one row with more threads than each of many. `alone`, every row is added up as if it were one.
    """
    width = x.shape[1]
    if width not in WIDTHS or not _fused(x):
        x = x if more is None else x + more
        return x, _normed(x, weight, eps)
    summed = x if more is None else torch.empty_like(x)
    normed = torch.empty_like(x)
    threads = min(1 << (width // 4).bit_length() - 1, 512) if alone else 32
    _add_norm[(len(x),)](
        x,
        x if more is None else more,
        weight,
        summed,
        normed,
        eps,
        1 / width,
        width,
        more is not None,
        threads // 32,
        num_warps=1,
        **APART,
    )
    return summed, normed


def gated(gate_up: torch.Tensor) -> torch.Tensor:
    """SiLU of the first half of each row times its second half: (tokens, 2 × intermediate) to (tokens, intermediate)."""
    if not _fused(gate_up):
        gate, up = gate_up.chunk(2, -1)
        return F.silu(gate) * up
    tokens, width = len(gate_up), gate_up.shape[1] // 2
    found = gate_up.new_empty(tokens, width)
    _gated[(tokens, triton.cdiv(width, BLOCK))](gate_up, found, width, BLOCK, **APART)
    return found


def rotated(
    qkv: torch.Tensor,
    norm: torch.Tensor | None,
    eps: float,
    rotation: torch.Tensor,
    rows: torch.Tensor,
    positions: torch.Tensor,
    keys: torch.Tensor,
    values: torch.Tensor,
    grouped: bool = False,
) -> torch.Tensor:
    """Rotate queries and keys to their positions (after Qwen3's norm of each head) and write keys and values to the cache.

    `qkv` is (tokens, query + key + value heads, head_dim), `norm` (query + key heads, head_dim) or None, `rotation`
    (positions, 2, head_dim), the first half of its sines negative, `keys` and `values` (rows, length, heads, head_dim).
    Returns the queries, (tokens, heads, head_dim); `grouped`, the heads that share a key lie apart:
    (tokens, heads a key, key heads, head_dim).
    """
    tokens, all_heads, head_dim = qkv.shape
    kv_heads = keys.shape[2]
    heads = all_heads - 2 * kv_heads
    if head_dim > WIDEST_HEAD or not _fused(qkv):
        qk, value = qkv[:, : heads + kv_heads], qkv[:, heads + kv_heads :]
        if norm is not None:
            qk = _normed(qk, norm, eps)
        cos, sin = rotation[positions][:, :, None].unbind(1)
        qk = qk * cos + qk.roll(head_dim // 2, -1) * sin
        keys.index_put_((rows, positions), qk[:, heads:])
        values.index_put_((rows, positions), value)
        query = qk[:, :heads]
        if grouped:
            query = query.unflatten(1, (kv_heads, -1)).transpose(1, 2)
        return query.contiguous()
    query = qkv.new_empty((tokens, heads // kv_heads, kv_heads, head_dim) if grouped else (tokens, heads, head_dim))
    # A norm adds up in one warp, so that its heads take a program each.
    together = 1 if norm is not None else triton.next_power_of_2(all_heads)
    _rotated[(tokens, triton.cdiv(all_heads, together))](
        qkv,
        rotation if norm is None else norm,
        rotation,
        rows,
        positions,
        query,
        keys,
        values,
        eps,
        1 / head_dim,
        keys.stride(0),
        keys.stride(1),
        heads,
        kv_heads,
        norm is not None,
        grouped,
        head_dim,
        together,
        num_warps=1 if together == 1 else 4,
        **APART,
    )
    return query


if triton:

    @triton.jit
    def _squares(
        x,
        more,
        summed,
        chunk: tl.constexpr,
        of: tl.constexpr,
        warps: tl.constexpr,
        width: tl.constexpr,
        adds: tl.constexpr,
    ):
        """What each lane of a warp adds up, (1, 32), of the chunks of 128 that `of` of PyTorch's `warps` read.

        As its reduction does: four accumulators a lane, then the upper half of the warps is added to the lower.
        """
        if of > 1:
            lower = _squares(x, more, summed, chunk, of // 2, warps, width, adds)
            lanes = lower + _squares(x, more, summed, chunk + warps // of, of // 2, warps, width, adds)
        else:
            squares = tl.zeros((1, 128), tl.float32)
            for start in tl.static_range(chunk * 128, width, warps * 128):
                at = start + tl.arange(0, 128)[None, :]
                value = tl.load(x + at, at < width, 0.0).to(tl.float32)
                if adds:
                    value = (value + tl.load(more + at, at < width, 0.0).to(tl.float32)).to(x.dtype.element_ty)
                    tl.store(summed + at, value, at < width)
                    value = value.to(tl.float32)
                squares += value * value
            lanes = tl.sum(tl.reshape(squares, (1, 32, 4)), 2)
        return lanes

    @triton.jit
    def _add_norm(
        x, more, weight, summed, normed, eps, share, width: tl.constexpr, adds: tl.constexpr, warps: tl.constexpr
    ):
        row = tl.program_id(0).to(tl.int64) * width
        kind = x.dtype.element_ty
        lanes = _squares(x + row, more + row, summed + row, 0, warps, warps, width, adds)
        scale = tl.rsqrt(tl.sum(lanes, 1) * share + eps)[:, None]
        tl.debug_barrier()  # the sums are read again
        for start in tl.static_range(0, width, 128):
            at = start + tl.arange(0, 128)[None, :]
            value = tl.load(summed + row + at, at < width, 0.0).to(tl.float32)
            value = (value * scale).to(kind).to(tl.float32)
            value *= tl.load(weight + at, at < width, 0.0).to(tl.float32)
            tl.store(normed + row + at, value.to(kind), at < width)

    @triton.jit
    def _gated(gate_up, found, width, block: tl.constexpr):
        row = tl.program_id(0).to(tl.int64)
        at = tl.program_id(1) * block + tl.arange(0, block)
        kept = at < width
        gate = tl.load(gate_up + row * 2 * width + at, kept, 0.0).to(tl.float32)
        up = tl.load(gate_up + row * 2 * width + width + at, kept, 0.0).to(tl.float32)
        silu = (gate / (1 + tl.exp(-gate))).to(found.dtype.element_ty).to(tl.float32)
        tl.store(found + row * width + at, (silu * up).to(found.dtype.element_ty), kept)

    @triton.jit
    def _rotated(
        qkv,
        norm,
        rotation,
        rows,
        positions,
        query,
        keys,
        values,
        eps,
        share,
        row_stride,
        position_stride,
        heads: tl.constexpr,
        kv_heads: tl.constexpr,
        norms: tl.constexpr,
        grouped: tl.constexpr,
        head_dim: tl.constexpr,
        together: tl.constexpr,
    ):
        token = tl.program_id(0).to(tl.int64)
        place = tl.load(positions + token)
        kind = query.dtype.element_ty
        head = tl.program_id(1) * together + tl.arange(0, together)[:, None]
        at = tl.arange(0, 128)[None, :]
        turned = (at + head_dim // 2) % head_dim  # a dimension's partner in the rotation
        there = (head < heads + 2 * kv_heads) & (at < head_dim)
        turns = there & (head < heads + kv_heads)
        source = qkv + token * (heads + 2 * kv_heads) * head_dim + head * head_dim
        own = tl.load(source + at, there, 0.0)
        first, other = own.to(tl.float32), tl.load(source + turned, turns, 0.0).to(tl.float32)
        if norms:
            if head_dim >= 128:
                squares = first * first
            else:  # of fewer elements PyTorch's lanes take every 32nd
                squares = tl.zeros((together, 32), tl.float32)
                lane = tl.arange(0, 32)[None, :]
                for start in tl.static_range(0, head_dim, 32):
                    part = tl.load(source + start + lane, start + lane < head_dim, 0.0).to(tl.float32)
                    squares += part * part
            scale = tl.rsqrt(tl.sum(squares, 1) * share + eps)[:, None]
            first = (first * scale).to(kind).to(tl.float32)
            weight = tl.load(norm + head * head_dim + at, turns, 0.0).to(tl.float32)
            first = (first * weight).to(kind).to(tl.float32)
            other = (other * scale).to(kind).to(tl.float32)
            weight = tl.load(norm + head * head_dim + turned, turns, 0.0).to(tl.float32)
            other = (other * weight).to(kind).to(tl.float32)
        angle = rotation + place * 2 * head_dim + at
        cos, sin = tl.load(angle, at < head_dim, 0.0), tl.load(angle + head_dim, at < head_dim, 0.0)
        first = (first * cos.to(tl.float32)).to(kind).to(tl.float32)
        other = (other * sin.to(tl.float32)).to(kind).to(tl.float32)
        result = (first + other).to(kind)
        slot = head
        if grouped:
            slot = head % (heads // kv_heads) * kv_heads + head // (heads // kv_heads)
        tl.store(query + token * heads * head_dim + slot * head_dim + at, result, there & (head < heads))
        cell = tl.load(rows + token) * row_stride + place * position_stride + at
        tl.store(keys + cell + (head - heads) * head_dim, result, turns & (head >= heads))
        tl.store(values + cell + (head - heads - kv_heads) * head_dim, own, there & (head >= heads + kv_heads))
