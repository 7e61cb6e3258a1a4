"""Products of weights in 8 bits as bitsandbytes makes them, without waiting for the GPU to count outliers.

Rows are quantized, multiplied in whole numbers and scaled back, but for the columns with an outlier, which are multiplied
in the rows' own precision. bitsandbytes copies the number of these columns to the CPU; here it stays on the GPU, where the
kernel that scales back goes through as many, so that a graph can hold the product. On a CPU, or without Triton, the same
sums in PyTorch.
"""

# mypy: disable-error-code="no-untyped-def"
from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F

from prism.models import kernels
from prism.models.kernels import NO_FUSION

try:
    import triton
    import triton.language as tl
except ImportError:  # CPU builds of torch do not install it
    triton = None

FEWEST_ROWS = 17  # that `torch._int_mm` takes
ROWS, COLUMNS = 256, 128  # that a program gathers; it looks through fewer rows
OUTLIERS = 64  # of them that a program multiplies at once
STEP, STEP_OF_BOTH = 1 / 127, 1 / 127**2  # of a scale: what a whole number counts
HALVES = 3 * 2**22  # added to a number and taken off again, in float32: rounds it, halves to even ones


@dataclass(frozen=True)
class Rows:
    """Quantized rows."""

    whole: torch.Tensor  # (rows, in) int8; 0 in columns with an outlier
    scales: torch.Tensor  # (rows) float32: the largest number of each row that is no outlier
    columns: torch.Tensor  # (in) int32: the columns with an outlier come first
    count: torch.Tensor  # (1) int32: how many they are


def products(x: torch.Tensor, weights: Sequence[tuple[torch.Tensor, torch.Tensor]], threshold: float) -> torch.Tensor:
    """The products of rows (rows, in) with each weight (out, in) in int8 and its scales (out), side by side, like `x`.

    A number of at least `threshold` is an outlier; 0 is none.
    """
    if not kernels.fused(x):
        quantized = _quantized(x, threshold)
        return torch.cat([_product(x, *quantized, *weight) for weight in weights], -1)
    x = x.contiguous()
    rows = _rows(x, threshold)
    apart = _apart(rows, x, x.dtype)
    y = x.new_empty(len(x), sum(len(weight) for weight, _ in weights))
    for (weight, scales), place in zip(weights, y.split([len(weight) for weight, _ in weights], -1)):
        _multiply(rows, apart, weight, scales, place)
    return y


def _apart(rows: Rows, source: torch.Tensor, dtype: torch.dtype, scales: torch.Tensor | None = None) -> torch.Tensor:
    """The columns with an outlier of rows, or of a weight with its `scales`, side by side.

    What is beside them up to a multiple of OUTLIERS is 0, all else uninitialized.
    """
    height, width = source.shape
    made = source.new_empty(height, triton.cdiv(width, OUTLIERS) * OUTLIERS, dtype=dtype)
    _gather[triton.cdiv(height, ROWS), triton.cdiv(width, COLUMNS)](
        source,
        source if scales is None else scales,
        rows.columns,
        rows.count,
        made,
        height,
        width,
        made.stride(0),
        scales is not None,
        STEP,
        OUTLIERS,
        ROWS,
        COLUMNS,
        **NO_FUSION,
    )
    return made


def _multiply(rows: Rows, apart: torch.Tensor, weight: torch.Tensor, scales: torch.Tensor, y: torch.Tensor) -> None:
    """Write a product to `y`. `apart` has the rows' columns with an outlier, the first `rows.count` of its columns."""
    own = _apart(rows, weight, apart.dtype, scales)
    product = _multiplied(rows.whole, weight)
    tile = 128 if len(apart) > 1024 else 64
    _scaled_back[triton.cdiv(len(apart), tile), triton.cdiv(len(weight), tile)](
        product,
        rows.scales,
        scales,
        apart,
        own,
        rows.count,
        y,
        *apart.shape,
        len(weight),
        y.stride(0),
        tile,
        OUTLIERS,
        STEP_OF_BOTH,
        num_warps=tile // 16,
        num_stages=3,
        **NO_FUSION,
    )


