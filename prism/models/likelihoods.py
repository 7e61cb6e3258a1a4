"""Scores the likelihood of each label as the whole answer. It resumes after the last finished batch."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext
from copy import deepcopy
from pathlib import Path
from typing import Any, TypeGuard

from prism.models import reading
from prism.models.generate import Heard, batches, encode_all, token_budget
from prism.models.load import Base
from prism.rows import Example
from prism.rows.answers import LIKELIHOODS, finished_ids

# ruff: isort: split
# After prism.models.load, which imports Unsloth if PRISM uses it.
import torch
from transformers.cache_utils import DynamicCache, DynamicLayer, DynamicSlidingWindowLayer

from prism.models import dense


@torch.no_grad()
def likelihoods(
    base: Base,
    model: Any,
    examples: Sequence[Example],
    labels: Sequence[str],
    folder: Path,
    advance: Callable[[int], None] = lambda _: None,
    ask: Callable[[Heard], Mapping[str, Any]] | None = None,
) -> dict[str, Any]:
    """Write the log-likelihood of each label as the whole answer to `folder`/likelihoods.jsonl.

    It includes the end of the turn, so that no label wins by being a prefix of another. The question is computed once and
    its KV cache repeated for the labels, if its cache can be; else question and label are computed together. `ask` has
    the model answer the same questions first, and labels go on from its reading of them. Returns the notes: the seconds
    of this process, which may have resumed, without those of `ask`.
    """
    start = time.perf_counter()
    done = finished_ids(folder / LIKELIHOODS)
    advance(len(done))
    end = base.chat.end
    answers = [base.chat.label_ids(base.tokenizer, label) for label in labels]
    width = max(map(len, answers))
    device = model.device
    tokens = torch.tensor([ids + [end] * (width - len(ids)) for ids in answers], device=device)
    label_mask = torch.tensor([[n < len(ids) for n in range(width)] for ids in answers], device=device)
    with (folder / LIKELIHOODS).open("a", encoding="utf-8") as file:

        def score(asked: Sequence[Example], prompt: reading.Inputs, cache: DynamicCache | None) -> None:
            scores = _logits(model, prompt, tokens, cache).float().log_softmax(-1)
            repeated = tokens.repeat(len(asked), 1)
            token_scores = scores.gather(-1, repeated[..., None])[..., 0] * label_mask.repeat(len(asked), 1)
            for example, sums in zip(asked, token_scores.sum(-1).view(len(asked), len(labels)).tolist()):
                if example.id in done:  # its answer was not written when a process was killed
                    continue
                file.write(json.dumps({"id": example.id, "labels": dict(zip(labels, sums))}) + "\n")
                done.add(example.id)
                advance(1)
            file.flush()

        def hear(asked: Sequence[Example], prompt: reading.Inputs, cache: DynamicCache) -> None:
            score(asked, prompt, deepcopy(cache))  # the answers go on from it

        answering = ask(hear)["seconds"] if ask else 0.0
        remaining = [example for example in examples if example.id not in done]
        encoded = encode_all(base, remaining)
        begun = reading.beginning(base, model, encoded)
        budget = token_budget(base, model, 1 + len(labels))
        eight = base.spec.model.load_in_8bit and base.library == "transformers"
        with dense.dense(model) if eight else nullcontext():  # the same products, in a third of the time
            for batch in batches(list(map(len, encoded)), width * len(labels), budget):
                score([remaining[i] for i in batch], *reading.after(base, begun, [encoded[i] for i in batch]))
    return {"seconds": time.perf_counter() - start - answering}


def _logits(model: Any, prompt: reading.Inputs, tokens: torch.Tensor, read: DynamicCache | None) -> torch.Tensor:
    """The logits before each token of each label, (questions × labels, label tokens, vocabulary).

    `read` is the KV cache of what was read of the questions, and is changed.
    """
    labels, width = tokens.shape
    mask, done = prompt["attention_mask"], 0 if read is None else read.get_seq_length()
    positions = reading.positions(prompt)
    question = model(
        input_ids=prompt["input_ids"][:, done:],
        attention_mask=mask,
        position_ids=positions[:, done:],
        use_cache=True,
        logits_to_keep=1,
        **({} if read is None else {"past_key_values": read}),
    )
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
