"""Greedy decoding on a GPU: rows side by side in one static cache, each step one replay of a captured CUDA graph.

A step of `generate` is bound by launching some thousand small kernels from Python, not by the chip. Here a step is
captured once and replayed, every row keeps its own length, so nothing is padded and nothing is masked, and the tokens
that all questions begin with are computed once. Weights are laid out for it: dequantized, with the active adapter
added, query, key and value as one matrix. No layer's own `forward` is called, so it is the same for a model that
Unsloth has patched. `generate` compares its logits with the model's before it trusts it.

In half precision every result is rounded where transformers rounds it (a norm before its weight, a product before its
residual), also inside the fused kernels of `prism.kernels`: near-tied tokens hang on it, and moving a single one of these
roundings changes as many answers as moving all.
"""

from __future__ import annotations

from array import array
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import chain
from typing import Any

import torch
import torch.nn.functional as F
from peft import PeftModel
from peft.utils.integrations import dequantize_module_weight
from transformers.modeling_rope_utils import ROPE_INIT_FUNCTIONS

from prism import kernels

FAMILIES = ("qwen2", "qwen3", "llama")  # pre-norm, gated SiLU, rotary positions, full causal attention
PROJECTIONS = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")
STATIC_ROPE = ("default", "linear", "llama3")  # rotations that do not change with the length
SLOTS = 512  # rows side by side; more gains nothing once the matrix products are the larger part of a step
PREFILL = 32_768  # prompt tokens in one pass, which bounds what a pass holds in memory
LOOK = 8  # steps between two looks at whether every row has ended; a look waits for the GPU


def unsupported(model: Any) -> str:
    """Why a model cannot be decoded here, in words; empty where it can."""
    config = model.config
    if config.model_type not in FAMILIES:
        return f"{config.model_type} is none of {', '.join(FAMILIES)}"
    if set(getattr(config, "layer_types", None) or ["full_attention"]) != {"full_attention"}:
        return "some layers attend to a window only"
    if config.rope_parameters["rope_type"] not in STATIC_ROPE:
        return f"its rotary positions ({config.rope_parameters['rope_type']}) change with the length"
    if _flash(model) and torch.cuda.get_device_capability(model.device) < (8, 0):
        return "flash attention needs a GPU of compute capability 8.0"
    return _unlike_lora(model) if isinstance(model, PeftModel) else ""


def _flash(model: Any) -> bool:
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
    heads = config.num_key_value_heads * _head_dim(config)
    return 2 * config.num_hidden_layers * heads * model.dtype.itemsize


def weight_bytes(model: Any) -> int:
    """Bytes of the projections as `Decoder` lays them out; embeddings and norms stay the model's own."""
    config = model.config
    width, heads = config.hidden_size, _head_dim(config)
    attention = 2 * (config.num_attention_heads + config.num_key_value_heads) * heads * width
    return config.num_hidden_layers * (attention + 3 * width * config.intermediate_size) * model.dtype.itemsize


def pass_bytes(model: Any, tokens: int) -> int:
    """Bytes that reading takes beside the cache, of so many prompt tokens: a pass's widest tensors."""
    config = model.config
    return min(tokens, PREFILL) * (3 * config.intermediate_size + 6 * config.hidden_size) * model.dtype.itemsize


def _head_dim(config: Any) -> int:
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
class _Layer:
    before_attention: torch.Tensor  # (hidden)
    qkv: torch.Tensor  # (query + key + value heads × head_dim, hidden)
    qkv_bias: torch.Tensor | None
    qk_norm: torch.Tensor | None  # (query + key heads, head_dim), Qwen3's
    out: torch.Tensor  # (hidden, query heads × head_dim)
    before_mlp: torch.Tensor
    gate_up: torch.Tensor  # (2 × intermediate, hidden)
    down: torch.Tensor  # (hidden, intermediate)


@dataclass(frozen=True)
class _Span:
    """The new tokens of some neighbouring cache rows, one sequence after the other."""

    rows: torch.Tensor  # (tokens) the cache row of each token
    positions: torch.Tensor  # (tokens) its place in that row
    first: int  # the first of the neighbouring rows
    count: int
    starts: torch.Tensor  # (count + 1, int32) where each row's tokens begin
    used: torch.Tensor  # (count, int32) length of each row, the new tokens included
    longest: int  # new tokens of one row
    grouped: bool = False  # the heads that share a key stand as tokens of their own, which `starts` and `longest` count


