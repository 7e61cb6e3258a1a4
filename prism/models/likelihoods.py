"""Scores the likelihood of each label as the whole answer. It resumes after the last finished batch."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from prism.models import reading
from prism.models.generate import Following, Heard, batches, encode_all, most_tokens, token_budget
from prism.models.load import Base
from prism.rows import Example
from prism.rows.answers import LIKELIHOODS, finished_ids

# ruff: isort: split
# After prism.models.load, which imports Unsloth if PRISM uses it.
import torch

from prism.models import dense


@torch.no_grad()
def likelihoods(
    base: Base,
    model: Any,
    examples: Sequence[Example],
    labels: Sequence[str],
    folder: Path,
    advance: Callable[[int], None] = lambda _: None,
    ask: Callable[[Heard | None], Mapping[str, Any]] | None = None,
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

        def score(asked: Sequence[Example], following: Following) -> None:
            token_scores = following(tokens).view(len(asked), *tokens.shape) * label_mask
            for example, sums in zip(asked, token_scores.sum(-1).tolist()):
                if example.id in done:  # its answer was not written when a process was killed
                    continue
                file.write(json.dumps({"id": example.id, "labels": dict(zip(labels, sums))}) + "\n")
                done.add(example.id)
                advance(1)
            file.flush()

        fits = width <= most_tokens(base.spec)  # else a cache for answers has no room for a label
        answering = ask(score if fits else None)["seconds"] if ask else 0.0
        remaining = [example for example in examples if example.id not in done]
        encoded = encode_all(base, remaining)
        begun = reading.beginning(base, model, encoded)
        budget = token_budget(base, model, 1 + len(labels))
        with dense.dense_in_8_bits(base, model):
            for batch in batches(list(map(len, encoded)), width * len(labels), budget):
                prompt, cache = reading.after(base, begun, [encoded[i] for i in batch])
                score([remaining[i] for i in batch], partial(reading.following, model, prompt, cache))
    return {"seconds": time.perf_counter() - start - answering}
