"""Generates greedy answers, and resumes after the last finished batch.

Batches have a token budget and are sorted by length, longest first, so that padding stays small and a batch that
exceeds the memory fails at once. On a GPU `prism.models.decode` answers if it supports the model and computes the same
logits, else transformers' `generate`; the notes contain which, and why. On a CPU `prism.models.reading` reads what all
prompts begin with once, and answers greedily from there.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from copy import deepcopy
from functools import partial
from pathlib import Path
from typing import Any
from weakref import WeakKeyDictionary

from prism.errors import DataError, SpecError
from prism.models.load import Base
from prism.rows import Example
from prism.rows.answers import ANSWERS, finished_ids
from prism.spec import Spec

# ruff: isort: split
# After prism.models.load, which imports Unsloth if PRISM uses it.
import torch
from peft import PeftModel
from torch.nn.attention import SDPBackend, sdpa_kernel
from transformers import GenerationConfig, StoppingCriteriaList
from transformers.cache_utils import DynamicCache

from prism.models import beginnings, cost, decode, dense, kernels, layout, reading, vision
from prism.models.chat import conversations_ids
from prism.models.writing import Writer

BATCH_TOKENS = {"cpu": 4_096, "cuda": 65_536}  # padded prompt and answer tokens in one batch
# Use `decode` from this many steps of `generate`: its set-up (copy weights, compare logits, capture a step) takes up to
# 1.9 s, a step of `generate` 28 ms even with few rows (both on an H200, Qwen2.5-1.5B).
DECODE_FROM = 64
DECODE_FROM_INT8 = 8  # no weights are copied, and bitsandbytes' own step waits for the GPU in each product
# `decode` uses flash attention; cuDNN's sums in another order, which changes near-tied answers.
ATTENTION = [SDPBackend.FLASH_ATTENTION, SDPBackend.EFFICIENT_ATTENTION, SDPBackend.MATH]
PROBES = 8
OWN = {"max_new_tokens", "stop_strings", "template"}  # options of [generate] that need nothing of `generate` itself

# The places of its examples, its inputs, and the KV cache of what these begin with.
Batch = tuple[list[int], reading.Inputs, DynamicCache | None]
# Gives the log-probabilities of the tokens of labels (labels, tokens) after each question, (questions × labels, tokens).
Following = Callable[[torch.Tensor], torch.Tensor]
Heard = Callable[[Sequence[Example], Following], object]  # gets the questions of a batch


@contextmanager
def _spec_options_only(model: Any) -> Iterator[None]:
    """Let `generate` use only the spec's options.

    By default it completes them from the model's own generation config, which has a repetition penalty for Qwen2.5.
    """
    causal = model.get_base_model() if isinstance(model, PeftModel) else model
    previous, causal.generation_config = causal.generation_config, GenerationConfig()
    try:
        yield
    finally:
        causal.generation_config = previous


def check(spec: Spec) -> None:
    """Let transformers check `[generate]` before anything is measured. Raises SpecError."""
    known = GenerationConfig()
    for key in spec.generate.keys() - {"template"}:
        if not hasattr(known, key):
            raise SpecError(f"{spec.id}.toml [generate] {key}: GenerationConfig has no such option; check its spelling")


def most_tokens(spec: Spec) -> int:
    """The most tokens that an answer may have."""
    return int(spec.generate.get("max_new_tokens", 20))  # transformers' default


def encode(base: Base, example: Example) -> list[int]:
    """The token ids of a question in the model's chat template, with the generation prompt."""
    return encode_all(base, [example])[0]


def encode_all(base: Base, examples: Sequence[Example]) -> list[list[int]]:
    """`encode` of each example. Raises DataError if a question leaves no room for its answer."""
    found = conversations_ids(base.tokenizer, [base.chat.messages(example) for example in examples])
    room = base.spec.model.max_seq_length - base.spec.generate.get("max_new_tokens", 0)
    for example, encoded in zip(examples, found):
        if len(encoded) > room:
            raise DataError(
                f"sample {example.id}: {len(encoded)} tokens, but [model].max_seq_length leaves {room} for the "
                f"question; raise it or shorten the row"
            )
    return found


