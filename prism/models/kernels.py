"""Fused kernels for the operations between a decoder layer's matrix products, rounded where transformers rounds.

On a GPU these are Triton kernels; on a CPU, or without Triton, the same operations in PyTorch. A fused kernel for a
norm and the sum before it reads memory once, but must still round twice, since near-tied tokens depend on
half-precision rounding. So the kernels cast (`.to`) every value that transformers would have stored before using it.
"""

# mypy: disable-error-code="no-untyped-def"
from __future__ import annotations

from functools import cache

import torch
import torch.nn.functional as F

try:
    import triton
    import triton.language as tl
    from triton.language.extra import libdevice
except ImportError:  # CPU builds of torch do not install it
    triton = None

NO_FUSION = {"enable_fp_fusion": False}  # a fused multiply-add rounds once instead of twice
BLOCK = 1024  # elements per program of `_gated`
MAX_HEAD_DIM = 256
WARP_WIDTHS = range(128, 8161)  # for which PyTorch's norm uses one warp a row if there are many rows


@cache
def built() -> bool:
    """Whether Triton can compile kernels here; it needs a GPU, a C compiler and Python's headers."""
    if triton is None or not torch.cuda.is_available():
        return False
    try:
        x = torch.zeros(2, device="cuda")
        _gated[(1,)](x, x, 1, False, BLOCK, **NO_FUSION)
    except Exception:  # noqa: BLE001  # Triton's and its compilers' errors have no common base class
        return False
    return True


def fused(x: torch.Tensor) -> bool:
    """Whether Triton's kernels take a tensor."""
    return x.is_cuda and built()


def _normed(x: torch.Tensor, weight: torch.Tensor, eps: float) -> torch.Tensor:
    wide = x.float()
    wide = wide * torch.rsqrt(wide.square().mean(-1, keepdim=True) + eps)
    return weight * wide.to(x.dtype) if weight.dtype == x.dtype else (wide * weight).to(x.dtype)


def add_norm(
    x: torch.Tensor, more: torch.Tensor | None, weight: torch.Tensor, eps: float, alone: bool = False
) -> tuple[torch.Tensor, torch.Tensor]:
    """The residual stream `x` plus `more`, and its RMS norm times `weight`; both (tokens, hidden) like `x`.

    A norm is rounded before it is multiplied by a weight of the dtype of `x`, and after it by one in float32, as Gemma's is.
    PyTorch sums a single row with more threads than each of many rows. `alone` sums every row like a single one.
    """
    width = x.shape[1]
    if width not in WARP_WIDTHS or not fused(x):
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
        **NO_FUSION,
    )
    return summed, normed


def gated(gate_up: torch.Tensor, gelu: bool = False) -> torch.Tensor:
    """SiLU of each row's first half times its second half: (tokens, 2 × intermediate) to (tokens, intermediate).

    Or GELU, as it is approximated by a hyperbolic tangent.
    """
    if not fused(gate_up):
        gate, up = gate_up.chunk(2, -1)
        return (F.gelu(gate, approximate="tanh") if gelu else F.silu(gate)) * up
    tokens, width = len(gate_up), gate_up.shape[1] // 2
    out = gate_up.new_empty(tokens, width)
    _gated[(tokens, triton.cdiv(width, BLOCK))](gate_up, out, width, gelu, BLOCK, **NO_FUSION)
    return out


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
    """Rotate queries and keys to their positions (after Qwen3's or Gemma's norm of each head) and cache keys and values.

    `qkv` is (tokens, query + key + value heads, head_dim), `norm` (query + key heads, head_dim) or None, multiplied as by
    `add_norm`, `rotation` (positions, 2, head_dim), the first half of its sines negated, `keys` and `values` (rows, length,
    heads, head_dim). Returns the queries, (tokens, heads, head_dim), or, if `grouped`, (tokens, heads a key, key heads,
    head_dim).
    """
    tokens, all_heads, head_dim = qkv.shape
    kv_heads = keys.shape[2]
    heads = all_heads - 2 * kv_heads
    if head_dim > MAX_HEAD_DIM or not fused(qkv):
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
    # One warp sums for a norm, so with norms each head has its own program.
    heads_per_program = 1 if norm is not None else triton.next_power_of_2(all_heads)
    _rotated[(tokens, triton.cdiv(all_heads, heads_per_program))](
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
        heads_per_program,
        128 if head_dim <= 128 else MAX_HEAD_DIM,
        num_warps=1 if heads_per_program == 1 else 4,
        **NO_FUSION,
    )
    return query


