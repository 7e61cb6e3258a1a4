"""Which models `decode` can run, how many bytes it needs, and how it lays out a layer's weights."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from peft import PeftModel
from peft.utils.integrations import dequantize_module_weight

FAMILIES = ("qwen2", "qwen3", "llama")  # pre-norm, gated SiLU, rotary positions, full causal attention
PROJECTIONS = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")
STATIC_ROPE = ("default", "linear", "llama3")  # rotations that do not change with the length
PREFILL = 32_768  # prompt tokens in one pass, which bounds what a pass holds in memory


def unsupported(model: Any) -> str:
    """Why a model cannot be decoded here, in words; empty where it can."""
    config = model.config
    if config.model_type not in FAMILIES:
        return f"{config.model_type} is none of {', '.join(FAMILIES)}"
    if set(getattr(config, "layer_types", None) or ["full_attention"]) != {"full_attention"}:
        return "some layers attend to a window only"
    if config.rope_parameters["rope_type"] not in STATIC_ROPE:
        return f"its rotary positions ({config.rope_parameters['rope_type']}) change with the length"
    if uses_flash(model) and torch.cuda.get_device_capability(model.device) < (8, 0):
        return "flash attention needs a GPU of compute capability 8.0"
    return _unlike_lora(model) if isinstance(model, PeftModel) else ""


def uses_flash(model: Any) -> bool:
    """Whether attention is flash attention's, which reads each row as far as it is used, in half precision on CUDA only."""
    return model.device.type == "cuda" and model.dtype != torch.float32


def _unlike_lora(model: PeftModel) -> str:
    """What an adapter does beside adding to the projections of a layer, in words."""
    config: Any = model.active_peft_config
    if odd := [key for key in ("use_dora", "lora_bias") if getattr(config, key, False)]:
        return f"its adapter was made with {odd[0]}"
    changed = (name for name, part in model.named_modules() if getattr(part, "lora_A", None))
    outside = [name for name in changed if name.rpartition(".")[2] not in PROJECTIONS]
    return f"its adapter changes {outside[0].removeprefix('base_model.model.')}" if outside else ""


def cache_bytes(model: Any) -> int:
    """Bytes of keys and values that one token takes."""
    config = model.config
    width = config.num_key_value_heads * head_dim(config)
    return 2 * config.num_hidden_layers * width * model.dtype.itemsize


def weight_bytes(model: Any) -> int:
    """Bytes of the projections as `Decoder` lays them out; embeddings and norms stay the model's own."""
    config = model.config
    width, heads = config.hidden_size, head_dim(config)
    attention = 2 * (config.num_attention_heads + config.num_key_value_heads) * heads * width
    return config.num_hidden_layers * (attention + 3 * width * config.intermediate_size) * model.dtype.itemsize


def pass_bytes(model: Any, tokens: int) -> int:
    """Bytes that reading takes beside the cache, of so many prompt tokens: a pass's widest tensors."""
    config = model.config
    return min(tokens, PREFILL) * (3 * config.intermediate_size + 6 * config.hidden_size) * model.dtype.itemsize


def head_dim(config: Any) -> int:
    return getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads


def _weight(projection: Any) -> torch.Tensor:
    """What a projection multiplies with, shape (out, in): dequantized, its active adapters added."""
    base = getattr(projection, "base_layer", projection)
    weight = dequantize_module_weight(base).detach()
    for adapter in getattr(projection, "active_adapters", ()):
        if adapter in projection.lora_A and not projection.disable_adapters:
            weight = weight.float() + projection.get_delta_weight(adapter).float()
    return weight


@dataclass(frozen=True)
class Layer:
    """A decoder layer's weights, laid out for `decode`."""

    before_attention: torch.Tensor  # (hidden)
    qkv: torch.Tensor  # (query + key + value heads × head_dim, hidden)
    qkv_bias: torch.Tensor | None
    qk_norm: torch.Tensor | None  # (query + key heads, head_dim), Qwen3's
    out: torch.Tensor  # (hidden, query heads × head_dim)
    before_mlp: torch.Tensor
    gate_up: torch.Tensor  # (2 × intermediate, hidden)
    down: torch.Tensor  # (hidden, intermediate)


def lay_out(layer: Any, heads: int, kv_heads: int, dtype: torch.dtype) -> Layer:
    """The weights of a transformers decoder layer of one of the FAMILIES, its active adapters added."""
    attention, mlp = layer.self_attn, layer.mlp

    def joined(*projections: Any) -> torch.Tensor:
        return torch.cat([_weight(projection).to(dtype) for projection in projections])

    norms = None
    if hasattr(attention, "q_norm"):
        norms = torch.stack([attention.q_norm.weight] * heads + [attention.k_norm.weight] * kv_heads).detach()
    biases = [getattr(p, "base_layer", p).bias for p in (attention.q_proj, attention.k_proj, attention.v_proj)]
    return Layer(
        before_attention=layer.input_layernorm.weight.detach(),
        qkv=joined(attention.q_proj, attention.k_proj, attention.v_proj),
        qkv_bias=None if biases[0] is None else torch.cat(biases).detach().to(dtype),
        qk_norm=norms,
        out=joined(attention.o_proj),
        before_mlp=layer.post_attention_layernorm.weight.detach(),
        gate_up=joined(mlp.gate_proj, mlp.up_proj),
        down=joined(mlp.down_proj),
    )
