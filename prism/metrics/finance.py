"""What is scored of an answer about a filing: exact match and F1 with their parts, evidence, grounded numbers.

What an answer is not excused from is the scale; `exact_match_without_scale` says what it would score if it were.
"""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from functools import lru_cache, partial
from typing import Any, NamedTuple

import numpy

from prism.metrics import Metric, mean, per_sample, tatqa
from prism.metrics.arithmetic import OPERAND
from prism.metrics.finance_answers import CACHED, READING, Reading, read_answer
from prism.rows import Example

TYPES = ("span", "multi-span", "arithmetic", "count", "unanswerable")

_YEAR = re.compile(r"(?:19|20)\d\d")
_NUMBER = re.compile(r"(?<![\w.,])(\d[\d.,]*\d|\d)\)?\s?(%|thousand|million|billion)?", re.IGNORECASE)
_PLAIN = re.compile(r"\d{1,3}(?:,\d{3})+(?:\.\d+)?|\d+(?:\.\d+)?")
_FOREIGN = re.compile(r"\d\.\d{3},\d|\d,\d{1,2}(?!\d)|\d\.\d{3}\.\d{3}")

# --- tier 1 -------------------------------------------------------------------------------------------------------


def exact_and_f1(example: Example, answer: str, calculator: bool = True) -> tuple[float, float]:
    """TAT-QA's exact match and F1; a question without an answer is answered right by saying so, and by that alone."""
    facts = example.facts
    said = read_answer(answer)
    if said.abstains or facts["type"] == "unanswerable":
        right = float(said.abstains and facts["type"] == "unanswerable")
        return right, right
    gold = tuple(facts["answer"]), facts["scale"], facts["type"]
    return max(_scored(spans, scale, *gold) for spans, scale in said.answers(calculator))


_scored = lru_cache(CACHED)(tatqa.score)


def _exact(example: Example, answer: str) -> float:
    return exact_and_f1(example, answer)[0]


def _exact_as_written(example: Example, answer: str) -> float:
    return exact_and_f1(example, answer, calculator=False)[0]


def _exact_without_scale(example: Example, answer: str) -> float:
    """The exact match under the gold scale, whichever scale the answer states, or none."""
    facts = example.facts
    exact, said = _exact(example, answer), read_answer(answer)
    if exact or said.abstains or not facts["scale"]:
        return exact
    gold = tuple(facts["answer"]), facts["scale"], facts["type"]
    return max(_scored(spans, facts["scale"], *gold)[0] for spans, _ in said.answers(calculator=True))


def _is_of_type(kind: str, example: Example) -> bool:
    return example.facts["type"] == kind


def answerable(example: Example) -> bool:
    return example.facts["type"] != "unanswerable"


def _abstentions(examples: Sequence[Example], answers: Sequence[str]) -> numpy.ndarray:
    """[abstained rightly, abstained, should have] a sample; all unscored where every question has an answer."""
    did = numpy.array([read_answer(answer).abstains for answer in answers], float)
    should = numpy.array([not answerable(example) for example in examples], float)
    rows = numpy.column_stack([did * should, did, should])
    return rows if should.any() else rows + numpy.nan


def _precision(sums: numpy.ndarray) -> numpy.ndarray:
    return mean(sums[..., [0, 1]])


def _recall(sums: numpy.ndarray) -> numpy.ndarray:
    return mean(sums[..., [0, 2]])


def _abstention_f1(sums: numpy.ndarray) -> numpy.ndarray:
    return mean(numpy.stack([2 * sums[..., 0], sums[..., 1] + sums[..., 2]], -1))


_RIGHT: dict[str, Any] = {"sample": "right or wrong", "version": READING}
# Says of a sample what exact_match has said; by type and with all controls it stands in a table of its own.
_PART: dict[str, Any] = {"sample": "part", "beside": "nothing", "version": READING}
_SET: dict[str, Any] = {"sample": "nothing", "beside": "nothing", "version": READING}

