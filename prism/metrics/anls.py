"""ANLS, the average normalized Levenshtein similarity of DocVQA's official evaluation script.

An edit distance over a length is small for two short values that mean different things: 8.00 for 9.00 scores .75.
Dates and totals are therefore held to `charts.exact_value` as well.
"""

from __future__ import annotations

from collections.abc import Sequence

from prism.metrics import Metric, per_sample
from prism.rows import Example

THRESHOLD = 0.5  # what is below it counts 0; .5 itself stays in the script, and not in the paper's formula


def accepted(example: Example) -> tuple[str, ...]:
    """The answers that a row accepts: the strings of its fact "answers", or its reference where it has none."""
    answers = example.facts.get("answers") or example.reference
    return (answers,) if isinstance(answers, str) else tuple(map(str, answers))


def levenshtein(left: str, right: str) -> int:
    """The edit distance of two strings: insertions, deletions and substitutions of one code point cost 1 each.

    A row of the table is two integers, whose bits say where it rises and falls (Myers 1999, as Hyyrö 2003 writes it): two
    texts of 20,000 characters take no minutes.
    """
    if not left:
        return len(right)
    places: dict[str, int] = {}
    for i, char in enumerate(left):
        places[char] = places.get(char, 0) | 1 << i
    every, last, distance = (1 << len(left)) - 1, 1 << len(left) - 1, len(left)
    rises, falls = every, 0
    for char in right:
        same = places.get(char, 0)
        across = (((same & rises) + rises) ^ rises) | same
        higher, lower = falls | (every & ~(across | rises)), rises & across
        distance += bool(higher & last) - bool(lower & last)
        higher, lower, down = (higher << 1 | 1) & every, (lower << 1) & every, same | falls
        rises, falls = lower | (every & ~(down | higher)), higher & down
    return distance


def anls_score(answers: Sequence[str], said: str) -> float:
    """The ANLS of one answer: 1 minus its smallest distance to an accepted one, and 0 where that is below THRESHOLD.

    The distance is taken of the texts in lower case with single spaces, the length it is divided by of the raw texts in
    upper case. So spaces around a wrong answer raise its score ("   y   " for "x": .857), "ß" is two long, and a letter
    whose accent is a code point of its own is two apart from the same in one ("café": .6).
    """
    score = 1 - min(_normalized_distance(answer, said) for answer in answers)
    return 0.0 if score < THRESHOLD else score


def _normalized_distance(answer: str, said: str) -> float:
    length = max(len(answer.upper()), len(said.upper()))
    if length == 0:
        return 0.0
    left, right = (" ".join(text.strip().lower().split()) for text in (answer, said))
    # The distance is at least the difference of the lengths: an answer that runs on for pages is not worth aligning.
    apart = abs(len(left) - len(right))
    return (apart if 1 - apart / length < THRESHOLD else levenshtein(left, right)) / length


def _anls(example: Example, answer: str) -> float:
    return anls_score(accepted(example), answer)


METRICS: tuple[Metric, ...] = (per_sample("anls", "tier1", _anls, version=1),)