def batches(lengths: Sequence[int], extra: int, budget: int) -> Iterator[list[int]]:
    """Batches of indices, longest first, of at most `budget` padded tokens, with `extra` new ones per prompt."""
    order = sorted(range(len(lengths)), key=lambda i: -lengths[i])
    start = 0
    while start < len(order):
        size = max(1, budget // (lengths[order[start]] + extra))
        yield order[start : start + size]
        start += size


def _batches(
    base: Base,
    model: Any,
    examples: Sequence[Example],
    encoded: Sequence[Sequence[int]],
    extra: int,
    begun: DynamicCache | None,
) -> Iterator[Batch]:
    """`batches` with their inputs. With images, all prompts of a batch have equally many, as processors need it."""
    lengths = [prompt for prompt, _ in vision.lengths(base, examples)] if base.processor else list(map(len, encoded))
    budget, most = token_budget(base, model), len(examples)
    if base.processor and model.device.type == "cuda":
        most = max(1, int(cost.available_memory(base.spec) / 2 / (vision.pass_bytes(base, examples) or 1)))
    for count in sorted({len(example.images) for example in examples}):
        places = [i for i, example in enumerate(examples) if len(example.images) == count]
        for batch in batches([lengths[i] for i in places], extra, budget):
            for start in range(0, len(batch), most):
                chosen = [places[i] for i in batch[start : start + most]]
                if base.processor:
                    yield chosen, vision.inputs(base, [examples[i] for i in chosen]), None
                else:
                    yield chosen, *reading.after(base, begun, [encoded[i] for i in chosen])


@torch.no_grad()
@sdpa_kernel(ATTENTION)
def answers(
    base: Base,
    model: Any,
    examples: Sequence[Example],
    folder: Path,
    advance: Callable[[int], None] = lambda _: None,
    merge: bool = True,
    observe: Callable[[Example, list[int]], object] = lambda *_: None,
    heard: Heard | None = None,
) -> dict[str, Any]:
    """Write greedy answers to `folder`/predictions.jsonl, one line a sample, batch by batch, with `[generate]` only.

    The captured step, if it may be taken, merges the adapter of a PEFT model, or keeps it apart if not `merge`.
    `observe` gets each example with the token ids of its answer, an end token included. `heard` gets the batches whose
    prompts share their beginning, and its seconds do not count.
    Returns notes: the engine and why it was chosen; new tokens and seconds of this process, which may have resumed.
    """
    start, elsewhere = time.perf_counter(), 0.0
    done = finished_ids(folder / ANSWERS)
    advance(len(done))
    remaining = [example for example in examples if example.id not in done]
    encoded = [] if base.processor else encode_all(base, remaining)
    tokenizer = base.tokenizer
    config = GenerationConfig(
        do_sample=False,
        pad_token_id=tokenizer.pad_token_id,
        eos_token_id=sorted({tokenizer.eos_token_id, base.chat.end, *_end_tokens(model)}),
        **{name: value for name, value in base.spec.generate.items() if name not in ("stop_strings", "template")},
    )
    stops = base.spec.generate.get("stop_strings", [])
    if special := [stop for stop in stops if stop in tokenizer.all_special_tokens]:
        raise SpecError(
            f"{base.spec.id}.toml [generate] stop_strings: {special[0]} is a special token, so no answer contains it; "
            f"delete it"
        )
    new_tokens = most_tokens(base.spec)
    decoder, notes = _decoder(base, model, encoded, new_tokens, merge)
    begun = None if decoder or set(base.spec.generate) - OWN else reading.beginning(base, model, encoded)
    batched: Iterator[Batch] = _batches(base, model, remaining, encoded, new_tokens, begun)
    if decoder is not None:
        batched = ((batch, {}, None) for batch in _fixed_batches(encoded, decoder.rows))
    has_stop = partial(_has_stop, tokenizer, stops) if stops else None

    def tell(batch: Sequence[int], following: Following) -> None:
        nonlocal elsewhere
        assert heard
        paused = time.perf_counter()
        heard([remaining[i] for i in batch], following)
        elsewhere += time.perf_counter() - paused

    given = (tokenizer, config.eos_token_id, stops, base.chat.opened, observe, advance)
    # A processor sets how its tokenizer pads, which no other thread may use meanwhile.
    behind = base.processor is None
    with (folder / ANSWERS).open("a", encoding="utf-8") as file, Writer(file, *given, behind) as writer:
        for batch, prompt, cache in batched:
            if decoder is not None:
                prompts = [encoded[i] for i in batch]
                told = partial(tell, batch) if heard else None
                produced = decoder.answer(prompts, new_tokens, config.eos_token_id, has_stop, told)
            elif cache is not None:
                if heard:
                    reading.read(model, prompt, cache)
                    tell(batch, partial(reading.following, model, prompt, deepcopy(cache)))  # the answers go on from it
                produced = reading.greedy(model, prompt, cache, new_tokens, config.eos_token_id, has_stop)
            else:
                width = prompt["input_ids"].shape[1]
                criteria = _stopping_criteria(has_stop, width) if has_stop else None
                with _spec_options_only(model):
                    sequences = model.generate(**prompt, generation_config=config, stopping_criteria=criteria)
                produced = sequences[:, width:].tolist()
            writer.add([remaining[i] for i in batch], produced)
    pictures = sum(len(example.images) for example in remaining)
    return (
        base.chat.notes
        | notes
        | {"tokens": writer.tokens, "seconds": time.perf_counter() - start - elsewhere}
        | ({"images": pictures} if pictures else {})
    )


def _has_stop(tokenizer: Any, stops: Sequence[str], generated: Sequence[Sequence[int]]) -> list[bool]:
    """Which answers contain a stop string in their last few tokens."""
    window = decode.CHECK_EVERY + 4 * max(map(len, stops))  # a character has at most four tokens
    tails = tokenizer.batch_decode([ids[-window:] for ids in generated], skip_special_tokens=True)
    return [any(stop in tail for stop in stops) for tail in tails]


def _stopping_criteria(has_stop: Callable[[list[list[int]]], list[bool]], width: int) -> StoppingCriteriaList:
    """Stop strings after a prompt of `width` tokens; transformers' own also match if they begin in the prompt."""

    def ended(ids: torch.Tensor, _: torch.Tensor) -> torch.Tensor:
        return torch.tensor(has_stop(ids[:, width:].tolist()), device=ids.device)

    return StoppingCriteriaList([ended])


def token_budget(base: Base, model: Any, copies: int = 1) -> int:
    """Padded tokens in one batch: limited by throughput, or by memory for `copies` of the KV cache."""
    largest = BATCH_TOKENS[model.device.type]
    if model.device.type == "cpu":
        return largest
    return max(1, min(largest, int(cost.available_memory(base.spec) / 2 / max(1, copies * layout.cache_bytes(model)))))


def _fixed_batches(encoded: Sequence[Sequence[int]], size: int) -> Iterator[list[int]]:
    """Batches of `size` indices, longest first."""
    order = sorted(range(len(encoded)), key=lambda i: -len(encoded[i]))
    return (order[start : start + size] for start in range(0, len(order), size))


def _decoder(
    base: Base, model: Any, encoded: Sequence[Sequence[int]], new_tokens: int, merge: bool
) -> tuple[decode.Decoder | None, dict[str, Any]]:
    """The decoder if it supports the model and is faster; else None, with the reason in the notes."""

    def fall_back(reason: str) -> tuple[None, dict[str, Any]]:
        return None, {"engine": "generate", "why": reason}

    if model.device.type != "cuda":
        return fall_back("no GPU")
    if base.processor:
        return fall_back("images go through the processor")
    if not encoded:
        return None, {}  # an earlier process answered all; its engine is unknown
    length = max(map(len, encoded)) + new_tokens
    least = DECODE_FROM_INT8 if base.spec.model.load_in_8bit else DECODE_FROM
    if -(-len(encoded) * length // BATCH_TOKENS["cuda"]) * new_tokens < least:
        return fall_back(f"{len(encoded)} × {new_tokens} tokens are too few for the set-up of the captured step")
    if options := sorted(set(base.spec.generate) - OWN):
        return fall_back(f"[generate] {options[0]} works only with generate")
    if reason := layout.unsupported(model):
        return fall_back(reason)
    copied = 0 if base.spec.model.load_in_8bit else layout.weight_bytes(model)
    available = cost.available_memory(base.spec) - copied
    most = min(decode.MAX_ROWS, len(encoded))
    for together in (layout.PREFILL, layout.PREFILL // 4):  # prompts read in smaller passes leave memory for more rows
        together = max(together, length)  # the longest prompt is one pass
        pass_bytes = layout.pass_bytes(model, min(together, sum(map(len, encoded))))
        rows = min(most, int((available - pass_bytes) / (length * layout.cache_bytes(model))))
        if rows == most:
            break
    if rows < min(len(encoded), PROBES):
        return fall_back("its weights and cache need more GPU memory than is free, or than [gate.cost] allows")
    decoder = decode.Decoder(model, rows, length, merge, together)
    probes = encoded[:: -(-len(encoded) // PROBES)][:rows]
    expected = reading.next_logits(model, reading.pad(base, probes))
    distance = reading.relative_distance(decoder.prefill(probes, beginnings.shared_beginning(probes)), expected)
    notes: dict[str, Any] = {"engine": "captured", "kernels": "triton" if kernels.built() else "torch", "rows": rows}
    notes |= {"logits_apart": distance}
    if distance <= reading.TOLERANCE[model.dtype]:
        return decoder, notes
    own_distance = _moved_by_batching(base, model, probes, expected)
    if not distance <= 3 * own_distance:
        return fall_back(
            f"its logits differ from the model's by {distance:.3g}; batching changes the model's by {own_distance:.3g}"
        )
    return decoder, notes | {"batch_of_one_apart": own_distance}


_moved: WeakKeyDictionary[Any, float] = WeakKeyDictionary()  # by model, without its adapter


def _moved_by_batching(base: Base, model: Any, probes: Sequence[Sequence[int]], expected: torch.Tensor) -> float:
    """How far asking one at a time moves a model's logits from the `expected` ones of a batch.

    Measured once for a model, because a thousand layers that Python calls one by one take seconds to answer a few prompts.
    """
    causal = model.get_base_model() if isinstance(model, PeftModel) else model
    if causal not in _moved:
        with dense.dense_in_8_bits(base, model):
            alone = torch.cat([reading.next_logits(model, reading.pad(base, [probe])) for probe in probes])
        _moved[causal] = reading.relative_distance(alone, expected)
    return _moved[causal]


def _end_tokens(model: Any) -> list[int]:
    """The end tokens in the model's own generation config (Qwen has two)."""
    ends = model.generation_config.eos_token_id
    return [] if ends is None else list(ends) if isinstance(ends, (list, tuple)) else [ends]
