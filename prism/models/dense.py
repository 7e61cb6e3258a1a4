"""A quantized base's layers as the captured step multiplies by them: the same products, without Python between kernels.

In 4 bits, bitsandbytes multiplies by the weight in the compute dtype, which it makes anew in each pass; here it is made
once. In 8 bits it multiplies quantized activations, but for the columns with an outlier, whose number it waits for;
here that sum has a fixed shape. The captured answering step multiplies by the same layers (`prism.models.layout`).
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
import torch.nn.functional as F
from peft.utils.integrations import dequantize_module_weight


class Int8Linear(torch.nn.Module):
    """The products of a `bitsandbytes.nn.Linear8bitLt`, whose weight (out, in) and row scales it shares."""

    def __init__(self, layer: Any) -> None:
        super().__init__()
        self.in_features, self.out_features, self.bias = layer.in_features, layer.out_features, layer.bias
        state = layer.state
        self.weight = torch.nn.Parameter(layer.weight.data if state.CB is None else state.CB, requires_grad=False)
        self.scales = (layer.weight.SCB if state.SCB is None else state.SCB).float()
        self.threshold = state.threshold

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        dtype = torch.get_autocast_dtype(x.device.type) if torch.is_autocast_enabled(x.device.type) else x.dtype
        y = _Int8Product.apply(x.to(dtype), self.weight, self.scales, self.threshold)
        return y if self.bias is None else y + self.bias.to(y.dtype)


class _Int8Product(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, x: torch.Tensor, weight: torch.Tensor, scales: torch.Tensor, threshold: float
    ) -> torch.Tensor:
        ctx.save_for_backward(weight, scales)
        rows = x.reshape(-1, x.shape[-1])
        half = rows.half()  # as bitsandbytes does
        small = half.abs() < (threshold or torch.inf)
        apart = ~small.all(0)  # the columns with an outlier
        row_scales = half.masked_fill(~small, 0).abs().amax(1).float()
        quantized = (half.float() * (127 / row_scales[:, None])).masked_fill(~small | apart, 0).round().to(torch.int8)
        product = torch._int_mm(quantized, weight.t()) if len(rows) > 16 else _small_product(quantized, weight)
        y = (product * (row_scales[:, None] * scales / 127**2)).half().to(x.dtype)
        if threshold:
            y = y + F.linear(rows.masked_fill(~apart, 0), _dequantized(weight, scales, x.dtype))
        return y.view(*x.shape[:-1], len(weight))

    @staticmethod
    def backward(ctx: Any, gradient: torch.Tensor) -> tuple[Any, ...]:  # torch compiles no *gradients
        return _backwards(gradient, *ctx.saved_tensors), None, None, None


# Within an operation that torch does not look into. Else a compiled layer keeps the forward pass's dequantized weight
# for the backward pass: six bytes a parameter, in all layers at once.
@torch.library.custom_op(
    "prism::int8_backwards", mutates_args=(), schema="(Tensor gradient, Tensor weight, Tensor scales) -> Tensor"
)
def _backwards(gradient: torch.Tensor, weight: torch.Tensor, scales: torch.Tensor) -> torch.Tensor:
    return gradient @ _dequantized(weight, scales, gradient.dtype)


@_backwards.register_fake
def _(gradient: torch.Tensor, weight: torch.Tensor, scales: torch.Tensor) -> torch.Tensor:
    return gradient.new_empty(*gradient.shape[:-1], weight.shape[1])


def _dequantized(weight: torch.Tensor, scales: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
    return (weight * (scales[:, None] / 127)).to(dtype)


def _small_product(quantized: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
    """For fewer rows than `_int_mm` takes."""
    padded = F.pad(quantized, (0, 0, 0, 32 - len(quantized)))
    return torch._int_mm(padded, weight.t())[: len(quantized)]


@contextmanager
def dense(model: Any) -> Iterator[None]:
    """Let the layers of a quantized model multiply as described above, and restore bitsandbytes' afterwards.

    Where an adapter lies around a layer, the layer within it is replaced.
    """
    import bitsandbytes

    replaced: list[tuple[Any, str, Any]] = []
    for name, layer in model.named_modules():
        parent, _, child = name.rpartition(".")
        if isinstance(layer, bitsandbytes.nn.Linear4bit | bitsandbytes.nn.Linear8bitLt):
            replaced.append((model.get_submodule(parent), child, layer))
    for parent, child, layer in replaced:
        setattr(parent, child, _linear(layer) if isinstance(layer, bitsandbytes.nn.Linear4bit) else Int8Linear(layer))
    try:
        yield
    finally:
        for parent, child, layer in replaced:
            setattr(parent, child, layer)


def _linear(layer: Any) -> torch.nn.Linear:
    """A layer with the dequantized weight of a `bitsandbytes.nn.Linear4bit`, and its bias."""
    with torch.device("meta"):
        linear = torch.nn.Linear(layer.in_features, layer.out_features, bias=False)
    linear.weight = torch.nn.Parameter(dequantize_module_weight(layer).detach(), requires_grad=False)
    linear.bias = layer.bias
    return linear
