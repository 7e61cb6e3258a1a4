"""The training step on a CPU: the trainer's own batches and loss, without products that change nothing.

What all rows of a batch begin with is computed once (`prism.models.beginnings`), and nothing is padded. The last layer makes
keys and values of every token, and the rest only of those whose next token counts. A projection multiplies by its weight
plus the adapter's product, and not by all three in turn. In float32 losses and gradients are those of TRL's own step to
rounding.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from peft import PeftModel
from peft.tuners.lora import Linear
from transformers.models.llama.modeling_llama import rotate_half
from trl import SFTConfig

from prism.models import beginnings, layout, packing
from prism.models.ahead import laid_out
from prism.models.flat import flattened, set_optimizer, trained
from prism.models.load import Base
from prism.models.loss import Head, Output
from prism.models.own_steps import CannotGoOn, another_recipe, require_finite, standing_in

ATTENTION_NAME = "prism_lean"


def unsupported(base: Base, config: SFTConfig) -> str:
    """Why an adapter is not trained in this step; empty if it is."""
    if base.model.device.type != "cpu":
        return "there is a GPU"
    if base.model.dtype != torch.float32 or config.bf16 or config.fp16:
        return "it computes in half precision"
    if config.world_size > 1:
        return "several processes share it"
    return another_recipe(base, config)


@contextmanager
def lean(trainer: Any) -> Iterator[None]:
    """Let a trainer's PEFT model compute the loss as above, and restore it afterwards. Raises CannotGoOn."""
    model: PeftModel = trainer.model
    if reason := layout.unsupported(model):
        raise CannotGoOn(reason)
    causal: Any = model.get_base_model()
    last = causal.model.layers[-1]
    forwards = {causal: _forward(causal), last: _last_layer(last)}
    forwards |= {part: _product(part) for part in model.modules() if isinstance(part, Linear)}
    forwards |= {part: _norm(part) for part in model.modules() if type(part).__name__.endswith("RMSNorm")}
    with standing_in(forwards), packing.attention(causal, ATTENTION_NAME, beginnings.attend), flattened(model) as flat:
        set_optimizer(trainer, flat, trained(model))
        yield


def _forward(causal: Any) -> Callable[..., Output]:
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
        hidden = causal.model(
            inputs_embeds=causal.model.embed_tokens(batch.ids)[None],
            position_ids=batch.positions[None],
            batch=batch,
            use_cache=False,
        ).last_hidden_state[0]
        share = rows.share(num_items_in_batch)
        sums = Head.apply(hidden, causal.lm_head.weight, batch.labels, share)
        require_finite(sums.detach())
        return Output.of(sums[0] * share, sums.detach())

    return forward


def _last_layer(layer: Any) -> Callable[..., torch.Tensor]:
    """A decoder layer of one of `layout.FAMILIES` that goes on with the tokens whose next one counts."""
    attention = layer.self_attn

    def forward(
        hidden_states: torch.Tensor,
        position_embeddings: tuple[torch.Tensor, torch.Tensor],
        batch: beginnings.Batch,
        **_: Any,
    ) -> torch.Tensor:
        def counted(x: torch.Tensor) -> torch.Tensor:
            return x.index_select(1, batch.counted)

        def heads(x: torch.Tensor) -> torch.Tensor:
            return x.unflatten(-1, (-1, attention.head_dim))

        x = layer.input_layernorm(hidden_states)
        q, k, v = heads(attention.q_proj(counted(x))), heads(attention.k_proj(x)), heads(attention.v_proj(x))
        if hasattr(attention, "q_norm"):
            q, k = attention.q_norm(q), attention.k_norm(k)
        cos, sin = (part[:, :, None] for part in position_embeddings)
        q, k = q * counted(cos) + rotate_half(q) * counted(sin), k * cos + rotate_half(k) * sin
        found = beginnings.attend_answers(q, k, v, batch, attention.scaling)
        hidden = counted(hidden_states) + attention.o_proj(found.flatten(2))
        return hidden + layer.mlp(layer.post_attention_layernorm(hidden))

    return forward


def _product(projection: Linear) -> Callable[..., torch.Tensor]:
    """What a projection with one adapter makes of its input."""
    (name,) = projection.active_adapters
    base: Any = projection.base_layer
    down, up = projection.lora_A[name].weight, projection.lora_B[name].weight
    scaling = projection.scaling[name]

    def forward(x: torch.Tensor, *_: Any, **__: Any) -> torch.Tensor:
        y: torch.Tensor = _Product.apply(x, base.weight, down, up, scaling)
        return y if base.bias is None else y + base.bias

    return forward


class _Product(torch.autograd.Function):
    """x · (weight + scaling · up · down)ᵀ, whose gradient for x takes one product, too."""

    @staticmethod
    def forward(
        ctx: Any, x: torch.Tensor, weight: torch.Tensor, down: torch.Tensor, up: torch.Tensor, scaling: float
    ) -> torch.Tensor:
        merged = torch.addmm(weight, up, down, alpha=scaling)
        ctx.save_for_backward(x, merged, down, up)
        ctx.scaling = scaling
        return x @ merged.T

    @staticmethod
    def backward(ctx: Any, *gradient: torch.Tensor) -> tuple[Any, ...]:
        x, merged, down, up = ctx.saved_tensors
        slope, rows = gradient[0].flatten(0, -2), x.flatten(0, -2)
        for_down = ((slope @ up).T @ rows).mul_(ctx.scaling)
        for_up = (slope.T @ (rows @ down.T)).mul_(ctx.scaling)
        for_x = (slope @ merged).view_as(x) if ctx.needs_input_grad[0] else None
        return for_x, None, for_down, for_up, None


def _norm(module: Any) -> Callable[[torch.Tensor], torch.Tensor]:
    def forward(x: torch.Tensor) -> torch.Tensor:
        y: torch.Tensor = _Normed.apply(x, module.weight, module.variance_epsilon)
        return y

    return forward


class _Normed(torch.autograd.Function):
    """x times a weight that does not train, divided by its root mean square; in few passes over memory."""

    @staticmethod
    def forward(ctx: Any, x: torch.Tensor, weight: torch.Tensor, eps: float) -> torch.Tensor:
        scale = torch.linalg.vector_norm(x, dim=-1, keepdim=True).square_().div_(x.shape[-1]).add_(eps).rsqrt_()
        ctx.save_for_backward(x, weight, scale)
        return (x * scale).mul_(weight)

    @staticmethod
    def backward(ctx: Any, *gradient: torch.Tensor) -> tuple[Any, ...]:
        x, weight, scale = ctx.saved_tensors
        slope = gradient[0] * weight
        share = torch.linalg.vecdot(slope, x)[..., None].mul_(scale.pow(3)).div_(-x.shape[-1])
        return slope.mul_(scale).addcmul_(x, share), None, None
