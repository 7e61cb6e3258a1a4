"""Ask a model: greedy answers, and the likelihood of each label. Both resume after their last finished batch.

Questions are batched by length under a token budget, longest first, so that padding stays small and a batch that is too
large for the memory shows at once. On a GPU the answers come from `prism.decode` where it can run the model and its
logits are the model's own, and from transformers' `generate` everywhere else; the notes say which, and why.
"""

from __future__ import annotations

import json
import time
from bisect import bisect_left
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any

from prism.errors import DataError, SpecError
from prism.models.load import Base
from prism.rows import Example, Prediction
from prism.rows.answers import ANSWERS, LIKELIHOODS, finished_ids

# ruff: isort: split
# After prism.models.load, which imports Unsloth where it is used.
import torch
from peft import PeftModel
from torch.nn.attention import SDPBackend, sdpa_kernel
from transformers import GenerationConfig, StoppingCriteriaList

from prism.models import cost, decode, kernels, layout

BATCH_TOKENS = {"cpu": 4_096, "cuda": 65_536}  # padded prompt and answer tokens in flight
# Steps that `generate` would take, from which laying out the weights, comparing logits and capturing a step pay: those
# cost up to 1.9 s, and a step of `generate` 28 ms however few its rows (both on an H200, Qwen2.5-1.5B).
DECODE_FROM = 64
MEMORY_SHARE = 0.8  # share of the free GPU memory that weights and cache may take
# `decode` calls flash attention; cuDNN's adds up in another order, and near-tied answers hang on it.
ATTENTION = [SDPBackend.FLASH_ATTENTION, SDPBackend.EFFICIENT_ATTENTION, SDPBackend.MATH]
PROBES = 8
# Half-precision logits depend on the shapes of the matrix products behind them: the same model, asked one question at a
# time, differs from itself. `decode` may differ from the model by three times that, or by this share of a logit vector
# (without its mean); a wrong position costs .45 on the nano model, a missing weak adapter .05.
DECODE_TOLERANCE = {torch.float32: 1e-4, torch.bfloat16: 2**-5, torch.float16: 2**-6}


@contextmanager
def _own_options(model: Any) -> Iterator[None]:
    """`generate` with the spec's options alone.

    What they leave open it would fill in from the model's own generation config, which for Qwen2.5 holds a penalty on
    repetitions.
    """
    causal = model.get_base_model() if isinstance(model, PeftModel) else model
    kept, causal.generation_config = causal.generation_config, GenerationConfig()
    try:
        yield
    finally:
        causal.generation_config = kept


def encode(base: Base, example: Example) -> list[int]:
    """The token ids of a question as the model's chat template renders it, ready for the answer."""
    encoded = base.tokenizer.apply_chat_template(
        [dict(message) for message in example.messages], add_generation_prompt=True, return_dict=True
    )["input_ids"]
    room = base.spec.model.max_seq_length - base.spec.generate.get("max_new_tokens", 0)
    if len(encoded) > room:
        raise DataError(
            f"sample {example.id}: {len(encoded)} tokens, but [model].max_seq_length leaves {room} for the question; "
            f"raise it or shorten the row"
        )
    return encoded


