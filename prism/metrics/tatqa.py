"""Tier 1 of TAT-QA: exact match and numeracy-aware F1, as the set's published scorer defines them.

The definition is that of `tatqa_metric.py` and `tatqa_utils.py` (github.com/NExTplusplus/TAT-QA), written anew and in
agreement with it to the last digit, quirks included: a figure compares with the published ones only so.

- An answer is one string: its spans sorted, each number as value × scale in four decimals (percent is 0.01, "(5)" is
  −5, "12%" is 0.12), any other span with its scale word behind it. "12.5 million" and "12.5" with scale million are the
  same; so are 0.2342 without a scale and 23.42 percent. A value is rounded to two decimals before it is scaled.
- Exact match compares the strings without case, punctuation and articles, their numbers by value.
- F1 is that of the two sets of words, to two decimals; for a calculation or a count it is the exact match.

Quirks: "(1,234)" with its comma is positive, a number that begins with its point (".5") has no value, and a word that
Python reads as a number ("inf") is one. What the published scorer would stumble over (a number of hundreds of digits)
has no value here.
"""

from __future__ import annotations

import math
import re
import string
from collections.abc import Sequence
from functools import lru_cache

import numpy

SCALES = {"hundred": 100, "thousand": 1_000, "million": 1_000_000, "billion": 1_000_000_000, "percent": 0.01}
CALCULATED = ("arithmetic", "count")  # answer types without partial credit
DIGITS = 290  # times a billion this still is a float

_AROUND_NUMBERS = str.maketrans("", "", "'\"\\$€£¥%(),[]")
_PUNCTUATION = str.maketrans("", "", string.punctuation)
_NUMBER = re.compile(r"([+-]?\d+(?:\.\d+)?)|[+-]?\.\d+")
_NEGATIVE = re.compile(r"\([\d.\s]+\)")
_PERCENT = re.compile(r"[\d.\s]+%")
_SCALED = re.compile(r"[\d.]+\s?[a-zA-Z]+")
_ARTICLES = re.compile(r"\b(a|an|the)\b")


def score(
    predicted: Sequence[str], predicted_scale: str, gold: Sequence[str], gold_scale: str, answer_type: str
) -> tuple[float, float]:
    """Exact match and F1 of an answer's spans and scale against the gold ones. No answer scores 0."""
    if not predicted or not gold:
        return 0.0, 0.0
    truth = normalize(answer_string(gold, gold_scale))
    exact, f1 = max(_compare(normalize(said), truth) for said in _readings(predicted, predicted_scale))
    return exact, exact if answer_type in CALCULATED else f1


def _readings(spans: Sequence[str], scale: str) -> list[str]:
    """The answer's string; for one number without a scale also the number as it stands: 0.2342 for 23.42 percent."""
    readings = [answer_string(spans, scale)]
    if len(spans) == 1 and not scale and "%" not in spans[0] and is_number(spans[0]):
        value = to_number(spans[0])
        if value is not None:
            readings.append(f"{value:.4f}")
    return readings


def answer_string(spans: Sequence[str], scale: str) -> str:
    """The spans, sorted, as one string: numbers by value and scale, other spans with the scale's word."""
    said = []
    for span in sorted(spans):
        value = to_number(span) if is_number(span) else None
        if value is None:
            said.append(f"{span} {scale}" if scale else span)
        elif "%" in span:
            said.append(f"{value:.4f}")
        else:
            said.append(f"{round(value, 2) * factor(scale):.4f}")
    return " ".join(said)


def _compare(said: str, truth: str) -> tuple[float, float]:
    ours, theirs = set(said.split()), set(truth.split())
    shared = len(ours & theirs)
    precision = shared / len(ours) if ours else 1.0
    recall = shared / len(theirs) if theirs else 1.0
    f1 = 2 * precision * recall / (precision + recall) if precision or recall else 0.0
    return float(said == truth), float(numpy.round(f1, 2))  # numpy rounds halves otherwise than Python's round


@lru_cache(1 << 16)
def normalize(text: str) -> str:
    """Lower case, without punctuation and articles, numbers by value."""
    return " ".join(filter(None, map(_normalize_word, text.split(" "))))


@lru_cache(1 << 16)
def _normalize_word(word: str) -> str:
    word = word.lower()
    if not is_number(word):
        word = word.translate(_PUNCTUATION)  # which may make a number of it after all: "5-"
    if is_number(word):
        word = str(to_number(word))
    return " ".join(_ARTICLES.sub(" ", word).split())


def factor(scale: str) -> float:
    """What a number of this scale is multiplied with; 1 where the text holds no scale word."""
    lowered = scale.lower()
    return next((value for word, value in SCALES.items() if word in lowered), 1)


def is_number(text: str) -> bool:
    """Whether a text is a number, alone or with a scale word after it: "$1,023", "(5)", "12%", "1.5 million"."""
    words = text.translate(_AROUND_NUMBERS).split()
    try:
        if not words or math.isnan(float(words[0])):
            return False
    except ValueError:
        return False
    return len(words) < 2 or factor(words[1]) != 1


def to_number(text: str) -> float | None:
    """The value of the first number in a text with its own scale word, sign and percent, to four decimals."""
    found = _NUMBER.search(text.translate(_AROUND_NUMBERS))
    if found is None or found[1] is None or len(found[1]) > DIGITS:
        return None
    value = float(found[1]) if "." in found[1] else int(found[1])
    worded = _SCALED.search(text)
    value *= factor(worded[0]) if worded else 1
    value *= -1 if "(" in text and _NEGATIVE.search(text) else 1
    value *= 0.01 if "%" in text and _PERCENT.search(text) else 1
    return round(value, 4)