def dequantized(weight: torch.Tensor, scales: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
    """A weight (out, in) in int8 in another dtype."""
    if not kernels.fused(weight):
        return (weight * (scales[:, None] * STEP)).to(dtype)
    made = torch.empty_like(weight, dtype=dtype)
    width = weight.shape[1]
    _dequantize[(len(weight), triton.cdiv(width, 1024))](weight, scales, made, width, STEP, 1024, **NO_FUSION)
    return made


def _multiplied(whole: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
    missing = FEWEST_ROWS - len(whole)
    if missing > 0:
        return torch._int_mm(F.pad(whole, (0, 0, 0, missing)), weight.t())[: len(whole)]
    return torch._int_mm(whole, weight.t())


def _quantized(x: torch.Tensor, threshold: float) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """`whole` and `scales` of `Rows`, and which columns have an outlier."""
    half = x.half()  # as bitsandbytes does
    small = half.abs() < (threshold or torch.inf)
    apart = ~small.all(0)
    scales = half.masked_fill(~small, 0).abs().amax(1).float()
    per = torch.where(scales > 0, scales.new_tensor(127.0) / scales, 0)  # torch divides a Python number otherwise
    return (half.float() * per[:, None]).masked_fill(~small | apart, 0).round().to(torch.int8), scales, apart


def _product(
    x: torch.Tensor,
    whole: torch.Tensor,
    row_scales: torch.Tensor,
    apart: torch.Tensor,
    weight: torch.Tensor,
    scales: torch.Tensor,
) -> torch.Tensor:
    y = (_multiplied(whole, weight) * (row_scales[:, None] * scales * STEP_OF_BOTH)).half().to(x.dtype)
    return y + F.linear(x.masked_fill(~apart, 0), dequantized(weight, scales, x.dtype))


def _rows(x: torch.Tensor, threshold: float) -> Rows:
    count, width = x.shape
    threshold = threshold or torch.inf
    apart = torch.zeros(width, dtype=torch.int32, device=x.device)
    passes = min(256, triton.cdiv(count, 32))
    _find_outliers[(triton.cdiv(width, COLUMNS), passes)](x, apart, threshold, count, width, passes, COLUMNS, 32)
    columns, found = torch.empty_like(apart), torch.empty_like(apart[:1])
    _list_outliers[(1,)](apart, columns, found, width, 1024)
    whole = torch.empty_like(x, dtype=torch.int8)
    scales = torch.empty(count, dtype=torch.float32, device=x.device)
    block = triton.next_power_of_2(width)
    _quantize[(count,)](
        x, apart, whole, scales, threshold, width, HALVES, block, num_warps=max(4, min(16, block // 512)), **NO_FUSION
    )
    return Rows(whole, scales, columns, found)


@torch.library.custom_op(
    "prism::int8_product", mutates_args=(), schema="(Tensor x, Tensor weight, Tensor scales, float threshold) -> Tensor"
)
def product(x: torch.Tensor, weight: torch.Tensor, scales: torch.Tensor, threshold: float) -> torch.Tensor:
    """`products` with one weight, into which torch does not look when it compiles."""
    return products(x, [(weight, scales)], threshold)


# Within an operation that torch does not look into. Else a compiled layer keeps the forward pass's dequantized weight
# for the backward pass: six bytes a parameter, in all layers at once.
@torch.library.custom_op(
    "prism::int8_backwards", mutates_args=(), schema="(Tensor gradient, Tensor weight, Tensor scales) -> Tensor"
)
def backwards(gradient: torch.Tensor, weight: torch.Tensor, scales: torch.Tensor) -> torch.Tensor:
    """The gradient of the rows, from that of the product."""
    return gradient @ dequantized(weight, scales, gradient.dtype)


@product.register_fake
def _(x: torch.Tensor, weight: torch.Tensor, scales: torch.Tensor, threshold: float) -> torch.Tensor:
    return x.new_empty(len(x), len(weight))


@backwards.register_fake
def _(gradient: torch.Tensor, weight: torch.Tensor, scales: torch.Tensor) -> torch.Tensor:
    return gradient.new_empty(*gradient.shape[:-1], weight.shape[1])


if triton:
    # How many rows there are changes from call to call: compiled once for any number.
    @triton.jit(do_not_specialize=["count", "passes"])
    def _find_outliers(x, apart, threshold, count, width, passes, columns: tl.constexpr, rows: tl.constexpr):
        """Set `apart` of each column that has a number of at least the threshold."""
        column = tl.program_id(0) * columns + tl.arange(0, columns)
        found = tl.zeros((columns,), tl.int32)
        for start in range(tl.program_id(1) * rows, count, passes * rows):
            for first in range(start, min(start + rows, count), 16):
                row = first + tl.arange(0, 16)
                inside = (row < count)[:, None] & (column < width)[None, :]
                value = tl.load(x + row.to(tl.int64)[:, None] * width + column[None, :], inside, 0.0).to(tl.float16)
                found |= tl.max((tl.abs(value.to(tl.float32)) >= threshold).to(tl.int32), 0)
        tl.atomic_max(apart + column, found, (column < width) & (found > 0))

    @triton.jit
    def _list_outliers(apart, columns, count, width, block: tl.constexpr):
        """The columns with an outlier, in their order, and how many they are."""
        listed = 0
        for start in range(0, width, block):
            column = start + tl.arange(0, block)
            flag = tl.load(apart + column, column < width, 0)
            tl.store(columns + listed + tl.cumsum(flag, 0) - 1, column, flag > 0)
            listed += tl.sum(flag, 0)
        tl.store(count, listed)

    @triton.jit
    def _quantize(x, apart, whole, scales, threshold, width, halves: tl.constexpr, block: tl.constexpr):
        row = tl.program_id(0).to(tl.int64)
        column = tl.arange(0, block)
        inside = column < width
        value = tl.load(x + row * width + column, inside, 0.0).to(tl.float16).to(tl.float32)
        small = tl.abs(value) < threshold
        most = tl.max(tl.where(small, tl.abs(value), 0.0), 0)
        kept = small & (tl.load(apart + column, inside, 1) == 0)
        scaled = tl.where(kept, value, 0.0) * tl.where(most > 0, tl.div_rn(127.0, most), 0.0)
        tl.store(whole + row * width + column, ((scaled + halves) - halves).to(tl.int8), inside)
        tl.store(scales + row, most)

    @triton.jit(do_not_specialize=["height"])
    def _gather(
        source,
        scales,
        columns,
        count,
        made,
        height,
        width,
        stride,
        scaled: tl.constexpr,
        step: tl.constexpr,
        outliers: tl.constexpr,
        rows: tl.constexpr,
        places: tl.constexpr,
    ):
        """The listed columns of rows, side by side; those of a weight dequantized."""
        listed = tl.load(count)
        whole = (listed + outliers - 1) // outliers * outliers
        first = tl.program_id(1) * places
        if first < listed:
            place = first + tl.arange(0, places)
            column = tl.load(columns + place, place < listed, 0)
            start = tl.program_id(0) * rows
            for top in range(start, min(start + rows, height), 16):
                row = (top + tl.arange(0, 16)).to(tl.int64)
                inside = (row < height)[:, None] & (place < listed)[None, :]
                value = tl.load(source + row[:, None] * width + column[None, :], inside, 0)
                if scaled:
                    scale = tl.load(scales + row, row < height, 0.0) * step
                    value = value.to(tl.float32) * scale[:, None]
                inside = (row < height)[:, None] & (place < whole)[None, :]
                tl.store(made + row[:, None] * stride + place[None, :], value.to(made.dtype.element_ty), inside)

    @triton.jit(do_not_specialize=["rows"])
    def _scaled_back(
        product,
        row_scales,
        scales,
        apart,
        own,
        count,
        y,
        rows,
        width,
        outputs,
        row_stride,
        tile: tl.constexpr,
        outliers: tl.constexpr,
        step_of_both: tl.constexpr,
    ):
        """A tile of the product: whole numbers scaled back, and the sum over the columns with an outlier."""
        row = (tl.program_id(0) * tile + tl.arange(0, tile)).to(tl.int64)
        output = (tl.program_id(1) * tile + tl.arange(0, tile)).to(tl.int64)
        listed = tl.load(count)
        total = tl.zeros((tile, tile), tl.float32)
        for first in range(0, listed, outliers):
            place = first + tl.arange(0, outliers)
            # Masked along its rows only: a mask along what lies side by side would load one number at a time.
            left = tl.load(apart + row[:, None] * width + place[None, :], (row < rows)[:, None], 0.0)
            right = tl.load(own + output[None, :] * width + place[:, None], (output < outputs)[None, :], 0.0)
            total = tl.dot(left, right, total)
        inside = (row < rows)[:, None] & (output < outputs)[None, :]
        scale = tl.load(scales + output, output < outputs, 0.0)[None, :]
        both = tl.load(row_scales + row, row < rows, 0.0)[:, None] * scale
        number = tl.load(product + row[:, None] * outputs + output[None, :], inside, 0).to(tl.float32)
        result = (number * (both * step_of_both)).to(tl.float16).to(y.dtype.element_ty)
        result = (result.to(tl.float32) + total.to(result.dtype).to(tl.float32)).to(result.dtype)
        tl.store(y + row[:, None] * row_stride + output[None, :], result, inside)

    @triton.jit
    def _dequantize(weight, scales, made, width, step: tl.constexpr, block: tl.constexpr):
        row = tl.program_id(0).to(tl.int64)
        column = tl.program_id(1) * block + tl.arange(0, block)
        scale = tl.load(scales + row) * step
        value = tl.load(weight + row * width + column, column < width, 0).to(tl.float32) * scale
        tl.store(made + row * width + column, value.to(made.dtype.element_ty), column < width)
