"""The training step on a CPU: the trainer's own batches and loss, without products that change nothing.

What all rows of a batch begin with is computed once (`prism.models.beginnings`), and nothing is padded. The last layer makes
keys and values of every token, and the rest only of those whose next token counts. Projections of the same input multiply
by one matrix, their weights plus the adapters' products, and add to the adapters' gradients at once. In float32 losses and
gradients are those of TRL's own step to rounding.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from peft import PeftModel
from peft.tuners.lora import Linear
from trl import SFTConfig

from prism.models import beginnings, families, layout, packing
from prism.models.ahead import laid_out
from prism.models.flat import flattened, set_optimizer, trained
from prism.models.load import Base
from prism.models.loss import Head, Output
from prism.models.own_steps import CannotGoOn, another_recipe, require_finite, standing_in


def unsupported(base: Base, config: SFTConfig) -> str:
    """Why an adapter is not trained in this step; empty if it is."""
    if base.model.device.type != "cpu":
        return "there is a GPU"
    if base.model.dtype != torch.float32 or config.bf16 or config.fp16:
        return "it computes in half precision"
    if base.spec.model.quantized:
        return "its weights are quantized"
    if config.world_size > 1:
        return "several processes share it"
    if reason := another_recipe(base, config, families.LEAN):
        return reason
    model = base.model.config
    if (used := families.activation(model)) != "silu":
        return f"its activation is {used}"
    return packing.unsupported(model, config.max_length or model.max_position_embeddings)


@contextmanager
def lean(trainer: Any) -> Iterator[None]:
    """Let a trainer's PEFT model compute the loss as above, and restore it afterwards. Raises CannotGoOn."""
    model: PeftModel = trainer.model
    if reason := layout.unsupported(model):
        raise CannotGoOn(reason)
    causal: Any = model.get_base_model()
    with flattened(model) as flat, standing_in(causal, _forward(causal, flat)):
        set_optimizer(trainer, flat, trained(model))
        yield


def _forward(causal: Any, flat: torch.nn.Parameter) -> Callable[..., Output]:
    model = causal.model
    *layers, last = model.layers
    steps = [*(_Layer(layer, flat, last=False) for layer in layers), _Layer(last, flat, last=True)]

    def forward(
        input_ids: torch.Tensor,
        labels: torch.Tensor,
        attention_mask: torch.Tensor | None = None,
        position_ids: torch.Tensor | None = None,
        num_items_in_batch: torch.Tensor | int | None = None,
        **_: Any,
    ) -> Output:
        """Loss of a batch as the trainer calls the model: padded, (rows, width) each, or packed, (1, tokens)."""
        rows = laid_out(input_ids, labels, attention_mask, position_ids)
        batch = beginnings.batch_of(rows)
        x = model.embed_tokens(batch.ids)
        cos, sin = (part[0, :, None] for part in model.rotary_emb(x[None], batch.positions[None]))
        for step in steps:
            x = step(x, cos, sin, batch)
        share = rows.share(num_items_in_batch)
        sums = Head.apply(_normed(x, model.norm), causal.lm_head.weight, batch.labels, share)
        require_finite(sums.detach())
        return Output.of(sums[0] * share, sums.detach())

    return forward


class _Layer:
    """A decoder layer of one of `families.LEAN`; the last one goes on with the tokens whose next one counts."""

    def __init__(self, layer: Any, flat: torch.nn.Parameter, last: bool) -> None:
        self.layer, self.attention, self.last = layer, layer.self_attn, last
        attention, mlp = layer.self_attn, layer.mlp
        self.query, self.out = _Projections(flat, attention.q_proj), _Projections(flat, attention.o_proj)
        self.keys_values = _Projections(flat, attention.k_proj, attention.v_proj)
        self.gate_up, self.down = _Projections(flat, mlp.gate_proj, mlp.up_proj), _Projections(flat, mlp.down_proj)

    def __call__(self, x: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor, batch: beginnings.Batch) -> torch.Tensor:
        """(tokens, hidden) to the same, of the last layer (targets, hidden); `cos` and `sin` are (tokens, 1, head_dim)."""
        attention, head_dim = self.attention, self.attention.head_dim
        given = _normed(x, self.layer.input_layernorm)
        k, v = self.keys_values(given).unflatten(-1, (2, -1, head_dim)).unbind(1)
        k = _turned(k, getattr(attention, "k_norm", None), cos, sin)
        if self.last:
            x, given, cos, sin = (part.index_select(0, batch.counted) for part in (x, given, cos, sin))
        q = _turned(self.query(given).unflatten(-1, (-1, head_dim)), getattr(attention, "q_norm", None), cos, sin)
        x = x + self.out(beginnings.attend(q, k, v, batch, attention.scaling, self.last).flatten(1))
        gated = _Gated.apply(self.gate_up(_normed(x, self.layer.post_attention_layernorm)))
        return x + self.down(gated)


@dataclass(frozen=True)
class _Adapter:
    weight: torch.Tensor  # (out, in) of the projection that it lies around
    down: torch.nn.Parameter  # (rank, in)
    up: torch.nn.Parameter  # (out, rank)
    scaling: float
    rows: slice  # of the projection among those beside it


