"""Greedy decoding on a GPU: rows side by side in one static cache, each step one replay of a captured CUDA graph.

A step of `generate` is bound by launching some thousand small kernels from Python, not by the chip. Here a step is
captured once and replayed, every row keeps its own length, so nothing is padded and nothing is masked, and the tokens
that all questions begin with are computed once. Weights are laid out for it: dequantized, with the active adapter
added, query, key and value as one matrix. No layer's own `forward` is called, so it is the same for a model that
Unsloth has patched. `generate` compares its logits with the model's before it trusts it.

In half precision every result is rounded where transformers rounds it (a norm before its weight, a product before its
residual), also inside the fused kernels of `prism.models.kernels`: near-tied tokens hang on it, and moving a single one of these
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
from transformers.modeling_rope_utils import ROPE_INIT_FUNCTIONS

from prism.models import kernels
from prism.models.layout import PREFILL, head_dim, lay_out, uses_flash

SLOTS = 512  # rows side by side; more gains nothing once the matrix products are the larger part of a step
LOOK = 8  # steps between two looks at whether every row has ended; a look waits for the GPU


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
        self.heads, self.kv_heads = config.num_attention_heads, config.num_key_value_heads
        self.head_dim = head_dim(config)
        self.embedding = causal.get_input_embeddings().weight.detach()
        self.head = causal.get_output_embeddings().weight.detach()
        self.norm = causal.model.norm.weight.detach()
        self.layers = [lay_out(layer, self.heads, self.kv_heads, self.dtype) for layer in causal.model.layers]
        self.rotation = self._rotation(length)
        self.rows, self.length = rows, length
        shape = (config.num_hidden_layers, rows, length, self.kv_heads, self.head_dim)
        self.keys = torch.zeros(shape, dtype=self.dtype, device=self.device)
        self.values = torch.zeros(shape, dtype=self.dtype, device=self.device)
        self.flash = uses_flash(causal)
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
