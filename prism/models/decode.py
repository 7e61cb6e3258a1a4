"""Batched greedy decoding on a GPU: one static KV cache for all rows, and each step replays a captured CUDA graph.

The bottleneck of transformers' `generate` is launching a thousand small kernels a step from Python, not the GPU. Here a
CUDA graph captures the step once. Each row has its own length, so there is no padding and no mask, and the prefix that
all prompts share is computed once. The weights are copied: dequantized from 4 bits, with the active adapter merged or kept
apart in float32, and query, key and value as one matrix. Those in 8 bits are multiplied as they are. The decoder calls no `forward` of the model's layers, so patches by Unsloth do not affect it.
`prism.models.generate` compares its logits with the model's before using it.

In half precision every result is rounded where transformers rounds it (a norm before its weight, a product before its
residual), also inside the fused kernels of `prism.models.kernels`: near-tied tokens depend on it, and moving a single
one of these roundings changes as many answers as moving all.
"""

from __future__ import annotations

from array import array
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from itertools import chain
from typing import Any

import torch
import torch.nn.functional as F
from peft import PeftModel

from prism.models import attention, families, kernels
from prism.models.beginnings import shared_beginning
from prism.models.dense import side_by_side
from prism.models.layout import PREFILL, Layer, lay_out, norm_weight, uses_flash

MAX_ROWS = 512  # rows in a batch; more gain nothing once matrix products dominate a step
CHECK_EVERY = 8  # steps between later checks whether every row has ended; each check waits for the GPU


@dataclass(frozen=True)
class Span:
    """The new tokens of adjacent cache rows, concatenated."""

    rows: torch.Tensor  # (tokens) the cache row of each token
    positions: torch.Tensor  # (tokens) its position in that row
    first: int  # the first of the adjacent rows
    count: int
    starts: torch.Tensor  # (count + 1, int32) index of each row's first token
    used: torch.Tensor  # (count, int32) length of each row, including new tokens
    longest: int  # largest number of new tokens in a row
    grouped: bool = False  # query heads that share a key are separate tokens, also in `starts` and `longest`
    taken: torch.Tensor | None = None  # (tokens, 1, bool) which are tokens at all, if not all; the others are 0


