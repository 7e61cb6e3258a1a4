"""Reads prompts and goes on greedily. On a CPU, what all prompts begin with is read once.

Its KV cache is repeated for each batch, before the padding: beginning, padding, a prompt's own rest. Answers that have
ended leave the batch. On a GPU `prism.models.decode` does both in a cache of fixed shape.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from copy import deepcopy
from typing import Any

from prism.models.load import Base

# ruff: isort: split
# After prism.models.load, which imports Unsloth if PRISM uses it.
import torch
from transformers.cache_utils import DynamicCache, DynamicLayer

from prism.models.decode import CHECK_EVERY, shared_beginning

# Half-precision logits depend on the shapes of the matrix products: the same model differs from itself if it gets one
# question at a time. What reads faster may differ from the model by three times that, or by this share of a mean-free
# logit vector. On the nano model a wrong position changes logits by .45, a missing weak adapter by .05.
TOLERANCE = {torch.float32: 1e-4, torch.bfloat16: 2**-5, torch.float16: 2**-6}
SHARED_FROM = 16  # prompts: of fewer, the comparison with the model costs more than the beginning
PROBES = 4

Inputs = dict[str, torch.Tensor]


def pad(base: Base, rows: Sequence[Sequence[int]]) -> Inputs:
    padded = base.tokenizer.pad({"input_ids": [list(row) for row in rows]}, padding_side="left", return_tensors="pt")
    return {name: tensor.to(base.model.device) for name, tensor in padded.items() if name != "token_type_ids"}


def positions(prompt: Inputs) -> torch.Tensor:
    """The place of each token in its prompt, without the padding."""
    return (prompt["attention_mask"].cumsum(-1) - 1).clamp(min=0)


def beginning(base: Base, model: Any, prompts: Sequence[Sequence[int]]) -> DynamicCache | None:
    """The KV cache of what all prompts begin with, in one row.

    None if they share nothing, are few or lie on a GPU, and if the model's cache is another (a sliding window counts the
    padding), or would give other logits.
    """
    shared = shared_beginning(prompts)
    if model.device.type != "cpu" or len(prompts) < SHARED_FROM or not shared:
        return None
    begun = model(input_ids=torch.tensor([list(prompts[0][:shared])]), use_cache=True, logits_to_keep=1)
    cache = getattr(begun, "past_key_values", None)  # a state-space model has none
    if not isinstance(cache, DynamicCache) or any(type(layer) is not DynamicLayer for layer in cache.layers):
        return None
    probes = prompts[:: -(-len(prompts) // PROBES)]
    apart = relative_distance(next_logits(model, *after(base, cache, probes)), next_logits(model, pad(base, probes)))
    return cache if apart <= TOLERANCE[model.dtype] else None


def after(base: Base, begun: DynamicCache | None, rows: Sequence[Sequence[int]]) -> tuple[Inputs, DynamicCache | None]:
    """The prompts of a batch, and the KV cache of what they begin with, if any, repeated for each."""
    if begun is None:
        return pad(base, rows), None
    shared = begun.get_seq_length()
    first = {"input_ids": torch.tensor([list(rows[0][:shared])] * len(rows))}
    first["attention_mask"] = torch.ones_like(first["input_ids"])
    own = pad(base, [row[shared:] for row in rows])
    cache = deepcopy(begun)
    cache.batch_repeat_interleave(len(rows))
    return {name: torch.cat([first[name], own[name]], 1) for name in first}, cache


def read(model: Any, prompt: Inputs, cache: DynamicCache) -> None:
    """Read on from the cache to all but the last token, from which answers and labels go on."""
    done, mask = cache.get_seq_length(), prompt["attention_mask"]
    if done < mask.shape[1] - 1:
        own = {"input_ids": prompt["input_ids"][:, done:-1], "position_ids": positions(prompt)[:, done:-1]}
        model(**own, attention_mask=mask[:, :-1], past_key_values=cache, logits_to_keep=1)


def next_logits(model: Any, prompt: Inputs, cache: DynamicCache | None = None) -> torch.Tensor:
    """The logits after each prompt, of which the cache may hold a part, (prompts, vocabulary)."""
    done = 0 if cache is None else cache.get_seq_length()
    rest = {"input_ids": prompt["input_ids"][:, done:], "position_ids": positions(prompt)[:, done:]}
    mask, cached = prompt["attention_mask"], {} if cache is None else {"past_key_values": cache}
    return model(**rest, attention_mask=mask, **cached, logits_to_keep=1).logits[:, -1]


def greedy(
    model: Any,
    prompt: Inputs,
    cache: DynamicCache,
    new_tokens: int,
    ends: Collection[int],
    stopped: Callable[[list[list[int]]], list[bool]] | None = None,
) -> list[list[int]]:
    """The greedy continuation of each prompt up to its first end token, `new_tokens` at most, from what the cache holds.

    `stopped` gets the tokens of the answers that go on every `CHECK_EVERY` steps, and returns which are complete.
    """
    done, mask, places = cache.get_seq_length(), prompt["attention_mask"], positions(prompt)
    tokens, places = prompt["input_ids"][:, done:], places[:, done:]
    answers: list[list[int]] = [[] for _ in mask]
    going = list(range(len(answers)))
    for step in range(1, new_tokens + 1):
        logits = model(
            input_ids=tokens, attention_mask=mask, position_ids=places, past_key_values=cache, logits_to_keep=1
        ).logits
        tokens = logits[:, -1].float().argmax(-1, keepdim=True)
        for row, (token,) in zip(going, tokens.tolist()):
            answers[row].append(token)
        ended = [answers[row][-1] in ends for row in going]
        if stopped and step % CHECK_EVERY == 0:
            ended = [a or b for a, b in zip(ended, stopped([answers[row] for row in going]))]
        mask, places = torch.cat([mask, torch.ones_like(tokens)], 1), places[:, -1:] + 1
        if any(ended):
            left = torch.tensor([n for n, over in enumerate(ended) if not over], dtype=torch.long)
            if not len(left):
                break
            going = [going[n] for n in left.tolist()]
            tokens, mask, places = tokens[left], mask[left], places[left]
            cache.batch_select_indices(left)
    return answers


def relative_distance(actual: torch.Tensor, expected: torch.Tensor) -> float:
    """The largest norm of the difference of two mean-free logit vectors, as a share of the expected vector's norm."""
    actual, expected = (part.float() - part.float().mean(-1, keepdim=True) for part in (actual, expected))
    return float(((actual - expected).norm(dim=-1) / expected.norm(dim=-1)).max())
