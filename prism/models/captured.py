"""The captured training step: the trainer's own batches, loss and gradients, in one CUDA graph.

A step of few short rows is bound by launching its thousands of small kernels from Python. Here the rows of a batch lie
side by side in one row of a fixed length, samples apart (`prism.models.packing`), and one graph computes loss and
gradients of the adapter. Only completion tokens reach the output head, in chunks, as in TRL's "chunked_nll". The
trainer still draws the batches and does everything else; its model's `forward` is replaced while it trains.

A batch of more tokens than fit is computed in several replays, whose gradients add up. On a CPU nothing is captured,
and the same code gives the gradients of TRL's own step to rounding.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import torch
from peft import PeftModel
from trl import SFTConfig

from prism.models import cost, families, layout, packing, window
from prism.models.ahead import Behind, Rows, batches_stay, laid_out
from prism.models.checkpointing import activation_bytes
from prism.models.flat import OwnMean, flattened, renew, set_optimizer, trained
from prism.models.load import Base
from prism.models.loss import CHUNK, METRICS, Head, Loss, Output
from prism.models.own_steps import CannotGoOn, another_recipe, require_finite, standing_in
from prism.rows import Example

FEWEST_STEPS = 25  # compiling and capturing take some 15 s, as long as 15 plain steps in 8 bits or 30 to 50 in 4
COMPILED_FROM = 250_000  # tokens: torch compiles a layer for 4 to 10 s
SAMPLE = 256  # rows, by whose mean length tokens are counted
SMALLEST = 128  # tokens of the smallest graph
MOST = 16_384  # tokens of the largest: more at once are no faster
HEAD_BYTES = 20  # per logit of a chunk: in half and single precision, normalized, and their gradients
WARM_UP = 2  # steps before a capture, in which libraries initialize and torch compiles
# A graph that holds at most so many times the tokens, and the completion tokens, is replayed in place of a capture, which
# takes as long as dozens of steps.
LARGER = (1.25, 2)


@dataclass(frozen=True)
class Plan:
    """How an adapter is trained: `most` tokens at once in the captured step, or without it if that is 0, and why.

    `compiled` says whether torch compiles the layers, or the graph holds the kernels of transformers' own.
    """

    most: int = 0
    compiled: bool = False
    why: str = ""


def decide(base: Base, config: SFTConfig, examples: Sequence[Example], steps: int) -> Plan:
    """Whether the captured step trains an adapter in so many steps, and how."""
    if reason := unsupported(base, config, steps):
        return Plan(why=reason)
    compiled = bool(base.spec.sft.get("torch_compile")) or _repays_compiling(base, config, examples, steps)
    most, model, limit = room(base, compiled), base.model.config, config.max_length  # to which longer rows are cut
    if limit and limit <= most and not packing.unsupported(model, limit):
        return Plan(most, compiled)
    longest = max(window.lengths(base, examples, answered=True))
    if reason := packing.unsupported(model, min(longest, limit or longest)):
        return Plan(why=reason)
    if most < min(longest, limit or longest):
        return Plan(why=f"the memory holds {most:,} tokens at once and the longest row has {longest:,}")
    return Plan(most, compiled)


def _repays_compiling(base: Base, config: SFTConfig, examples: Sequence[Example], steps: int) -> bool:
    """Whether the layers compute so many tokens that they are compiled."""
    rows = steps * config.per_device_train_batch_size * config.gradient_accumulation_steps
    if rows >= COMPILED_FROM:
        return True
    sample = window.lengths(base, examples[:SAMPLE], answered=True)
    return rows * sum(sample) / len(sample) >= COMPILED_FROM


def unsupported(base: Base, config: SFTConfig, steps: int) -> str:
    """Why the captured step cannot train an adapter, or would not be faster; empty if it can."""
    if base.spec.sharded:
        return "[sft] fsdp divides the base"
    if base.model.device.type != "cuda":
        return "there is no GPU"
    if torch.cuda.get_device_capability(base.model.device) < (8, 0):
        return "its attention needs a GPU of compute capability 8.0"
    if steps < FEWEST_STEPS:
        return f"{steps} steps do not repay compiling"
    if not config.bf16:
        return "[sft] bf16 is off"
    return another_recipe(base, config, families.FAMILIES)


def room(base: Base, compiled: bool) -> int:
    """How many tokens the step may compute at once, at most MOST: as many as fit the free memory and the spec's ceiling.

    Weights of 4 bits are held in the compute dtype besides. It may be 0.
    """
    config = base.model.config.get_text_config()
    available = cost.available_memory(base.spec)
    if base.spec.model.load_in_4bit:
        available -= layout.weight_bytes(base.model)
    available -= CHUNK * config.vocab_size * HEAD_BYTES
    return max(0, min(MOST, int(available / activation_bytes(base.model, "compiled" if compiled else "transformers"))))


@dataclass(frozen=True)
class _Buffers:
    """The inputs of one graph; a replay reads what lies here."""

    ids: torch.Tensor  # (1, tokens)
    positions: torch.Tensor  # (1, tokens)
    labels: torch.Tensor  # (tokens) the next token where it counts, else -100
    boundaries: torch.Tensor  # see packing.boundaries
    targets: int  # at least as many tokens as count, a multiple of CHUNK
    graph: Any = None


class Step:
    """The step of a PEFT model whose samples have at most `longest` tokens, `most` tokens at once."""

    def __init__(
        self, model: PeftModel, parameters: list[torch.nn.Parameter], flat: torch.nn.Parameter, longest: int, most: int
    ) -> None:
        causal: Any = model.get_base_model()
        self.causal, self.device, self.flat = causal, causal.device, flat
        self.longest, self.most = longest, most
        self.parameters = parameters
        self.found = torch.zeros_like(flat)  # the gradients of a batch
        self.sums = torch.zeros(len(METRICS), device=self.device)
        self.behind = Behind(len(METRICS), self.device)
        self.share = torch.ones((), device=self.device)  # of each completion token in the loss
        self.graphs: dict[tuple[int, int], _Buffers] = {}
        self.pool = torch.cuda.graph_pool_handle() if self.device.type == "cuda" else None

    def forward(
        self,
        input_ids: torch.Tensor,
        labels: torch.Tensor,
        attention_mask: torch.Tensor | None = None,
        position_ids: torch.Tensor | None = None,
        num_items_in_batch: torch.Tensor | int | None = None,
        **_: Any,
    ) -> Output:
        """Loss of a batch as the trainer calls the model: padded, (rows, width) each, or packed, (1, tokens).

        Raises CannotGoOn.
        """
        batch = laid_out(input_ids, labels, attention_mask, position_ids)
        self.share.copy_(batch.share(num_items_in_batch))
        self.found.zero_()
        self.sums.zero_()
        for rows in pieces(batch.lengths.tolist(), self.most):
            part = batch.of(rows)
            shape = (rung(int(part.lengths.sum()), SMALLEST), rung(int(part.targets.sum()), CHUNK))
            shape = min(filter(partial(_holds, shape), self.graphs), default=shape)
            buffers = self.graphs.get(shape) or self._buffers(*shape)
            self._fill(buffers, part)
            if buffers.graph is None and self.device.type == "cuda":
                buffers = self._capture(buffers)
            self.graphs[shape] = buffers
            if buffers.graph is None:
                self._compute(buffers)
            else:
                buffers.graph.replay()
        if torch.distributed.is_initialized():  # the mean of all processes, as DistributedDataParallel makes it
            torch.distributed.all_reduce(self.found)
            self.found /= torch.distributed.get_world_size()
            told = self.sums.clone()  # the trainer gathers what lies on its device
        else:
            told = self.behind.read()  # the trainer's log of accuracy and entropy, which nobody keeps, is a step late
            self.behind.hold(self.sums)
        require_finite(told)
        return Output.of(Loss.apply(self.flat, self.sums[0] * self.share, self.found), told)

    def _buffers(self, tokens: int, targets: int) -> _Buffers:
        ids = torch.zeros(1, tokens, dtype=torch.long, device=self.device)
        positions = torch.arange(tokens, device=self.device)[None] % self.longest
        boundaries = packing.boundaries(positions, self.longest)
        _any_length(positions)
        torch._dynamo.maybe_mark_dynamic(boundaries, 0)
        return _Buffers(ids, positions, torch.full_like(ids[0], -100), boundaries, targets)

    def _fill(self, buffers: _Buffers, rows: Rows) -> None:
        """Put rows side by side; what is left of the buffers is padding, which no sample sees and no loss counts."""
        position, ids, labels = rows.side_by_side(buffers.ids.shape[1])
        boundaries = packing.boundaries(position[None], self.longest)  # on the CPU, where nothing waits for the GPU
        if len(boundaries) > len(buffers.boundaries):
            raise CannotGoOn(f"its rows are shorter than {packing.TOKENS_PER_BOUNDARY:,} tokens")
        buffers.ids.copy_(ids[None])
        buffers.labels.copy_(labels)
        buffers.positions.copy_(position[None])
        buffers.boundaries.copy_(boundaries)

    def _compute(self, buffers: _Buffers) -> None:
        """Add the sums and the gradients of the rows in the buffers."""
        # What autocast has cast is cached until it ends, so a graph would keep the adapter's first weights.
        kind, enabled = self.device.type, torch.is_autocast_enabled(self.device.type)
        with torch.autocast(kind, torch.get_autocast_dtype(kind), enabled, cache_enabled=False), torch.enable_grad():
            # With a gradient, so that the first layer is compiled as the others are.
            embedded = self.causal.model.embed_tokens(buffers.ids).detach().requires_grad_()
            _any_length(embedded)
            hidden = self.causal.model(
                inputs_embeds=embedded,
                position_ids=buffers.positions,
                packed_boundaries=buffers.boundaries,
                packed_longest=self.longest,
                use_cache=False,
            ).last_hidden_state[0]
            first = (buffers.labels != -100).to(torch.int8).argsort(descending=True, stable=True)[: buffers.targets]
            hidden, labels = hidden[first], buffers.labels[first]
            sums = Head.apply(hidden, self.causal.lm_head.weight, labels, self.share)
            found = torch.autograd.grad(sums[0], self.parameters)
        self.found += torch.cat([part.flatten() for part in found])
        self.sums += sums.detach()

    def _capture(self, buffers: _Buffers) -> _Buffers:
        """The buffers with a graph that reads them; the rows in them are not counted yet."""
        before = self.found.clone(), self.sums.clone()
        graph = torch.cuda.CUDAGraph()
        stream = torch.cuda.Stream()
        stream.wait_stream(torch.cuda.current_stream())
        try:
            with torch.cuda.stream(stream):
                for _ in range(WARM_UP):
                    self._compute(buffers)
            torch.cuda.current_stream().wait_stream(stream)
            with torch.cuda.graph(graph, pool=self.pool, capture_error_mode="thread_local"):
                self._compute(buffers)
        except Exception as error:  # compilers, kernels and the driver raise what they like
            first = (str(error).splitlines() or [""])[0][:200]
            raise CannotGoOn(
                f"a step of {buffers.ids.numel():,} tokens failed ({type(error).__name__}: {first})"
            ) from error
        self.found.copy_(before[0])
        self.sums.copy_(before[1])
        return replace(buffers, graph=graph)


def _any_length(tensor: torch.Tensor) -> None:
    """Let torch compile the layers once for any number of tokens, the second dimension, and not once for each graph."""
    torch._dynamo.maybe_mark_dynamic(tensor, 1)


def _rotations_of_any_length(_: Any, arguments: Any, made: tuple[torch.Tensor, ...]) -> None:
    for part in made:
        _any_length(part)


def rung(count: int, smallest: int) -> int:
    """The least of a few sizes that holds `count`: eight an octave, so that few graphs waste at most an eighth."""
    step = smallest
    while step * 16 < count:
        step *= 2
    return max(1, -(-count // step)) * step


def _holds(wanted: tuple[int, int], shape: tuple[int, int]) -> bool:
    """Whether a graph of a shape (tokens, completion tokens) holds what is wanted, without being much larger."""
    return all(need <= there <= need * share for need, there, share in zip(wanted, shape, LARGER, strict=True))


def pieces(lengths: Sequence[int], most: int) -> Iterator[list[int]]:
    """The places of a batch's rows in groups of at most `most` tokens, in order. Raises CannotGoOn."""
    group: list[int] = []
    held = 0
    for place, length in enumerate(lengths):
        if length > most:
            raise CannotGoOn(f"a row of {length:,} tokens is longer than the {most:,} that fit at once")
        if group and held + length > most:
            yield group
            group, held = [], 0
        group.append(place)
        held += length
    yield group


@contextmanager
def captured(trainer: Any, longest: int, most: int) -> Iterator[Step]:
    """Let a trainer's PEFT model compute its loss in the captured step, and restore it afterwards. Raises CannotGoOn."""
    model = trainer.model
    parameters = trained(model)
    if len({(parameter.dtype, parameter.device) for parameter in parameters}) != 1:
        raise CannotGoOn("the adapter has several dtypes or devices")
    with flattened(model) as flat:
        set_optimizer(trainer, flat, parameters)
        step = Step(model, parameters, flat, longest, most)
        trainer.add_callback(OwnMean(trainer, step))
        hook = step.causal.model.rotary_emb.register_forward_hook(_rotations_of_any_length)
        try:
            with standing_in(step.causal, step.forward), batches_stay(trainer):
                yield step
            require_finite(step.behind.read())
        finally:
            hook.remove()
            renew(model, step.parameters, parameters)
