"""Scores the likelihood of each label as the whole answer. It resumes after the last finished batch."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, TypeGuard

from prism.models.generate import batches, encode, pad, token_budget
from prism.models.load import Base
from prism.rows import Example
from prism.rows.answers import LIKELIHOODS, finished_ids

# ruff: isort: split
# After prism.models.load, which imports Unsloth if PRISM uses it.
import torch
from transformers.cache_utils import DynamicCache, DynamicLayer, DynamicSlidingWindowLayer


@torch.no_grad()
def likelihoods(
    base: Base,
    model: Any,
    examples: Sequence[Example],
    labels: Sequence[str],
    folder: Path,
    advance: Callable[[int], None] = lambda _: None,
) -> None:
    """Write the log-likelihood of each label as the whole answer to `folder`/likelihoods.jsonl.

    It includes the end of the turn, so that no label wins by being a prefix of another. The question is computed once and
    its KV cache repeated for the labels, if its cache can be; else question and label are computed together.
    """
    done = finished_ids(folder / LIKELIHOODS)
    advance(len(done))
    remaining = [example for example in examples if example.id not in done]
    encoded = [encode(base, example) for example in remaining]
    end = base.chat.end
    answers = [base.chat.label_ids(base.tokenizer, label) for label in labels]
    width = max(map(len, answers))
    device = model.device
    tokens = torch.tensor([ids + [end] * (width - len(ids)) for ids in answers], device=device)
    label_mask = torch.tensor([[n < len(ids) for n in range(width)] for ids in answers], device=device)
    with (folder / LIKELIHOODS).open("a", encoding="utf-8") as file:
        for batch in batches(list(map(len, encoded)), width * len(labels), token_budget(base, model, 1 + len(labels))):
            prompt = pad(base, [encoded[i] for i in batch])
            scores = _logits(model, prompt, tokens).float().log_softmax(-1)
            repeated = tokens.repeat(len(batch), 1)
            token_scores = scores.gather(-1, repeated[..., None])[..., 0] * label_mask.repeat(len(batch), 1)
            for i, sums in zip(batch, token_scores.sum(-1).view(len(batch), len(labels)).tolist()):
                line = {"id": remaining[i].id, "labels": dict(zip(labels, sums))}
                file.write(json.dumps(line) + "\n")
            file.flush()
            advance(len(batch))


def _logits(model: Any, prompt: dict[str, torch.Tensor], tokens: torch.Tensor) -> torch.Tensor:
    """The logits before each token of each label, (questions × labels, label tokens, vocabulary)."""
    labels, width = tokens.shape
    mask = prompt["attention_mask"]
    positions = (mask.cumsum(-1) - 1).clamp(min=0)
    question = model(**prompt, position_ids=positions, use_cache=True, logits_to_keep=1)
    cache = getattr(question, "past_key_values", None)  # a state-space model has none
    begun = tokens.repeat(len(mask), 1)[:, :-1]
    whole_mask = torch.cat([mask.repeat_interleave(labels, 0), torch.ones_like(begun)], 1)
    later = (positions[:, -1:] + 1).repeat_interleave(labels, 0) + torch.arange(width - 1, device=model.device)
    if not _repeats(cache):
        whole = torch.cat([prompt["input_ids"].repeat_interleave(labels, 0), begun], 1)
        places = torch.cat([positions.repeat_interleave(labels, 0), later], 1)
        # Budgets count the question once. One label a time keeps to them.
        logits = [
            model(
                input_ids=whole[first::labels],
                attention_mask=whole_mask[first::labels],
                position_ids=places[first::labels],
                use_cache=False,
                logits_to_keep=width,
            ).logits[:, -width:]
            for first in range(labels)
        ]
        return torch.stack(logits, 1).flatten(0, 1)
    first = question.logits[:, -1:].repeat_interleave(labels, 0)
    if width == 1:
        return first
    cache.batch_repeat_interleave(labels)
    scored = model(input_ids=begun, attention_mask=whole_mask, position_ids=later, past_key_values=cache)
    return torch.cat([first, scored.logits], 1)


def _repeats(cache: Any) -> TypeGuard[DynamicCache]:
    """Whether a cache can be repeated for the labels, and continued by several tokens at once.

    Not Unsloth's tuples, which take one token at a time, nor the states of models that are no transformers.
    """
    kinds = (DynamicLayer, DynamicSlidingWindowLayer)
    return isinstance(cache, DynamicCache) and all(type(layer) in kinds for layer in cache.layers)
