"""The models that `decode` supports, the bytes that it needs, and its layout of a layer's weights."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from peft import PeftModel
from peft.utils.integrations import dequantize_module_weight

from prism.models import families
from prism.models.dense import Int8Linear

PROJECTIONS = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")
OF_IMAGES = ("model.vision_tower.", "model.multi_modal_projector.")  # parts that text does not pass
PREFILL = 32_768  # prompt tokens in one pass at most, which limits its memory


def unsupported(model: Any) -> str:
    """Why `decode` does not support a model; empty if it does."""
    config = model.config.get_text_config()
    if len(set(getattr(model, "hf_device_map", {}).values())) > 1:
        return "its layers lie on several GPUs"
    if model.config is not config and model.config.model_type not in families.WITH_TOWER:
        return f"{model.config.model_type} is none of {', '.join(families.FAMILIES)}"
    if reason := families.unsupported(config):
        return reason
    if uses_flash(model) and torch.cuda.get_device_capability(model.device) < (8, 0):
        return "flash attention needs a GPU of compute capability 8.0"
    return _unsupported_adapter(model) if isinstance(model, PeftModel) else ""


def uses_flash(model: Any) -> bool:
    """Whether `decode` uses flash attention, which reads only a row's used part but needs half precision and CUDA."""
    return model.device.type == "cuda" and model.dtype != torch.float32


def _unsupported_adapter(model: PeftModel) -> str:
    """Why `decode` does not support an adapter, which may only add to projections; empty if it does."""
    config: Any = model.active_peft_config
    if unsupported_options := [key for key in ("use_dora", "lora_bias") if getattr(config, key, False)]:
        return f"its adapter was made with {unsupported_options[0]}"
    adapted = (
        name
        for name, part in model.get_base_model().named_modules()
        if getattr(part, "lora_A", None) or getattr(part, "lora_embedding_A", None)
    )
    others = [name for name in adapted if name.rpartition(".")[2] not in PROJECTIONS and not name.startswith(OF_IMAGES)]
    return f"its adapter changes {others[0]}" if others else ""


def cache_bytes(model: Any) -> int:
    """Bytes of the KV cache for one token; 0 of a state-space model, which has none."""
    config = model.config.get_text_config()
    if not hasattr(config, "num_key_value_heads"):
        return 0
    width = config.num_key_value_heads * families.head_dim(config)
    return 2 * config.num_hidden_layers * width * model.dtype.itemsize


def weight_bytes(model: Any) -> int:
    """Bytes of the projections that `Decoder` copies, unless they have 8 bits; it shares embeddings and norms with the model."""
    config = model.config.get_text_config()
    width, heads = config.hidden_size, families.head_dim(config)
    attention = 2 * (config.num_attention_heads + config.num_key_value_heads) * heads * width
    return config.num_hidden_layers * (attention + 3 * width * config.intermediate_size) * model.dtype.itemsize


def pass_bytes(model: Any, tokens: int) -> int:
    """Bytes of the widest tensors in one pass over `tokens` prompt tokens, without the KV cache."""
    config = model.config.get_text_config()
    return tokens * (3 * config.intermediate_size + 6 * config.hidden_size) * model.dtype.itemsize


def norm_weight(norm: Any) -> torch.Tensor:
    """What `prism.models.kernels` multiplies a norm by. Gemma's are 1 + weight, in float32."""
    weight: torch.Tensor = norm.weight.detach()
    return 1 + weight.float() if type(norm).__name__.startswith("Gemma") else weight


def _weight(projection: Any, merge: bool) -> torch.Tensor:
    """The weight of a projection, (out, in), dequantized and, if `merge`, with its active adapters merged."""
    base = getattr(projection, "base_layer", projection)
    weight = dequantize_module_weight(base).detach()
    for adapter in _adapters(projection) if merge else ():
        weight = weight.float() + projection.get_delta_weight(adapter).float()
    return weight


def _in_8_bits(projection: Any) -> Any:
    """bitsandbytes' layer of a projection that has 8 bits, else None; known by its name, since most runs lack that library."""
    base = getattr(projection, "base_layer", projection)
    return base if type(base).__name__ == "Linear8bitLt" else None


def _adapters(projection: Any) -> list[str]:
    """The names of the adapters that a projection uses."""
    active = getattr(projection, "active_adapters", ())
    return [name for name in active if name in projection.lora_A and not projection.disable_adapters]


