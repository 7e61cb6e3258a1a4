"""Tier 2: how many words an answer shares with its reference, and how much of that is content rather than style.

ROUGE is rouge-score's, F-measures with `use_stemmer=True`: its own tokenizer (lower case, a-z and 0-9, the rest is
space) and Porter's stemmer on words of over three letters. Only the counting is ours: equal to the package to the last
digit, but the longest common subsequence takes one step a word in place of one a pair of words, so that 2,000 answers
take a second and one of 100,000 characters cannot exhaust the memory.

`content_gain` is ROUGE-L against the own reference minus ROUGE-L against another row's: an adapter that learned only
how answers sound raises both. Its gain is the gain in ROUGE-L minus the same gain against shuffled references.
"""

from __future__ import annotations

import hashlib
from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import replace
from functools import cache, lru_cache
from types import SimpleNamespace
from typing import Literal, NamedTuple

import numpy

from prism.data import Example
from prism.metrics import Metric, mean

PAIRS = 1 << 16  # three metrics of 2,000 answers, before and after, own and shuffled references, come to 8,000 pairs


class Rouge(NamedTuple):
    rouge1: float
    rouge2: float
    rougeL: float


@lru_cache(PAIRS)
def rouge(reference: str, answer: str) -> Rouge:
    """The three F-measures of `RougeScorer(["rouge1", "rouge2", "rougeL"], use_stemmer=True).score(reference, answer)`."""
    wanted, given = stems(reference), stems(answer)
    return Rouge(_shared_ngrams(wanted, given, 1), _shared_ngrams(wanted, given, 2), _in_order(wanted, given))


@lru_cache(PAIRS)
def stems(text: str) -> tuple[str, ...]:
    """The words of a text as rouge-score reads them; none for a text without Latin letters and digits."""
    from rouge_score.tokenize import tokenize

    return tuple(tokenize(text, _stemmer()))


@cache
def _stemmer() -> SimpleNamespace:
    """The package's stemmer, which remembers its words: stemming is most of the work and answers share most words."""
    from nltk.stem.porter import PorterStemmer  # pulls in nltk, over a second: only where something is scored

    return SimpleNamespace(stem=lru_cache(PAIRS)(PorterStemmer().stem))


def _shared_ngrams(wanted: Sequence[str], given: Sequence[str], n: int) -> float:
    theirs, ours = (Counter(zip(*(words[i:] for i in range(n)))) for words in (wanted, given))
    return _f_measure((theirs & ours).total(), theirs.total(), ours.total())


def _in_order(wanted: Sequence[str], given: Sequence[str]) -> float:
    return _f_measure(_common_subsequence(wanted, given), len(wanted), len(given))


def _common_subsequence(first: Sequence[str], second: Sequence[str]) -> int:
    """Length of the longest common subsequence, by Hyyrö's bit-parallel recurrence (2004).

    Bit i of `row` is 0 where the table's row for the words read so far rises at first[i], so the zeros count its end.
    """
    places: defaultdict[str, int] = defaultdict(int)
    for i, word in enumerate(first):
        places[word] |= 1 << i
    full = row = (1 << len(first)) - 1
    for word in second:
        matches = row & places.get(word, 0)
        row = ((row + matches) | (row - matches)) & full
    return len(first) - row.bit_count()


def _f_measure(shared: int, wanted: int, given: int) -> float:
    if not shared:
        return 0.0
    precision, recall = shared / given, shared / wanted  # in the package's order of operations, for equal last digits
    return 2 * precision * recall / (precision + recall)


def strangers(examples: Sequence[Example], scored: Sequence[bool] | None = None) -> list[Example]:
    """Each example with the reference of a row of another group: what a score is worth against the wrong reference.

    A permutation of the `scored` rows (all, by default), the same whatever their order: rows lie in the order of their
    groups' hashes, and each takes the reference that lies as many places on as the largest group is long, which is
    never one of its own group's. Rows that are not scored get an empty reference, and all do where one group is more
    than half of the rows.
    """
    kept = [i for i in range(len(examples)) if scored is None or scored[i]]
    kept.sort(key=lambda i: (hashlib.sha256(examples[i].group.encode()).digest(), examples[i].group, examples[i].id))
    step = max(Counter(examples[i].group for i in kept).values(), default=0)
    found = [replace(example, reference="") for example in examples]
    if 2 * step <= len(kept):
        for i, other in zip(kept, kept[step:] + kept[:step]):
            found[i] = replace(examples[i], reference=examples[other].reference)
    return found


def _metric(name: Literal["rouge1", "rouge2", "rougeL"]) -> Metric:
    def statistics(examples: Sequence[Example], answers: Sequence[str]) -> numpy.ndarray:
        """[score, 1] a sample; an empty reference is unscored, an empty answer scores 0."""
        rows = numpy.full((len(examples), 2), numpy.nan)
        for row, (example, answer) in enumerate(zip(examples, answers)):
            if stems(example.reference):
                rows[row] = getattr(rouge(example.reference, answer), name), 1
        return rows

    return Metric(name, "tier2", statistics, mean, shuffled=True)


ROUGE_L = _metric("rougeL")


def _own_and_stranger(examples: Sequence[Example], answers: Sequence[str]) -> numpy.ndarray:
    """[ROUGE-L against the own reference, against another row's, 1] a sample."""
    others = strangers(examples, [bool(stems(example.reference)) for example in examples])
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
    Metric("content_gain", "tier2", _own_and_stranger, _content, low=-1.0),
)