class Decoder:
    """A model's weights, a cache of `rows` × `length` tokens, and the captured step."""

    def __init__(self, model: Any, rows: int, length: int) -> None:
        causal: Any = model.get_base_model() if isinstance(model, PeftModel) else model
        self.config, self.dtype, self.device = causal.config, causal.dtype, causal.device
        config = self.config
        self.heads, self.kv_heads, self.head_dim = config.num_attention_heads, config.num_key_value_heads, 0
        self.head_dim = _head_dim(config)
        self.embedding = causal.get_input_embeddings().weight.detach()
        self.head = causal.get_output_embeddings().weight.detach()
        self.norm = causal.model.norm.weight.detach()
        self.layers = [self._layer(layer) for layer in causal.model.layers]
        self.rotation = self._rotation(length)
        self.rows, self.length = rows, length
        shape = (config.num_hidden_layers, rows, length, self.kv_heads, self.head_dim)
        self.keys = torch.zeros(shape, dtype=self.dtype, device=self.device)
        self.values = torch.zeros(shape, dtype=self.dtype, device=self.device)
        self.flash = _flash(causal)
        self.row_starts = torch.arange(rows + 1, device=self.device, dtype=torch.int32) * length
        self.each = torch.arange(rows + 1, device=self.device, dtype=torch.int32)
        # Left to itself flash attention regroups one query a row in three copies.
        self.group = self.heads // self.kv_heads if self.flash else 1
        self.each_group = self.each * self.group
        self.tokens = torch.zeros(rows, dtype=torch.long, device=self.device)
        self.used = torch.zeros(rows, dtype=torch.long, device=self.device)
        self.ended = torch.zeros(rows, dtype=torch.bool, device=self.device)
        self.ends = torch.zeros(0, dtype=torch.long, device=self.device)
        self.graph: torch.cuda.CUDAGraph | None = None

    def _layer(self, layer: Any) -> _Layer:
        attention, mlp = layer.self_attn, layer.mlp

        def joined(*projections: Any) -> torch.Tensor:
            return torch.cat([_weight(projection).to(self.dtype) for projection in projections])

        biases = [getattr(p, "base_layer", p).bias for p in (attention.q_proj, attention.k_proj, attention.v_proj)]
        return _Layer(
            before_attention=layer.input_layernorm.weight.detach(),
            qkv=joined(attention.q_proj, attention.k_proj, attention.v_proj),
            qkv_bias=None if biases[0] is None else torch.cat(biases).detach().to(self.dtype),
            qk_norm=self._head_norms(attention) if hasattr(attention, "q_norm") else None,
            out=joined(attention.o_proj),
            before_mlp=layer.post_attention_layernorm.weight.detach(),
            gate_up=joined(mlp.gate_proj, mlp.up_proj),
            down=joined(mlp.down_proj),
        )

    def _head_norms(self, attention: Any) -> torch.Tensor:
        heads = [attention.q_norm.weight] * self.heads + [attention.k_norm.weight] * self.kv_heads
        return torch.stack(heads).detach()

    def _rotation(self, length: int) -> torch.Tensor:
        """Cosine and sine of each position, (length, 2, head_dim), as transformers computes them.

        The first half of the sines is negative: rotating is x · cos + x rolled by half · sin.
        """
        rope = self.config.rope_parameters
        if rope["rope_type"] == "default":
            exponents = torch.arange(0, self.head_dim, 2, dtype=torch.float) / self.head_dim
            frequencies, scale = 1.0 / rope["rope_theta"] ** exponents, 1.0
        else:
            frequencies, scale = ROPE_INIT_FUNCTIONS[rope["rope_type"]](self.config, None)
        angles = torch.outer(torch.arange(length, dtype=torch.float), frequencies.cpu()).repeat(1, 2)
        angles = angles.to(self.device)  # a GPU's cosines differ from a CPU's in the last place
        cosines, sines = angles.cos() * scale, angles.sin() * scale
        sines[:, : self.head_dim // 2] *= -1
        return torch.stack([cosines, sines], 1).to(self.dtype)

    def _forward(self, tokens: torch.Tensor, span: _Span) -> torch.Tensor:
        """Run tokens through all layers, writing their keys and values; the last hidden states, (tokens, hidden)."""
        eps = self.config.rms_norm_eps
        x, more = F.embedding(tokens, self.embedding), None
        alone = len(tokens) == span.count  # as `generate` has them, asked one question at a time
        for n, layer in enumerate(self.layers):
            x, normed = kernels.add_norm(x, more, layer.before_attention, eps, alone)
            qkv = F.linear(normed, layer.qkv, layer.qkv_bias).view(len(tokens), -1, self.head_dim)
            cache = self.keys[n], self.values[n]
            query = kernels.rotated(
                qkv, layer.qk_norm, eps, self.rotation, span.rows, span.positions, *cache, span.grouped
            )
            heard = self._attend(n, query, span).reshape(len(tokens), -1)
            x, normed = kernels.add_norm(x, F.linear(heard, layer.out), layer.before_mlp, eps, alone)
            more = F.linear(kernels.gated(F.linear(normed, layer.gate_up)), layer.down)
        return kernels.add_norm(x, more, self.norm, eps, alone)[1]

    def _attend(self, n: int, query: torch.Tensor, span: _Span) -> torch.Tensor:
        """Causal attention of each row's new tokens to all that the row holds; (tokens, heads, head_dim).

        A grouped query is (tokens, heads a key, key heads, head_dim), and the answer its heads in the model's order.
        """
        keys = self.keys[n, span.first : span.first + span.count]
        values = self.values[n, span.first : span.first + span.count]
        if self.flash:
            heard = torch.ops.aten._flash_attention_forward(
                query.flatten(0, 1) if span.grouped else query,
                keys.view(-1, self.kv_heads, self.head_dim),
                values.view(-1, self.kv_heads, self.head_dim),
                span.starts,
                self.row_starts[: span.count + 1],
                span.longest,
                self.length,
                0.0,  # dropout
                span.longest > 1 and not span.grouped,  # causal, the last query at the row's end
                False,  # debug mask
                seqused_k=span.used,
            )[0]
            return heard.view(query.shape).transpose(1, 2) if span.grouped else heard
        row, place = (
            span.rows - span.first,
            torch.arange(len(query), device=self.device) - span.starts[:-1][span.rows - span.first],
        )
        padded = query.new_zeros(span.count, span.longest, self.heads, self.head_dim)
        padded[row, place] = query
        positions = torch.zeros(span.count, span.longest, dtype=torch.long, device=self.device)
        positions[row, place] = span.positions
        seen = torch.arange(self.length, device=self.device) <= positions[:, None, :, None]
        group = self.heads // self.kv_heads
        heard = F.scaled_dot_product_attention(
            padded.transpose(1, 2),
            keys.transpose(1, 2).repeat_interleave(group, 1),
            values.transpose(1, 2).repeat_interleave(group, 1),
            attn_mask=seen,
        )
        return heard.transpose(1, 2)[row, place]

    def _next(self, hidden: torch.Tensor) -> torch.Tensor:
        return F.linear(hidden, self.head)

    def _span(self, lengths: Sequence[int], shared: int, first: int) -> _Span:
        """New tokens of neighbouring rows that already hold `shared` tokens."""
        new = torch.tensor(lengths)
        starts = F.pad(new.cumsum(0), (1, 0))
        rows = torch.arange(len(new)).repeat_interleave(new)
        positions = torch.arange(int(new.sum())) - starts[rows] + shared
        return _Span(
            rows=self._sent(rows + first),
            positions=self._sent(positions),
            first=first,
            count=len(new),
            starts=self._sent(starts.int()),
            used=self._sent((new + shared).int()),
            longest=int(new.max()),
        )

    def _sent(self, made: torch.Tensor) -> torch.Tensor:
        """A tensor made here, on the GPU; pinned, so that it need not wait for what runs there."""
        return made.pin_memory().to(self.device, non_blocking=True) if self.device.type == "cuda" else made

    @torch.no_grad()
    def read(self, prompts: Sequence[Sequence[int]], shared: int = 0) -> torch.Tensor:
        """Fill the first rows of the cache with prompts; next-token logits, (prompts, vocabulary).

        The first `shared` tokens are the same in every prompt and are run once.
        """
        if shared:
            self._forward(self._sent(torch.tensor(prompts[0][:shared])), self._span([shared], 0, 0))
            self.keys[:, : len(prompts), :shared] = self.keys[:, :1, :shared].clone()
            self.values[:, : len(prompts), :shared] = self.values[:, :1, :shared].clone()
        logits, first = [], 0
        while first < len(prompts):
            taken: list[Sequence[int]] = []
            tokens = 0
            for prompt in prompts[first:]:
                if taken and tokens + len(prompt) - shared > PREFILL:
                    break
                taken.append(prompt[shared:])
                tokens += len(prompt) - shared
            span = self._span([len(prompt) for prompt in taken], shared, first)
            flat = self._sent(torch.frombuffer(array("q", chain.from_iterable(taken)), dtype=torch.long))
            logits.append(self._next(self._forward(flat, span)[span.starts[1:].long() - 1]))
            first += len(taken)
        return torch.cat(logits)

    def _step(self) -> None:
        """Run every row's newest token and choose its next one; a row that has ended repeats its end."""
        positions = self.used.clamp(max=self.length - 1)
        span = _Span(
            rows=self.each[:-1].long(),
            positions=positions,
            first=0,
            count=self.rows,
            starts=self.each_group,
            used=(positions + 1).to(torch.int32),
            longest=self.group,
            grouped=self.flash,
        )
        chosen = self._next(self._forward(self.tokens, span)).argmax(-1)
        self.tokens.copy_(torch.where(self.ended, self.tokens, chosen))
        self.ended |= torch.isin(self.tokens, self.ends)
        self.used += 1

    def _capture(self) -> None:
        stream = torch.cuda.Stream()
        stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(stream):
            for _ in range(2):  # libraries set themselves up in their first calls, which cannot be captured
                self._step()
        torch.cuda.current_stream().wait_stream(stream)
        self.graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(self.graph):
            self._step()

    @torch.no_grad()
    def answer(
        self,
        prompts: Sequence[Sequence[int]],
        new_tokens: int,
        ends: Sequence[int],
        stopped: Callable[[list[list[int]]], list[bool]] | None = None,
    ) -> list[list[int]]:
        """The greedy continuation of each prompt, `new_tokens` long, in which an end repeats; at most `rows` prompts.

        `stopped` says now and then of what was said so far whose answer is long enough; what those rows say on means nothing.
        """
        if self.ends.tolist() != list(ends):
            self.ends = torch.tensor(list(ends), device=self.device)
            self.graph = None
        if self.graph is None and self.device.type == "cuda":
            self._capture()
        self.used.zero_()
        self.used[: len(prompts)] = torch.tensor([len(prompt) for prompt in prompts], device=self.device)
        self.ended.fill_(True)
        self.ended[: len(prompts)] = False
        chosen = self.read(prompts, shared_beginning(prompts)).argmax(-1)
        self.tokens.fill_(self.ends[0])
        self.tokens[: len(prompts)] = chosen
        self.ended[: len(prompts)] = torch.isin(chosen, self.ends)
        said = [self.tokens.clone()]
        for step in range(1, new_tokens):
            if step % LOOK == 0:
                if stopped:
                    over = stopped(torch.stack(said, 1)[: len(prompts)].tolist())
                    self.ended[: len(prompts)] |= torch.tensor(over, device=self.device)
                if bool(self.ended.all()):
                    break
            if self.graph:
                self.graph.replay()
            else:
                self._step()
            said.append(self.tokens.clone())
        return torch.stack(said, 1)[: len(prompts)].tolist()


def shared_beginning(prompts: Sequence[Sequence[int]]) -> int:
    """How many first tokens all prompts have in common, each keeping at least one of its own."""
    if len(prompts) < 2:
        return 0
    low, high = min(map(list, prompts)), max(map(list, prompts))
    room = min(map(len, prompts)) - 1
    return next((n for n in range(room) if low[n] != high[n]), room)