@dataclass(frozen=True)
class Difference:
    """What the adapters add to projections that share an input, kept apart in float32: x · downᵀ · upᵀ."""

    down: torch.Tensor  # (ranks of all, in)
    up: torch.Tensor  # (out of all, ranks of all), times the scaling; zero where a projection has no such rank


def _difference(projections: Sequence[Any]) -> Difference | None:
    """The adapters of concatenated projections; None if there are none."""
    adapted = [(n, projection, name) for n, projection in enumerate(projections) for name in _adapters(projection)]
    if not adapted:
        return None
    down = [projection.lora_A[name].weight.detach().float() for _, projection, name in adapted]
    outs = [projection.out_features for projection in projections]
    up = down[0].new_zeros(sum(outs), sum(map(len, down)))
    column = 0
    for (n, projection, name), part in zip(adapted, down):
        row, rank = sum(outs[:n]), len(part)
        weight = projection.lora_B[name].weight.detach().float() * projection.scaling[name]
        up[row : row + outs[n], column : column + rank] = weight
        column += rank
    return Difference(torch.cat(down), up)


Weight = torch.Tensor | tuple[Int8Linear, ...]  # one matrix, or a layer each that shares its weights with the model


@dataclass(frozen=True)
class Layer:
    """The weights of a decoder layer as `decode` uses them."""

    before_attention: torch.Tensor  # (hidden)
    qkv: Weight  # (query + key + value heads × head_dim, hidden)
    qkv_bias: torch.Tensor | None  # none beside layers in 8 bits, which have their own
    qk_norm: torch.Tensor | None  # (query + key heads, head_dim); Qwen3 and Gemma 3 only
    out: Weight  # (hidden, query heads × head_dim)
    after_attention: torch.Tensor | None  # Gemma only
    before_mlp: torch.Tensor
    gate_up: Weight  # (2 × intermediate, hidden)
    down: Weight  # (hidden, intermediate)
    after_mlp: torch.Tensor | None  # Gemma only
    apart: dict[str, Difference | None]  # by the field of a projection: adapters that are not merged into it


def lay_out(layer: Any, heads: int, kv_heads: int, dtype: torch.dtype, merge: bool = True) -> Layer:
    """The weights of a transformers decoder layer of one of `families.FAMILIES`, its active adapters merged or kept apart.

    They are always kept apart from weights in 8 bits.
    """
    attention, mlp = layer.self_attn, layer.mlp
    inputs = {
        "qkv": (attention.q_proj, attention.k_proj, attention.v_proj),
        "out": (attention.o_proj,),
        "gate_up": (mlp.gate_proj, mlp.up_proj),
        "down": (mlp.down_proj,),
    }

    eight = {name: tuple(map(_in_8_bits, projections)) for name, projections in inputs.items()}

    def concatenated(name: str) -> Weight:
        if all(eight[name]):
            return tuple(Int8Linear(part) for part in eight[name])
        return torch.cat([_weight(projection, merge).to(dtype) for projection in inputs[name]])

    def apart(name: str) -> Difference | None:
        return _difference(inputs[name]) if all(eight[name]) or not merge else None

    norms = None
    if hasattr(attention, "q_norm"):
        norms = torch.stack([norm_weight(attention.q_norm)] * heads + [norm_weight(attention.k_norm)] * kv_heads)
    biases = [getattr(projection, "base_layer", projection).bias for projection in inputs["qkv"]]
    after = norm_weight(layer.post_attention_layernorm)
    four = hasattr(layer, "post_feedforward_layernorm")  # else that norm is the one before the MLP
    return Layer(
        before_attention=norm_weight(layer.input_layernorm),
        qkv=concatenated("qkv"),
        qkv_bias=None if biases[0] is None or all(eight["qkv"]) else torch.cat(biases).detach().to(dtype),
        qk_norm=norms,
        out=concatenated("out"),
        after_attention=after if four else None,
        before_mlp=norm_weight(layer.pre_feedforward_layernorm) if four else after,
        gate_up=concatenated("gate_up"),
        down=concatenated("down"),
        after_mlp=norm_weight(layer.post_feedforward_layernorm) if four else None,
        apart={name: apart(name) for name in inputs},
    )