class _Projections:
    """Projections of the same input, side by side, each with one adapter or none."""

    def __init__(self, flat: torch.nn.Parameter, *parts: Any) -> None:
        bases = [getattr(part, "base_layer", part) for part in parts]
        self.flat = flat
        self.merged = torch.cat([base.weight.detach() for base in bases])  # made anew in each step
        self.biases = [base.bias for base in bases] if any(base.bias is not None for base in bases) else []
        self.adapters: list[_Adapter] = []
        row = 0
        for part, base in zip(parts, bases):
            rows = slice(row, row := row + len(base.weight))
            if isinstance(part, Linear):
                (name,) = part.active_adapters
                down: Any = part.lora_A[name].weight
                up: Any = part.lora_B[name].weight
                self.adapters.append(_Adapter(base.weight.detach(), down, up, part.scaling[name], rows))

    def __call__(self, x: torch.Tensor) -> torch.Tensor:
        """(tokens, in) to (tokens, out of all)."""
        y: torch.Tensor = _Product.apply(x, self.flat, self)
        return y + torch.cat(self.biases) if self.biases else y


class _Product(torch.autograd.Function):
    """x · (weight + scaling · up · down)ᵀ, whose gradient for x takes one product, too.

    The gradients of the adapters, views of the flat parameter's, are added up here.
    """

    @staticmethod
    def forward(ctx: Any, x: torch.Tensor, flat: torch.Tensor, parts: _Projections) -> torch.Tensor:
        for one in parts.adapters:
            torch.addmm(one.weight, one.up, one.down, alpha=one.scaling, out=parts.merged[one.rows])
        ctx.save_for_backward(x)
        ctx.parts = parts
        return x @ parts.merged.T

    @staticmethod
    def backward(ctx: Any, *gradient: torch.Tensor) -> tuple[Any, ...]:
        (x,), parts = ctx.saved_tensors, ctx.parts
        for one in parts.adapters:
            slope = gradient[0][:, one.rows]
            one.down.grad.addmm_((slope @ one.up).T, x, alpha=one.scaling)
            one.up.grad.addmm_(slope.T, x @ one.down.T, alpha=one.scaling)
        return gradient[0] @ parts.merged if ctx.needs_input_grad[0] else None, None, None


class _Gated(torch.autograd.Function):
    """silu(gate) · up, of both side by side."""

    @staticmethod
    def forward(ctx: Any, both: torch.Tensor) -> torch.Tensor:
        gate, up = both.chunk(2, -1)
        opened = F.silu(gate)
        ctx.save_for_backward(both, opened)
        return opened * up

    @staticmethod
    def backward(ctx: Any, *gradient: torch.Tensor) -> torch.Tensor:
        both, opened = ctx.saved_tensors
        (gate, up), slope = both.chunk(2, -1), torch.empty_like(both)
        for_gate, for_up = slope.chunk(2, -1)
        torch.mul(gradient[0], opened, out=for_up)
        torch.ops.aten.silu_backward.grad_input(gradient[0] * up, gate, grad_input=for_gate)
        return slope


def _turned(x: torch.Tensor, norm: Any, cos: torch.Tensor, sin: torch.Tensor) -> torch.Tensor:
    """Queries or keys (tokens, heads, head_dim), normed if the model does that, and rotated to their positions."""
    turned: torch.Tensor = _Rotated.apply(x if norm is None else _normed(x, norm), cos, sin)
    return turned


class _Rotated(torch.autograd.Function):
    """x · cos + rotate_half(x) · sin in three passes; the halves of `sin` are equal."""

    @staticmethod
    def forward(ctx: Any, x: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor) -> torch.Tensor:
        ctx.save_for_backward(cos, sin)
        return _rotated(x, cos, sin, 1)

    @staticmethod
    def backward(ctx: Any, *gradient: torch.Tensor) -> tuple[Any, ...]:
        cos, sin = ctx.saved_tensors
        return _rotated(gradient[0], cos, sin, -1), None, None


def _rotated(x: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor, direction: int) -> torch.Tensor:
    turned, half = x * cos, x.shape[-1] // 2
    (low, high), sin = x.split(half, -1), sin[..., :half]
    turned[..., :half].addcmul_(high, sin, value=-direction)
    turned[..., half:].addcmul_(low, sin, value=direction)
    return turned


def _normed(x: torch.Tensor, norm: Any) -> torch.Tensor:
    y: torch.Tensor = _Normed.apply(x, norm.weight, x.new_tensor(norm.variance_epsilon))
    return y


class _Normed(torch.autograd.Function):
    """x times a weight that does not train, divided by its root mean square; in few passes over memory."""

    @staticmethod
    def forward(ctx: Any, x: torch.Tensor, weight: torch.Tensor, eps: torch.Tensor) -> torch.Tensor:
        length = torch.linalg.vector_norm(x, dim=-1, keepdim=True)
        scale = torch.addcmul(eps, length, length, value=1 / x.shape[-1]).rsqrt_()
        ctx.save_for_backward(x, weight, scale)
        return (x * scale).mul_(weight)

    @staticmethod
    def backward(ctx: Any, *gradient: torch.Tensor) -> tuple[Any, ...]:
        x, weight, scale = ctx.saved_tensors
        slope = gradient[0] * weight
        share = torch.linalg.vecdot(slope, x)[..., None].mul_(scale).mul_(scale).mul_(scale)
        return slope.mul_(scale).addcmul_(x, share, value=-1 / x.shape[-1]), None, None
