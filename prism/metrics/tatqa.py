"""Tier 1 of TAT-QA: exact match and numeracy-aware F1, as the data set's published scorer defines them.

The definition is that of `tatqa_metric.py` and `tatqa_utils.py` (github.com/NExTplusplus/TAT-QA). This is a new
implementation that agrees with it to the last digit, including quirks, because only then do figures compare with
published ones.

- An answer is one string: its spans sorted, each number as value × scale in four decimals (percent is 0.01, "(5)" is
  −5, "12%" is 0.12), any other span followed by its scale word. "12.5 million" and "12.5" with scale million are equal;
  so are 0.2342 without a scale and 23.42 percent. A value is rounded to two decimals before it is scaled.
- Exact match compares the strings without case, punctuation and articles, their numbers by value.
- F1 is that of the two sets of words, to two decimals; for a calculation or a count it is the exact match.

Quirks: "(1,234)" with its comma is positive, a number that begins with its point (".5") has no value, and a word that
Python reads as a number ("inf") is one. A number of hundreds of digits, on which the published scorer fails, has
no value here.
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
MAX_DIGITS = 290  # such a number times a billion is still a float

_AROUND_NUMBERS = str.maketrans("", "", "'\"\\$€£¥%(),[]")
_PUNCTUATION = str.maketrans("", "", string.punctuation)
_NUMBER = re.compile(r"([+-]?\d+(?:\.\d+)?)|[+-]?\.\d+")
_NEGATIVE = re.compile(r"\([\d.\s]+\)")
_PERCENT = re.compile(r"[\d.\s]%")  # the published [\d.\s]+%, without its start, whose search is quadratic
_SCALED = re.compile(r"[\d.]\s?[a-zA-Z]+")  # as well: its letters are what is read
_ARTICLES = re.compile(r"\b(a|an|the)\b")


def score(
    predicted: Sequence[str], predicted_scale: str, gold: Sequence[str], gold_scale: str, answer_type: str
) -> tuple[float, float]:
    """Exact match and F1 of an answer's spans and scale against the gold ones. No answer scores 0."""
    if not predicted or not gold:
        return 0.0, 0.0
    truth = normalize(answer_string(gold, gold_scale))
    exact, f1 = max(_compare(normalize(reading), truth) for reading in _readings(predicted, predicted_scale))
    return exact, exact if answer_type in CALCULATED else f1


def _readings(spans: Sequence[str], scale: str) -> list[str]:
    """The answer's string; for one number without a scale also the number as written: 0.2342 for 23.42 percent."""
    readings = [answer_string(spans, scale)]
    if len(spans) == 1 and not scale and "%" not in spans[0] and is_number(spans[0]):
        value = to_number(spans[0])
        if value is not None:
            readings.append(f"{value:.4f}")
    return readings


def answer_string(spans: Sequence[str], scale: str) -> str:
    """The spans, sorted, as one string: numbers by value and scale, other spans with the scale's word."""
    parts = []
    for span in sorted(spans):
        value = to_number(span) if is_number(span) else None
        if value is None:
            parts.append(f"{span} {scale}" if scale else span)
        elif "%" in span:
            parts.append(f"{value:.4f}")
        else:
            parts.append(f"{round(value, 2) * factor(scale):.4f}")
    return " ".join(parts)


def _compare(predicted: str, truth: str) -> tuple[float, float]:
    ours, theirs = set(predicted.split()), set(truth.split())
    shared = len(ours & theirs)
    precision = shared / len(ours) if ours else 1.0
    recall = shared / len(theirs) if theirs else 1.0
    f1 = 2 * precision * recall / (precision + recall) if precision or recall else 0.0
    return float(predicted == truth), float(numpy.round(f1, 2))  # numpy and Python round halves differently


@lru_cache(1 << 16)
def normalize(text: str) -> str:
    """Lower case, without punctuation and articles, numbers by value."""
    return " ".join(filter(None, map(_normalize_word, text.split(" "))))


@lru_cache(1 << 16)
def _normalize_word(word: str) -> str:
    word = word.lower()
    if not is_number(word):
        word = word.translate(_PUNCTUATION)  # which may make it a number: "5-"
    if is_number(word):
        word = str(to_number(word))
    return " ".join(_ARTICLES.sub(" ", word).split())


def factor(scale: str) -> float:
    """The factor of a number of this scale; 1 if the text has no scale word."""
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
    match = _NUMBER.search(text.translate(_AROUND_NUMBERS))
    if match is None or match[1] is None or len(match[1]) > MAX_DIGITS:
        return None
    value = float(match[1]) if "." in match[1] else int(match[1])
    scaled = _SCALED.search(text)
    value *= factor(scaled[0]) if scaled else 1
    value *= -1 if "(" in text and _NEGATIVE.search(text) else 1
    value *= 0.01 if "%" in text and _PERCENT.search(text) else 1
    return round(value, 4)