def batches(encoded: Sequence[Sequence[int]], extra: int, budget: int) -> Iterator[list[int]]:
    """Indices in batches, longest first, of at most `budget` padded tokens with `extra` new ones each."""
    order = sorted(range(len(encoded)), key=lambda i: -len(encoded[i]))
    start = 0
    while start < len(order):
        size = max(1, budget // (len(encoded[order[start]]) + extra))
        yield order[start : start + size]
        start += size


def pad(base: Base, rows: Sequence[Sequence[int]]) -> dict[str, torch.Tensor]:
    padded = base.tokenizer.pad({"input_ids": [list(row) for row in rows]}, padding_side="left", return_tensors="pt")
    return {name: tensor.to(base.model.device) for name, tensor in padded.items() if name != "token_type_ids"}


@torch.no_grad()
@sdpa_kernel(ATTENTION)
def answers(
    base: Base, model: Any, examples: Sequence[Example], folder: Path, advance: Callable[[int], None] = lambda _: None
) -> dict[str, Any]:
    """Greedy answers to `folder`/predictions.jsonl, one line a sample, a batch at a time, by `[generate]` alone.

    Returns notes: which path produced them, and why; new tokens and seconds of this process, which may have resumed.
    """
    began, tokens = time.perf_counter(), 0
    done = finished_ids(folder / ANSWERS)
    advance(len(done))
    left = [example for example in examples if example.id not in done]
    encoded = [encode(base, example) for example in left]
    tokenizer = base.tokenizer
    config = GenerationConfig(
        do_sample=False,
        pad_token_id=tokenizer.pad_token_id,
        eos_token_id=sorted({tokenizer.eos_token_id, *_ends(model)}),
        **{name: value for name, value in base.spec.generate.items() if name != "stop_strings"},
    )
    stops = base.spec.generate.get("stop_strings", [])
    if special := [stop for stop in stops if stop in tokenizer.all_special_tokens]:
        raise SpecError(
            f"{base.spec.id}.toml [generate] stop_strings: {special[0]} is a special token, which no answer holds; delete it"
        )
    new_tokens = base.spec.generate.get("max_new_tokens", 20)
    decoder, notes = _decoder(base, model, encoded, new_tokens)
    budget = _budget(base, model)
    chosen = batches(encoded, new_tokens, budget) if decoder is None else _rows(encoded, decoder.rows)
    over = partial(_over, tokenizer, stops) if stops else None
    with (folder / ANSWERS).open("a", encoding="utf-8") as file:
        for batch in chosen:
            asked = [encoded[i] for i in batch]
            if decoder is not None:
                produced = decoder.answer(asked, new_tokens, config.eos_token_id, over)
            else:
                prompt = pad(base, asked)
                width = prompt["input_ids"].shape[1]
                ended = _criteria(over, width) if over else None
                with _own_options(model):
                    whole = model.generate(**prompt, generation_config=config, stopping_criteria=ended)
                produced = whole[:, width:].tolist()
            for i, ids in zip(batch, produced, strict=True):
                length = next((n for n, token in enumerate(ids) if token in config.eos_token_id), None)
                kept = ids if length is None else ids[:length]
                text = tokenizer.decode(kept, skip_special_tokens=True)
                if (place := _stop(tokenizer, kept, stops)) is not None:
                    length, text = place
                    kept = kept[:length]
                tokens += len(kept)
                finish = "length" if length is None else "stop"
                line = asdict(Prediction(left[i].id, text, len(kept), finish))
                file.write(json.dumps(line, ensure_ascii=False) + "\n")
            file.flush()
            advance(len(batch))
    return notes | {"tokens": tokens, "seconds": time.perf_counter() - began}


def _over(tokenizer: Any, stops: Sequence[str], said: Sequence[Sequence[int]]) -> list[bool]:
    """Which answers have come to a stop string within their last few tokens."""
    window = decode.LOOK + 4 * max(map(len, stops))  # a character is four tokens at most
    tails = tokenizer.batch_decode([ids[-window:] for ids in said], skip_special_tokens=True)
    return [any(stop in tail for stop in stops) for tail in tails]


def _criteria(over: Callable[[list[list[int]]], list[bool]], width: int) -> StoppingCriteriaList:
    """Stop strings after a question `width` tokens long; transformers' own also finds one that begins in the question."""

    def ended(ids: torch.Tensor, _: torch.Tensor) -> torch.Tensor:
        return torch.tensor(over(ids[:, width:].tolist()), device=ids.device)

    return StoppingCriteriaList([ended])


def _stop(tokenizer: Any, ids: Sequence[int], stops: Sequence[str]) -> tuple[int, str] | None:
    """How many tokens it takes to say one of `stops`, and the text before it; None where none is said.

    Whichever path answered: tokens that either said after that are cut off.
    """

    def said(length: int) -> str:
        return tokenizer.decode(ids[:length], skip_special_tokens=True)

    def stopped(length: int) -> bool:
        return any(stop in said(length) for stop in stops)

    if not stopped(len(ids)):
        return None
    length = bisect_left(range(len(ids)), True, key=stopped)
    text = said(length)
    return length, text[: min(text.index(stop) for stop in stops if stop in text)]


def _room(base: Base, model: Any) -> float:
    """Bytes of GPU memory that answering may take: a share of what is free, and no more than the spec's own limit."""
    room = MEMORY_SHARE * cost.free_memory()
    limit = base.spec.gate.get("cost", {}).get("peak_memory_gib")
    if limit is not None and limit.ceiling is not None:
        room = min(room, MEMORY_SHARE * limit.ceiling * 2**30 - torch.cuda.memory_allocated(model.device))
    return room


def _budget(base: Base, model: Any, copies: int = 1) -> int:
    """Padded tokens in flight: as many as pay, or as the memory holds `copies` of the keys and values of."""
    most = BATCH_TOKENS[model.device.type]
    if model.device.type == "cpu":
        return most
    return max(1, min(most, int(_room(base, model) / 2 / (copies * layout.cache_bytes(model)))))


def _rows(encoded: Sequence[Sequence[int]], size: int) -> Iterator[list[int]]:
    """Indices in batches of `size`, longest first."""
    order = sorted(range(len(encoded)), key=lambda i: -len(encoded[i]))
    return (order[start : start + size] for start in range(0, len(order), size))


def _decoder(
    base: Base, model: Any, encoded: Sequence[Sequence[int]], new_tokens: int
) -> tuple[decode.Decoder | None, dict[str, Any]]:
    """The fast path, where it is one; else None, with the reason in the notes."""

    def generate(why: str) -> tuple[None, dict[str, Any]]:
        return None, {"engine": "generate", "why": why}

    if model.device.type != "cuda":
        return generate("no GPU")
    if not encoded:
        return None, {}  # a process before this one answered all, and its path is not known
    length = max(map(len, encoded)) + new_tokens
    if -(-len(encoded) * length // BATCH_TOKENS["cuda"]) * new_tokens < DECODE_FROM:
        return generate(f"{len(encoded)} × {new_tokens} tokens are too few to pay for it")
    if options := sorted(set(base.spec.generate) - {"max_new_tokens", "stop_strings"}):
        return generate(f"[generate] {options[0]} is for generate alone")
    if why := layout.unsupported(model):
        return generate(why)
    room = _room(base, model) - layout.weight_bytes(model) - layout.pass_bytes(model, sum(map(len, encoded)))
    rows = min(decode.SLOTS, len(encoded), int(room / (length * layout.cache_bytes(model))))
    if rows < min(len(encoded), PROBES):
        return generate("its weights and cache need more GPU memory than is free, or than [gate.cost] allows")
    decoder = decode.Decoder(model, rows, length)
    probes = encoded[:: -(-len(encoded) // PROBES)][:rows]
    wanted = _next_logits(base, model, probes)
    alone = torch.cat([_next_logits(base, model, [probe]) for probe in probes])
    apart = _distance(decoder.read(probes, decode.shared_beginning(probes)), wanted)
    itself = _distance(alone, wanted)
    if not apart <= max(3 * itself, DECODE_TOLERANCE[model.dtype]):
        return generate(f"its logits are {apart:.3g} from the model's, the model's own {itself:.3g} from themselves")
    return decoder, {
        "engine": "captured",
        "kernels": "triton" if kernels.built() else "torch",
        "rows": rows,
        "logits_apart": apart,
        "batch_of_one_apart": itself,
    }


def _next_logits(base: Base, model: Any, rows: Sequence[Sequence[int]]) -> torch.Tensor:
    prompt = pad(base, rows)
    positions = (prompt["attention_mask"].cumsum(-1) - 1).clamp(min=0)
    return model(**prompt, position_ids=positions, logits_to_keep=1).logits[:, -1]


def _distance(found: torch.Tensor, wanted: torch.Tensor) -> float:
    """The largest distance of two logit vectors, without their means, as a share of the wanted one's length."""
    found, wanted = (part.float() - part.float().mean(-1, keepdim=True) for part in (found, wanted))
    return float(((found - wanted).norm(dim=-1) / wanted.norm(dim=-1)).max())


def _ends(model: Any) -> list[int]:
    """The end tokens that the model's own generation config names (Qwen has two)."""
    ends = model.generation_config.eos_token_id
    return [] if ends is None else list(ends) if isinstance(ends, (list, tuple)) else [ends]


@torch.no_grad()
def likelihoods(
    base: Base,
    model: Any,
    examples: Sequence[Example],
    labels: Sequence[str],
    folder: Path,
    advance: Callable[[int], None] = lambda _: None,
) -> None:
    """Log-likelihood of each label as the whole answer, to `folder`/likelihoods.jsonl.

    The question is run once; its cache is repeated for the labels, whose tokens (with the end of the turn, so that no
    label wins by being another's beginning) are then scored in one pass.
    """
    done = finished_ids(folder / LIKELIHOODS)
    advance(len(done))
    left = [example for example in examples if example.id not in done]
    encoded = [encode(base, example) for example in left]
    end = base.tokenizer.eos_token_id
    options = [base.tokenizer(label, add_special_tokens=False)["input_ids"] + [end] for label in labels]
    width = max(map(len, options))
    device = model.device
    tokens = torch.tensor([option + [end] * (width - len(option)) for option in options], device=device)
    counted = torch.tensor([[n < len(option) for n in range(width)] for option in options], device=device)
    with (folder / LIKELIHOODS).open("a", encoding="utf-8") as file:
        for batch in batches(encoded, width * len(labels), _budget(base, model, 1 + len(labels))):
            prompt = pad(base, [encoded[i] for i in batch])
            mask = prompt["attention_mask"]
            positions = (mask.cumsum(-1) - 1).clamp(min=0)
            asked = model(**prompt, position_ids=positions, use_cache=True, logits_to_keep=1)
            asked.past_key_values.batch_repeat_interleave(len(labels))
            repeated = tokens.repeat(len(batch), 1)
            after = (positions[:, -1:] + 1).repeat_interleave(len(labels), 0)
            told = model(
                input_ids=repeated[:, :-1],
                attention_mask=torch.cat(
                    [mask.repeat_interleave(len(labels), 0), torch.ones_like(repeated[:, :-1])], 1
                ),
                position_ids=after + torch.arange(width - 1, device=device),
                past_key_values=asked.past_key_values,
            )
            first = asked.logits[:, -1:].repeat_interleave(len(labels), 0)
            scores = torch.cat([first, told.logits], 1).float().log_softmax(-1)
            chosen = scores.gather(-1, repeated[..., None])[..., 0] * counted.repeat(len(batch), 1)
            for i, sums in zip(batch, chosen.sum(-1).view(len(batch), len(labels)).tolist()):
                line = {"id": left[i].id, "labels": dict(zip(labels, sums))}
                file.write(json.dumps(line) + "\n")
            file.flush()
            advance(len(batch))
