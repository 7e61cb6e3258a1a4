"""Tier 2: how many words an answer shares with its reference, and how much of that is content, not style.

ROUGE is rouge-score's F-measure with `use_stemmer=True`, including its tokenizer and stemmer.

`content_gain` is ROUGE-L against the own reference minus ROUGE-L against a stranger's, which is another group's, both
without the questions' words: an adapter that learned only style raises both, and an echo of the question has nothing
left to say.

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

from prism.metrics import Metric, per_sample
from prism.rows import Example

CACHE_SIZE = 1 << 16  # 2,000 answers, before and after, with own and shuffled references, are 8,000 pairs

CHUNK = 500  # rows of similarities at a time: 500 x 10,000 of float32 are 20 MB

ROUGE = ("rouge1", "rouge2", "rougeL")


@lru_cache(CACHE_SIZE)
def rouge(reference: str, answer: str) -> Mapping[str, float]:
    """The F-measure of each of ROUGE."""
    counted = {name: score.fmeasure for name, score in _scorer().score(reference, answer).items()}
    return counted | {"rougeL": rouge_l(stems(reference), stems(answer))}


@cache
def _scorer() -> Any:
    from rouge_score.rouge_scorer import RougeScorer  # imports nltk, over a second: only if something is scored

    return RougeScorer(ROUGE[:2], tokenizer=SimpleNamespace(tokenize=stems))


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


# --- content ------------------------------------------------------------------------------------------------------


def strangers(examples: Sequence[Example]) -> list[int]:
    """For each example, the index of the one whose reference its answer is held against; -1 if all are of one group.

    It is the example of another group whose *question* is most similar, by TF-IDF of its words: the reference of "What
    are the symptoms of mumps?" is held against that of measles, so that the phrases of such answers count for nothing.
    Not the nearest *reference*: then an answer with the right field, "a bone of the skull", would count for nothing
    either (measured on 504 flashcards: the gold answers reach .75 so, and .89 by the question).

    Each reference is a stranger once, as far as groups allow. So a constant answer, which is as close to strangers as to
    the own references, gains nothing: were the nearest taken each time, a few would serve for many examples, and the
    best constant answer gained .030. Rows choose by the hash of their group, whatever their order.
    """
    return list(_strangers(tuple((example.group, example.id, example.question) for example in examples)))


@lru_cache(4)  # held-out samples, and those without leaks; the same for the answers of every seed and control
def _strangers(rows: tuple[tuple[str, str, str], ...]) -> tuple[int, ...]:
    from sklearn.feature_extraction.text import TfidfVectorizer

    if len({group for group, _, _ in rows}) < 2:
        return (-1,) * len(rows)
    order = sorted(range(len(rows)), key=lambda i: (hashlib.sha256(rows[i][0].encode()).digest(), *rows[i]))
    _, groups = numpy.unique([rows[i][0] for i in order], return_inverse=True)
    words = [stems(rows[i][2]) for i in order]
    weighted = None
    if any(words):  # none, if all questions are in a script that rouge-score drops
        weighted = TfidfVectorizer(analyzer=tuple, sublinear_tf=True, dtype=numpy.float32).fit_transform(words)
    free = numpy.ones(len(rows), bool)
    found = [-1] * len(rows)
    for start in range(0, len(rows), CHUNK):
        part = slice(start, start + CHUNK)
        close = numpy.zeros((len(groups[part]), len(rows)), numpy.float32)
        if weighted is not None:
            close = (weighted[part] @ weighted.T).toarray()
        close[groups[part, None] == groups] = -1
        for place, similar in enumerate(close, start):
            unused = numpy.where(free, similar, -1)
            stranger = int(unused.argmax())
            if unused[stranger] < 0:
                stranger = int(similar.argmax())
            free[stranger] = False
            found[order[place]] = order[stranger]
    return tuple(found)


def rouge_l(reference: Sequence[str], answer: Sequence[str]) -> float:
    """ROUGE-L's F-measure of two lists of words, equal to rouge-score's.

    By the bits of one integer (Hyyrö 2004), 30 times as fast as rouge-score's table for answers of 60 words; of two long
    texts the table of all pairs of words takes gigabytes.
    """
    from rouge_score.scoring import fmeasure

    if not reference or not answer:
        return 0.0
    places: dict[str, int] = {}
    for i, word in enumerate(reference):
        places[word] = places.get(word, 0) | 1 << i
    whole = row = (1 << len(reference)) - 1
    for word in answer:
        matched = row & places.get(word, 0)
        row = (row + matched | row - matched) & whole
    shared = len(reference) - row.bit_count()
    return float(fmeasure(shared / len(answer), shared / len(reference)))


def _content(examples: Sequence[Example], answers: Sequence[str]) -> numpy.ndarray:
    """[ROUGE-L against the own reference less that against the stranger's, 1] per sample.

    Neither question's words count in any of the three texts: each reference repeats its own question's, and would be
    the longer one otherwise. A reference that says nothing else is unscored, and so is every sample of one group.
    """
    rows = numpy.full((len(examples), 2), numpy.nan)
    scored = [i for i, example in enumerate(examples) if is_scored(example)]
    for i, place in zip(scored, strangers([examples[i] for i in scored])):
        if place >= 0:
            stranger = examples[scored[place]]
            asked = {*stems(examples[i].question), *stems(stranger.question)}
            own, other, said = (
                [word for word in stems(text) if word not in asked]
                for text in (examples[i].reference, stranger.reference, answers[i])
            )
            if own:
                rows[i] = rouge_l(own, said) - rouge_l(other, said), 1
    return rows


METRICS = (
    _metric("rouge1"),
    _metric("rouge2"),
    ROUGE_L,
    Metric("content_gain", "tier2", _content, range=(-1.0, 1.0), bounds=(-1.0, 1.0), version=3),
)