if triton:

    @triton.jit
    def _squares(
        x,
        more,
        summed,
        first_chunk: tl.constexpr,
        of_warps: tl.constexpr,
        warps: tl.constexpr,
        width: tl.constexpr,
        adds: tl.constexpr,
    ):
        """Sums of squares per lane, (1, 32), over the chunks of 128 that `of_warps` of PyTorch's `warps` read.

        In the order of PyTorch's reduction: four accumulators a lane, then the upper half of the warps plus the lower.
        """
        if of_warps > 1:
            lower = _squares(x, more, summed, first_chunk, of_warps // 2, warps, width, adds)
            lane_sums = lower + _squares(
                x, more, summed, first_chunk + warps // of_warps, of_warps // 2, warps, width, adds
            )
        else:
            squares = tl.zeros((1, 128), tl.float32)
            for start in tl.static_range(first_chunk * 128, width, warps * 128):
                offsets = start + tl.arange(0, 128)[None, :]
                value = tl.load(x + offsets, offsets < width, 0.0).to(tl.float32)
                if adds:
                    value = (value + tl.load(more + offsets, offsets < width, 0.0).to(tl.float32)).to(
                        x.dtype.element_ty
                    )
                    tl.store(summed + offsets, value, offsets < width)
                    value = value.to(tl.float32)
                squares += value * value
            lane_sums = tl.sum(tl.reshape(squares, (1, 32, 4)), 2)
        return lane_sums

    @triton.jit
    def _add_norm(
        x,
        more,
        weight,
        summed,
        normed,
        eps,
        inverse_width,
        width: tl.constexpr,
        adds: tl.constexpr,
        warps: tl.constexpr,
    ):
        row = tl.program_id(0).to(tl.int64) * width
        dtype = x.dtype.element_ty
        lane_sums = _squares(x + row, more + row, summed + row, 0, warps, warps, width, adds)
        scale = tl.rsqrt(tl.sum(lane_sums, 1) * inverse_width + eps)[:, None]
        tl.debug_barrier()  # the loop below reads `summed` again
        for start in tl.static_range(0, width, 128):
            offsets = start + tl.arange(0, 128)[None, :]
            value = tl.load(summed + row + offsets, offsets < width, 0.0).to(tl.float32)
            value *= scale
            if weight.dtype.element_ty == dtype:
                value = value.to(dtype).to(tl.float32)
            value *= tl.load(weight + offsets, offsets < width, 0.0).to(tl.float32)
            tl.store(normed + row + offsets, value.to(dtype), offsets < width)

    @triton.jit
    def _gated(gate_up, out, width, gelu: tl.constexpr, block: tl.constexpr):
        row = tl.program_id(0).to(tl.int64)
        offsets = tl.program_id(1) * block + tl.arange(0, block)
        inside = offsets < width
        gate = tl.load(gate_up + row * 2 * width + offsets, inside, 0.0).to(tl.float32)
        up = tl.load(gate_up + row * 2 * width + width + offsets, inside, 0.0).to(tl.float32)
        if gelu:
            inner = 0.7978845608028654 * tl.fma(0.044715, gate * gate * gate, gate)  # nvcc fuses it in PyTorch's
            opened = 0.5 * gate * (1 + libdevice.tanh(inner))
        else:
            opened = gate / (1 + tl.exp(-gate))
        opened = opened.to(out.dtype.element_ty).to(tl.float32)
        tl.store(out + row * width + offsets, (opened * up).to(out.dtype.element_ty), inside)

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
        inverse_head_dim,
        row_stride,
        position_stride,
        heads: tl.constexpr,
        kv_heads: tl.constexpr,
        norms: tl.constexpr,
        grouped: tl.constexpr,
        head_dim: tl.constexpr,
        heads_per_program: tl.constexpr,
        block: tl.constexpr,
    ):
        token = tl.program_id(0).to(tl.int64)
        position = tl.load(positions + token)
        dtype = query.dtype.element_ty
        head = tl.program_id(1) * heads_per_program + tl.arange(0, heads_per_program)[:, None]
        offsets = tl.arange(0, block)[None, :]
        partners = (offsets + head_dim // 2) % head_dim  # each dimension's partner in the rotation
        inside = (head < heads + 2 * kv_heads) & (offsets < head_dim)
        is_rotated = inside & (head < heads + kv_heads)
        source = qkv + token * (heads + 2 * kv_heads) * head_dim + head * head_dim
        loaded = tl.load(source + offsets, inside, 0.0)
        own, partner = loaded.to(tl.float32), tl.load(source + partners, is_rotated, 0.0).to(tl.float32)
        if norms:
            if head_dim == 128:
                squares = own * own
            elif head_dim > 128:  # four accumulators a lane
                squares = tl.zeros((heads_per_program, 128), tl.float32)
                lane = tl.arange(0, 128)[None, :]
                for start in tl.static_range(0, head_dim, 128):
                    part = tl.load(source + start + lane, start + lane < head_dim, 0.0).to(tl.float32)
                    squares += part * part
                squares = tl.sum(tl.reshape(squares, (heads_per_program, 32, 4)), 2)
            else:  # for smaller heads each of PyTorch's lanes takes every 32nd element
                squares = tl.zeros((heads_per_program, 32), tl.float32)
                lane = tl.arange(0, 32)[None, :]
                for start in tl.static_range(0, head_dim, 32):
                    part = tl.load(source + start + lane, start + lane < head_dim, 0.0).to(tl.float32)
                    squares += part * part
            scale = tl.rsqrt(tl.sum(squares, 1) * inverse_head_dim + eps)[:, None]
            own, partner = own * scale, partner * scale
            if norm.dtype.element_ty == dtype:
                own, partner = own.to(dtype).to(tl.float32), partner.to(dtype).to(tl.float32)
            weight = tl.load(norm + head * head_dim + offsets, is_rotated, 0.0).to(tl.float32)
            own = (own * weight).to(dtype).to(tl.float32)
            weight = tl.load(norm + head * head_dim + partners, is_rotated, 0.0).to(tl.float32)
            partner = (partner * weight).to(dtype).to(tl.float32)
        angle = rotation + position * 2 * head_dim + offsets
        cos, sin = tl.load(angle, offsets < head_dim, 0.0), tl.load(angle + head_dim, offsets < head_dim, 0.0)
        own = (own * cos.to(tl.float32)).to(dtype).to(tl.float32)
        partner = (partner * sin.to(tl.float32)).to(dtype).to(tl.float32)
        result = (own + partner).to(dtype)
        slot = head
        if grouped:
            slot = head % (heads // kv_heads) * kv_heads + head // (heads // kv_heads)
        tl.store(query + token * heads * head_dim + slot * head_dim + offsets, result, inside & (head < heads))
        cell = tl.load(rows + token) * row_stride + position * position_stride + offsets
        tl.store(keys + cell + (head - heads) * head_dim, result, is_rotated & (head >= heads))
        tl.store(values + cell + (head - heads - kv_heads) * head_dim, loaded, inside & (head >= heads + kv_heads))
