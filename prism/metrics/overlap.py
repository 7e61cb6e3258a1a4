"""Tier 2: how many words an answer shares with its reference, and how much of that is content, not style.

ROUGE is rouge-score's F-measure with `use_stemmer=True`, including its tokenizer and stemmer.

`content_gain` is ROUGE-L against the own reference minus ROUGE-L against another row's: an adapter that learned only
style raises both. Its gain is the gain in ROUGE-L minus the same gain against shuffled references.

A reference most of whose letters rouge-score drops, such as a Chinese one, is unscored: what is left of it are digits and
names, which an answer may echo from the question.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import cache, lru_cache
from types import SimpleNamespace
from typing import Any

import numpy

from prism.metrics import Metric, mean, per_sample
from prism.rows import Example

CACHE_SIZE = 1 << 16  # 2,000 answers, before and after, with own and shuffled references, are 8,000 pairs

ROUGE = ("rouge1", "rouge2", "rougeL")


@lru_cache(CACHE_SIZE)
def rouge(reference: str, answer: str) -> Mapping[str, float]:
    """The F-measure of each of ROUGE."""
    return {name: score.fmeasure for name, score in _scorer().score(reference, answer).items()}


@cache
def _scorer() -> Any:
    from rouge_score.rouge_scorer import RougeScorer  # imports nltk, over a second: only if something is scored

    return RougeScorer(ROUGE, tokenizer=SimpleNamespace(tokenize=stems))


@lru_cache(CACHE_SIZE)
def stems(text: str) -> tuple[str, ...]:
    """The words of a text as rouge-score reads them with `use_stemmer=True`, cached.

    Lower case; all but a-z and 0-9 is space; Porter's stemmer on words of more than three letters.
    """
    return tuple(_tokenizer().tokenize(text))


@cache
def _tokenizer() -> Any:
    from rouge_score.tokenizers import DefaultTokenizer

    return DefaultTokenizer(use_stemmer=True)


@lru_cache(CACHE_SIZE)
def is_unread(text: str) -> bool:
    """Whether rouge-score drops most letters of a text: it reads a-z, in either case, and digits."""
    if text.isascii():
        return False
    letters = [char for char in text if char.isalpha()]
    return sum(char.isascii() for char in letters) * 2 < len(letters)


def unread(examples: Sequence[Example]) -> int:
    """The number of references that `is_unread`, for the reports."""
    return sum(is_unread(example.reference) for example in examples)


def is_scored(example: Example) -> bool:
    """Whether rouge-score reads the words of an example's reference."""
    return bool(stems(example.reference)) and not is_unread(example.reference)


def shuffle_references(examples: Sequence[Example], scored: Sequence[bool] | None = None) -> list[Example]:
    """Give each example the reference of a row of another group, to score its answer against a wrong reference.

    This permutes the `scored` rows (default: all), whatever their order: rows are sorted by the hash of their group,
    and each takes the reference that is as many rows further as the largest group has, so never one of its own group.
    Rows that are not scored get an empty reference, and so do all rows if one group has more than half of them.
    """
    order = [i for i in range(len(examples)) if scored is None or scored[i]]
    order.sort(key=lambda i: (hashlib.sha256(examples[i].group.encode()).digest(), examples[i].group, examples[i].id))
    step = max(Counter(examples[i].group for i in order).values(), default=0)
    shuffled = [replace(example, reference="") for example in examples]
    if 2 * step <= len(order):
        for i, other in zip(order, order[step:] + order[:step]):
            shuffled[i] = replace(examples[i], reference=examples[other].reference)
    return shuffled


def _metric(name: str) -> Metric:
    """A reference without a word, or in another script, is unscored; an empty answer scores 0."""

    def f_measure(example: Example, answer: str) -> float:
        return rouge(example.reference, answer)[name] if is_scored(example) else numpy.nan

    return per_sample(name, "tier2", f_measure, beside="controls and shuffled references", version=2)


ROUGE_L = _metric("rougeL")


def _own_and_other(examples: Sequence[Example], answers: Sequence[str]) -> numpy.ndarray:
    """[ROUGE-L against the own reference, against another row's, 1] per sample."""
    others = shuffle_references(examples, list(map(is_scored, examples)))
    own, other = ROUGE_L.statistics(examples, answers), ROUGE_L.statistics(others, answers)
    rows = numpy.column_stack([own[:, 0], other])
    rows[numpy.isnan(rows).any(1)] = numpy.nan
    return rows


def _content(sums: numpy.ndarray) -> numpy.ndarray:
    return mean(numpy.stack([sums[..., 0] - sums[..., 1], sums[..., 2]], -1))


METRICS = (
    _metric("rouge1"),
    _metric("rouge2"),
    ROUGE_L,
    Metric("content_gain", "tier2", _own_and_other, _content, range=(-1.0, 1.0), version=2),
)