class Decoder:
    """A model's weights, a KV cache of `rows` × `length` tokens, and the captured step.

    Of short prompts, up to `together` tokens are read in one pass.
    """

    def __init__(self, model: Any, rows: int, length: int, merge: bool = True, together: int = PREFILL) -> None:
        causal: Any = model.get_base_model() if isinstance(model, PeftModel) else model
        self.config, self.dtype, self.device = causal.config.get_text_config(), causal.dtype, causal.device
        config, text = self.config, families.text_part(causal)
        self.heads, self.kv_heads = config.num_attention_heads, config.num_key_value_heads
        self.head_dim = families.head_dim(config)
        self.embedding = causal.get_input_embeddings().weight.detach()
        self.embed_scale = getattr(causal.get_input_embeddings(), "embed_scale", None)  # Gemma's only
        self.head = causal.get_output_embeddings().weight.detach()
        self.norm, self.gelu = norm_weight(text.norm), families.activation(config) != "silu"
        self.layers = [lay_out(layer, self.heads, self.kv_heads, self.dtype, merge) for layer in text.layers]
        kinds = families.layer_types(config)
        rotations = {kind: families.rotation(config, kind, length, self.dtype, self.device) for kind in set(kinds)}
        self.rotations = [rotations[kind] for kind in kinds]
        self.windows = [families.window(config, kind, length) for kind in kinds]
        scalar = getattr(config, "query_pre_attn_scalar", None)
        self.scale = scalar**-0.5 if scalar else None  # of attention's scores, if not head_dim ** -0.5
        self.rows, self.length, self.together = rows, length, together
        shape = (config.num_hidden_layers, rows, length, self.kv_heads, self.head_dim)
        self.keys = torch.zeros(shape, dtype=self.dtype, device=self.device)
        self.values = torch.zeros(shape, dtype=self.dtype, device=self.device)
        self.flash = uses_flash(causal)
        self.row_starts = torch.arange(rows + 1, device=self.device, dtype=torch.int32) * length
        self.row_indices = torch.arange(rows + 1, device=self.device, dtype=torch.int32)
        plain = not any(self.windows) and self.scale is None
        self.own = self.flash and plain and attention.usable(self.heads, self.kv_heads, self.head_dim, self.dtype)
        # Without this grouping flash attention makes three copies to regroup one query a row.
        self.grouped = self.flash and not self.own
        self.group = self.heads // self.kv_heads if self.grouped else 1
        self.group_starts = self.row_indices * self.group
        self.tokens = torch.zeros(rows, dtype=torch.long, device=self.device)
        self.used = torch.zeros(rows, dtype=torch.long, device=self.device)
        self.ended = torch.zeros(rows, dtype=torch.bool, device=self.device)
        self.ends = torch.zeros(0, dtype=torch.long, device=self.device)
        self.graph: torch.cuda.CUDAGraph | None = None

    def forward(self, tokens: torch.Tensor, span: Span, last_only: bool = False) -> torch.Tensor:
        """Run tokens through all layers, caching keys and values. Returns the last hidden states, (tokens, hidden).

        Of each row's last token only, (rows, hidden), if `last_only`: of the others the last layer then computes a key and a value.
        """
        eps = self.config.rms_norm_eps
        x, update = F.embedding(tokens, self.embedding), None
        if self.embed_scale is not None:
            x = x * self.embed_scale.to(x.dtype)
        x = _kept(x, span.taken)
        alone = len(tokens) == span.count  # like `generate` with one prompt at a time
        for n, layer in enumerate(self.layers):
            x, normed = kernels.add_norm(x, update, layer.before_attention, eps, alone)
            qkv = _project(normed, layer, "qkv", layer.qkv_bias).view(len(tokens), -1, self.head_dim)
            cache = self.keys[n], self.values[n]
            query = kernels.rotated(
                qkv, layer.qk_norm, eps, self.rotations[n], span.rows, span.positions, *cache, span.grouped
            )
            if last_only and layer is self.layers[-1]:
                last = span.starts[1:].long() - 1
                x, query, span = x[last], query[last], self._one_a_row(span, last)
            attended = _kept(self._attend(n, query, span).reshape(len(x), -1), span.taken)
            update = _project(attended, layer, "out")
            if layer.after_attention is not None:
                update = kernels.add_norm(update, None, layer.after_attention, eps, alone)[1]
            x, normed = kernels.add_norm(x, update, layer.before_mlp, eps, alone)
            update = _project(kernels.gated(_project(normed, layer, "gate_up"), self.gelu), layer, "down")
            if layer.after_mlp is not None:
                update = kernels.add_norm(update, None, layer.after_mlp, eps, alone)[1]
        return kernels.add_norm(x, update, self.norm, eps, alone)[1]

    def _attend(self, n: int, query: torch.Tensor, span: Span) -> torch.Tensor:
        """Causal attention of new tokens to all tokens of their row. Returns (tokens, heads, head_dim).

        A grouped query is (tokens, heads a key, key heads, head_dim); the output has the heads in the model's order.
        """
        keys = self.keys[n, span.first : span.first + span.count]
        values = self.values[n, span.first : span.first + span.count]
        if self.own and span.longest == 1:
            return attention.attended(query, keys, values, span.used)
        if self.flash:
            attended = attention.flash(
                query.flatten(0, 1) if span.grouped else query,
                keys,
                values,
                span.used,
                span.starts,
                self.row_starts[: span.count + 1],
                span.longest,
                causal=span.longest > 1 and not span.grouped,
                scale=self.scale,
                window=self.windows[n],
            )
            return attended.view(query.shape).transpose(1, 2) if span.grouped else attended
        row = span.rows - span.first
        column = torch.arange(len(query), device=self.device) - span.starts[:-1][row]
        return attention.padded(
            query, keys, values, row, column, span.positions, span.longest, self.scale, self.windows[n]
        )

    def logits(self, hidden: torch.Tensor) -> torch.Tensor:
        return F.linear(hidden, self.head)

    def span(self, lengths: Sequence[int], shared: int, first: int) -> Span:
        """The span of new tokens in adjacent rows that already have `shared` tokens."""
        new = torch.tensor(lengths)
        starts = F.pad(new.cumsum(0), (1, 0))
        rows = torch.arange(len(new)).repeat_interleave(new)
        positions = torch.arange(int(new.sum())) - starts[rows] + shared
        return Span(
            rows=self.to_device(rows + first),
            positions=self.to_device(positions),
            first=first,
            count=len(new),
            starts=self.to_device(starts.int()),
            used=self.to_device((new + shared).int()),
            longest=int(new.max()),
        )

    def _one_a_row(self, span: Span, last: torch.Tensor) -> Span:
        """The span of only the tokens `last` of a span, one of each row."""
        starts = self.row_indices[: span.count + 1]
        return replace(span, rows=span.rows[last], positions=span.positions[last], starts=starts, longest=1)

    def to_device(self, tensor: torch.Tensor) -> torch.Tensor:
        """Copy a CPU tensor to the device, from pinned memory, so that the copy does not wait for running kernels."""
        return tensor.pin_memory().to(self.device, non_blocking=True) if self.device.type == "cuda" else tensor

    @torch.no_grad()
    def prefill(self, prompts: Sequence[Sequence[int]], shared: int = 0) -> torch.Tensor:
        """Fill the first rows of the cache with prompts. Returns next-token logits, (prompts, vocabulary).

        The first `shared` tokens are equal in all prompts and are computed once.
        """
        if shared:
            beginning = self.to_device(torch.tensor(prompts[0][:shared]))
            self.forward(beginning, self.span([shared], 0, 0), last_only=True)
            self.keys[:, : len(prompts), :shared] = self.keys[:, :1, :shared].clone()
            self.values[:, : len(prompts), :shared] = self.values[:, :1, :shared].clone()
        logits, first = [], 0
        while first < len(prompts):
            batch: list[Sequence[int]] = []
            tokens = 0
            for prompt in prompts[first:]:
                if batch and tokens + len(prompt) - shared > self.together:
                    break
                batch.append(prompt[shared:])
                tokens += len(prompt) - shared
            span = self.span([len(prompt) for prompt in batch], shared, first)
            flat = self.to_device(torch.frombuffer(array("q", chain.from_iterable(batch)), dtype=torch.long))
            logits.append(self.logits(self.forward(flat, span, last_only=True)))
            first += len(batch)
        return torch.cat(logits)

    def _following(self, count: int, logits: torch.Tensor, tokens: torch.Tensor) -> torch.Tensor:
        """The log-probabilities of each token of each label after the first `count` rows, (rows × labels, tokens).

        `logits` are those after the rows, `tokens` is (labels, tokens), not longer than an answer may be. What a label
        leaves in the cache is overwritten by what comes next.
        """
        scores = _log_probabilities(logits, tokens[:, 0])[..., None]
        if later := tokens.shape[1] - 1:
            rows = self.row_indices[:count].long().repeat_interleave(later)
            span = Span(
                rows=rows,
                positions=self.used[rows] + torch.arange(later, device=self.device).repeat(count),
                first=0,
                count=count,
                starts=self.row_indices[: count + 1] * later,
                used=(self.used[:count] + later).int(),
                longest=later,
            )

            def further(label: torch.Tensor) -> torch.Tensor:
                hidden = self.forward(label[:-1].repeat(count), span).view(count, later, -1)
                parts = [_log_probabilities(self.logits(hidden[:, n]), label[n + 1 : n + 2]) for n in range(later)]
                return torch.cat(parts, 1)

            scores = torch.cat([scores, torch.stack([further(label) for label in tokens], 1)], -1)
        return scores.flatten(0, 1)

    def _step(self) -> None:
        """Compute the next token of every row; a row that has ended repeats its end token."""
        positions = self.used.clamp(max=self.length - 1)
        span = Span(
            rows=self.row_indices[:-1].long(),
            positions=positions,
            first=0,
            count=self.rows,
            starts=self.group_starts,
            used=(positions + 1).to(torch.int32),
            longest=self.group,
            grouped=self.grouped,
        )
        chosen = self.logits(self.forward(self.tokens, span)).argmax(-1)
        self.tokens.copy_(torch.where(self.ended, self.tokens, chosen))
        self.ended |= torch.isin(self.tokens, self.ends)
        self.used += 1

    @torch.no_grad()
    def answer(
        self,
        prompts: Sequence[Sequence[int]],
        new_tokens: int,
        ends: Sequence[int],
        stopped: Callable[[list[list[int]]], list[bool]] | None = None,
        told: Callable[[Callable[[torch.Tensor], torch.Tensor]], object] | None = None,
    ) -> list[list[int]]:
        """The greedy continuation, up to `new_tokens` long, of at most `rows` prompts; the first end token repeats.

        `stopped` gets the tokens so far every `CHECK_EVERY` steps and returns which rows are complete; later tokens of
        these rows are meaningless. `told` gets `following` for the same prompts before they are answered.
        """
        if self.ends.tolist() != list(ends):
            self.ends = torch.tensor(list(ends), device=self.device)
            self.graph = None
        if self.graph is None and self.device.type == "cuda":
            self.graph = captured(self._step)
        self.used.zero_()
        self.used[: len(prompts)] = torch.tensor([len(prompt) for prompt in prompts], device=self.device)
        self.ended.fill_(True)
        self.ended[: len(prompts)] = False
        logits = self.prefill(prompts, shared_beginning(prompts))
        if told:
            told(partial(self._following, len(prompts), logits))
        chosen = logits.argmax(-1)
        self.tokens.fill_(self.ends[0])
        self.tokens[: len(prompts)] = chosen
        self.ended[: len(prompts)] = torch.isin(chosen, self.ends)
        generated = [self.tokens.clone()]
        for step in range(1, new_tokens):
            if step < CHECK_EVERY or step % CHECK_EVERY == 0:  # a label ends within a few steps
                if stopped and step >= CHECK_EVERY:
                    stopped_rows = stopped(torch.stack(generated, 1)[: len(prompts)].tolist())
                    self.ended[: len(prompts)] |= torch.tensor(stopped_rows, device=self.device)
                if bool(self.ended.all()):
                    break
            if self.graph:
                self.graph.replay()
            else:
                self._step()
            generated.append(self.tokens.clone())
        return torch.stack(generated, 1)[: len(prompts)].tolist()


def captured(step: Callable[[], object]) -> torch.cuda.CUDAGraph:
    """A graph that replays the kernels of a step."""
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        for _ in range(2):  # libraries initialize in their first calls, which cannot be captured
            step()
    torch.cuda.current_stream().wait_stream(stream)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        step()
    return graph


def _kept(x: torch.Tensor, taken: torch.Tensor | None) -> torch.Tensor:
    return x if taken is None else x.masked_fill(~taken, 0)


def _log_probabilities(logits: torch.Tensor, tokens: torch.Tensor) -> torch.Tensor:
    """Of these tokens after each row: (rows, vocabulary) to (rows, tokens)."""
    return logits.float().log_softmax(-1)[:, tokens]


def _project(x: torch.Tensor, layer: Layer, name: str, bias: torch.Tensor | None = None) -> torch.Tensor:
    """A projection, with what is kept apart of its adapters added in float32 and rounded once, as PEFT does."""
    weight, apart = getattr(layer, name), layer.apart[name]
    if isinstance(weight, tuple):
        result = side_by_side(x, weight)
    else:
        result = F.linear(x, weight, bias)
    if apart is None:
        return result
    return (result + F.linear(F.linear(x.float(), apart.down), apart.up)).to(result.dtype)
