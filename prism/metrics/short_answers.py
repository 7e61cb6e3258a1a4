"""Tier 1 for short answers: exact match and F1 of words, as SQuAD defines them.

Both texts lose case, punctuation and English articles first. SQuAD knows ASCII punctuation; here every script's counts,
so that a curly apostrophe is no mistake. A gold answer of more than `WORDS` words is left out: nobody says a whole
sentence in another's words, and a mean that holds such answers says nothing.
"""

from __future__ import annotations

import re
import string
import unicodedata
from collections import Counter
from functools import lru_cache

import numpy

from prism.metrics import per_sample
from prism.rows import Example

WORDS = 10

_ARTICLES = re.compile(r"\b(?:a|an|the)\b")


@lru_cache(1 << 16)
def words(text: str) -> tuple[str, ...]:
    """The words of a text without case, punctuation and articles."""
    kept = "".join(c for c in text.lower() if c not in string.punctuation and unicodedata.category(c)[0] != "P")
    return tuple(_ARTICLES.sub(" ", kept).split())


def is_short(example: Example) -> bool:
    return len(words(example.reference)) <= WORDS


def exact_match(example: Example, answer: str) -> float:
    """1 if both say the same words in the same order; a gold answer without words is unscored."""
    return float(words(answer) == words(example.reference)) if words(example.reference) else numpy.nan


def f1(example: Example, answer: str) -> float:
    """The F-measure of the words that both share, each as often as in both."""
    gold, said = Counter(words(example.reference)), Counter(words(answer))
    if not gold:
        return numpy.nan
    return 2 * (gold & said).total() / (gold.total() + said.total())


METRICS = (
    per_sample("exact_match", "tier1", exact_match, applies=is_short, sample="right or wrong"),
    per_sample("f1", "tier1", f1, applies=is_short),
)
