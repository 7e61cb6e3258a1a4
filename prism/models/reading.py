"""Reads prompts and goes on greedily. On a CPU, what all prompts begin with is read once.

Its KV cache is repeated for each batch, before the padding: beginning, padding, a prompt's own rest. Answers that have
ended leave the batch. On a GPU `prism.models.decode` does both in a cache of fixed shape.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from copy import deepcopy
from typing import Any, TypeGuard

from prism.models.load import Base

# ruff: isort: split
# After prism.models.load, which imports Unsloth if PRISM uses it.
import torch
from transformers.cache_utils import DynamicCache, DynamicLayer, DynamicSlidingWindowLayer

from prism.models.beginnings import shared_beginning
from prism.models.decode import CHECK_EVERY

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


def following(model: Any, prompt: Inputs, read: DynamicCache | None, tokens: torch.Tensor) -> torch.Tensor:
    """The log-probabilities of each token of each label after each question, (questions × labels, label tokens).

    `tokens` is (labels, label tokens); `read` is the KV cache of what was read of the questions, and is changed.
    """
    scores = _logits(model, prompt, tokens, read).float().log_softmax(-1)
    return scores.gather(-1, tokens.repeat(len(prompt["input_ids"]), 1)[..., None])[..., 0]


def _logits(model: Any, prompt: Inputs, tokens: torch.Tensor, read: DynamicCache | None) -> torch.Tensor:
    """The logits before each token of each label, (questions × labels, label tokens, vocabulary)."""
    labels, width = tokens.shape
    mask, done = prompt["attention_mask"], 0 if read is None else read.get_seq_length()
    places = positions(prompt)
    question = model(
        input_ids=prompt["input_ids"][:, done:],
        attention_mask=mask,
        position_ids=places[:, done:],
        use_cache=True,
        logits_to_keep=1,
        **({} if read is None else {"past_key_values": read}),
    )
    cache = getattr(question, "past_key_values", None)  # a state-space model has none
    begun = tokens.repeat(len(mask), 1)[:, :-1]
    whole_mask = torch.cat([mask.repeat_interleave(labels, 0), torch.ones_like(begun)], 1)
    later = (places[:, -1:] + 1).repeat_interleave(labels, 0) + torch.arange(width - 1, device=model.device)
    if not _repeats(cache):
        whole = torch.cat([prompt["input_ids"].repeat_interleave(labels, 0), begun], 1)
        whole_places = torch.cat([places.repeat_interleave(labels, 0), later], 1)
        # Budgets count the question once. One label a time keeps to them.
        logits = [
            model(
                input_ids=whole[first::labels],
                attention_mask=whole_mask[first::labels],
                position_ids=whole_places[first::labels],
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


def relative_distance(actual: torch.Tensor, expected: torch.Tensor) -> float:
    """The largest norm of the difference of two mean-free logit vectors, as a share of the expected vector's norm."""
    actual, expected = (part.float() - part.float().mean(-1, keepdim=True) for part in (actual, expected))
    return float(((actual - expected).norm(dim=-1) / expected.norm(dim=-1)).max())