TIER1 = (
    per_sample("exact_match", "tier1", _exact, **_RIGHT),
    per_sample("f1", "tier1", lambda example, answer: exact_and_f1(example, answer)[1], version=READING),
    per_sample("exact_match_without_scale", "tier1", _exact_without_scale, **_RIGHT),
    per_sample("exact_match_without_calculator", "tier1", _exact_as_written, **_PART),
    per_sample("context_gain", "tier1", _exact, applies=answerable, against="without_context", **_RIGHT),
    per_sample("answering_gain", "tier1", _exact, against="always_not_stated", **_RIGHT),
    *(
        per_sample(
            f"exact_match_{kind.replace('-', '_')}", "tier1", _exact, applies=partial(_is_of_type, kind), **_PART
        )
        for kind in TYPES[:-1]
    ),
    Metric("abstention_precision", "tier1", _abstentions, _precision, **_SET),
    Metric("abstention_recall", "tier1", _abstentions, _recall, **_SET),
    Metric("abstention_f1", "tier1", _abstentions, _abstention_f1, **_SET),
)


# --- tier 2 -------------------------------------------------------------------------------------------------------


def evidence_overlap(example: Example, answer: str) -> float:
    """Of the answer's parts (spans, or a calculation's numbers) the share that the quotation holds; 0 where the context
    does not hold the quotation, or there is none.

    What no row or sentence holds need not be there: a count, a column's head, the number of terms of an average.
    """
    said = read_answer(answer)
    quote = _plain(said.quote)
    if said.abstains or not quote or f" {quote} " not in f" {_plain(example.facts['context'])} ":
        return 0.0
    elsewhere = _heads(example.facts["context"]) if said.value is None else ()
    wanted = list(filter(None, (_plain(part) for part in _parts(example, said) if part not in elsewhere)))
    return sum(f" {part} " in f" {quote} " for part in wanted) / len(wanted) if wanted else 1.0


def _parts(example: Example, said: Reading) -> tuple[str, ...]:
    """What of an answer has to stand somewhere: a calculation's numbers, or its spans; none of a count."""
    if said.value is None:
        return () if example.facts["type"] == "count" else said.spans
    operands = OPERAND.findall(said.said)
    return tuple(number for number in operands if number not in ("1", "100", str(len(operands) - 1)))


def is_cut(example: Example) -> bool:
    """Whether the context lacks a part of the gold answer: its window was too short for it."""
    context = f" {_plain(example.facts['context'])} "
    return answerable(example) and any(
        f" {_plain(part)} " not in context for part in _parts(example, read_answer(example.reference))
    )


@lru_cache(1 << 12)
def _heads(context: str) -> frozenset[str]:
    """The heads of the columns of a context's table."""
    before, rule, _ = context.partition("\n|---")
    return frozenset(cell.strip() for cell in before.rpartition("\n")[2].split("|")) if rule else frozenset()


@lru_cache(CACHED)
def _plain(text: str) -> str:
    """Lower case, words and numbers alone: neither a table's bars nor spacing and quotation marks make a difference."""
    return " ".join(re.findall(r"\d[\d,.]*\d|\w+|%", text.lower()))


class Number(NamedTuple):
    value: float  # without its sign: "fell by 12" is grounded in (12)
    decimals: int
    factor: float
    year: bool = False


@lru_cache(CACHED)
def numbers(text: str) -> tuple[Number, ...]:
    """The numbers of a text with the decimals they are written with and the factor of their scale word or percent sign.

    A number in another locale ("1.234,56") is no number here: its value would be a guess.
    """
    found = []
    for digits, scale in _NUMBER.findall(text):
        if _PLAIN.fullmatch(digits):
            plain = digits.replace(",", "")
            factor = 0.01 if scale == "%" else tatqa.factor(scale)
            year = factor == 1 and _YEAR.fullmatch(digits) is not None
            found.append(Number(float(plain), len(plain.partition(".")[2]), factor, year))
    return tuple(found)


def is_foreign(text: str) -> bool:
    """Whether a number is written with a decimal comma or with points between thousands."""
    return bool(_FOREIGN.search(text))


@lru_cache(1 << 14)
def _standing(context: str, scale: float, decimals: int) -> frozenset[float]:
    """The values that the numbers of a context have at an answer's scale (1: none is stated), rounded to its decimals.

    A number with a scale word of its own has one value, and so has a year. Others get their scale from a table's caption,
    so it may be any. What would be rounded to nothing stands nowhere.
    """
    found = numbers(context)
    scaled = [n for n in found if n.factor == 1 and not n.year]
    values = [n.value * n.factor / scale for n in found if n.factor != 1]
    values += [n.value * other / scale for n in scaled for other in (1, scale, *tatqa.SCALES.values())]
    values += [n.value for n in found if scale == 1 or n.year]
    step = 10**-decimals
    halves_up = (math.floor(value / step + 0.5) for value in values)  # as people round; Python rounds .25 down to .2
    standing = frozenset(round(value, decimals) for value in (*values, *(step * n for n in halves_up)))
    return standing if 0 in values else standing - {0}


def grounded(example: Example, answer: str) -> tuple[int, int]:
    """How many numbers of an answer are grounded, and how many it has.

    One is grounded where it stands in the context, rounded or at another scale; a calculation's 1, 100 and the number
    of its terms need not. A calculation's stated result is grounded where it is the result, as far as it is rounded.
    """
    said = read_answer(answer)
    if said.abstains:
        return 0, 0
    context = example.facts["context"]
    calculation, equals, result = said.said.partition("=")
    written = numbers(calculation if said.value is not None else said.said)
    free = {1.0, 100.0, float(len(written) - 1)} if said.value is not None else set()
    right = 0
    for n in written:
        scale = n.factor if n.factor != 1 else tatqa.factor(said.scale)
        right += n.value in free or round(n.value, n.decimals) in _standing(context, scale, n.decimals)
    stated = numbers(result)[:1] if said.value is not None and equals else ()
    right += sum(abs(abs(said.value or 0) - n.value) <= 0.5 * 10**-n.decimals + 1e-9 for n in stated)
    return right, len(written) + len(stated)


def _grounding(examples: Sequence[Example], answers: Sequence[str]) -> numpy.ndarray:
    """[grounded numbers, numbers] a sample; a count is a number of things, which no context need hold."""
    rows = [grounded(e, a) if _is_numeric(e) else (numpy.nan, numpy.nan) for e, a in zip(examples, answers)]
    return numpy.array(rows, float).reshape(-1, 2)


def _is_numeric(example: Example) -> bool:
    return example.facts["type"] != "count"


TIER2 = (
    per_sample("evidence_overlap", "tier2", evidence_overlap, applies=answerable, version=READING),
    Metric("number_grounding", "tier2", _grounding, applies=_is_numeric, sample="nothing", version=READING),
)


def by_type(examples: Sequence[Example], answers: Sequence[str]) -> list[dict[str, float | int | str]]:
    """Exact match, also without the scale, F1 and the share of "not stated", by answer type, for the report."""
    table = []
    for kind in (*TYPES, "all"):
        chosen = [(e, a) for e, a in zip(examples, answers) if kind in (e.facts["type"], "all")]
        if chosen:
            exact, f1 = zip(*(exact_and_f1(example, answer) for example, answer in chosen))
            table.append(
                {
                    "type": kind,
                    "n": len(chosen),
                    "exact_match": sum(exact) / len(chosen),
                    "f1": sum(f1) / len(chosen),
                    "without_scale": sum(_exact_without_scale(*pair) for pair in chosen) / len(chosen),
                    "abstains": sum(read_answer(answer).abstains for _, answer in chosen) / len(chosen),
                }
            )
    return table
