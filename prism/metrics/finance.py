"""Score answers about a filing: exact match and F1 with their parts, evidence, grounded numbers.

An answer must state the right scale; `exact_match_without_scale` is its score without that requirement.
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
from prism.metrics.finance_answers import CACHE_SIZE, READING, Reading, plain, read_answer
from prism.rows import Example

TYPES = ("span", "multi-span", "arithmetic", "count", "unanswerable")

_YEAR = re.compile(r"(?:19|20)\d\d")
_NUMBER = re.compile(r"(?<![\w.,])(\d[\d.,]*\d|\d)\)?\s?(%|thousand|million|billion)?", re.IGNORECASE)
_PLAIN = re.compile(r"\d{1,3}(?:,\d{3})+(?:\.\d+)?|\d+(?:\.\d+)?")
_FOREIGN = re.compile(r"\d\.\d{3},\d|\d,\d{1,2}(?!\d)|\d\.\d{3}\.\d{3}")

# --- tier 1 -------------------------------------------------------------------------------------------------------


_scored = lru_cache(CACHE_SIZE)(tatqa.score)


def exact_and_f1(example: Example, answer: str, calculator: bool = True) -> tuple[float, float]:
    """TAT-QA's exact match and F1; for an unanswerable question, only saying so is right."""
    kind = example.facts["type"]
    if kind == "unanswerable" or abstains(example, answer):
        right = float(kind == "unanswerable" and read_answer(answer).abstains)
        return right, right
    return _best(example, answer, calculator)


def abstains(example: Example, answer: str) -> bool:
    """Whether an answer says that there is none. A gold answer may read so ("not available"): saying it is no abstention."""
    return read_answer(answer).abstains and not (answerable(example) and _best(example, answer, False)[0] == 1)


def _best(example: Example, answer: str, calculator: bool, scale: str | None = None) -> tuple[float, float]:
    """The best score of the readings of an answer, of all under `scale` if one is given."""
    facts = example.facts
    return _best_of(tuple(facts["answer"]), facts["scale"], facts["type"], answer, calculator, scale)


@lru_cache(CACHE_SIZE)
def _best_of(
    gold: tuple[str, ...], gold_scale: str, kind: str, answer: str, calculator: bool, scale: str | None
) -> tuple[float, float]:
    reading = read_answer(answer)
    said = (((reading.whole,), ""),) if reading.abstains else reading.answers(calculator, len(gold) > 1)
    readings = dict.fromkeys((spans, own if scale is None else scale) for spans, own in said)
    return max(_scored(*read, *right, kind) for right in _golds(gold, gold_scale) for read in readings)


@lru_cache(CACHE_SIZE)
def _golds(spans: tuple[str, ...], scale: str) -> tuple[tuple[tuple[str, ...], str], ...]:
    """The gold answer as it is, with the signs of an answer that has been read, and without a scale that it repeats."""
    golds = [(spans, scale), (tuple(plain(span) for span in spans), scale)]
    if scale and len(spans) == 1 and (read := read_answer(spans[0])).scale:
        golds.append((read.spans, read.scale))  # "$3.0 million", in million
    return tuple(dict.fromkeys(golds))


def _exact(example: Example, answer: str) -> float:
    return exact_and_f1(example, answer)[0]


def _exact_as_written(example: Example, answer: str) -> float:
    return exact_and_f1(example, answer, calculator=False)[0]


def _exact_without_scale(example: Example, answer: str) -> float:
    """Exact match under the gold scale, whatever scale the answer states, if any."""
    exact, scale = _exact(example, answer), example.facts["scale"]
    if exact or not scale or abstains(example, answer):
        return exact
    return _best(example, answer, True, scale)[0]


def _is_of_type(kind: str, example: Example) -> bool:
    return example.facts["type"] == kind


def answerable(example: Example) -> bool:
    return example.facts["type"] != "unanswerable"


def _abstentions(examples: Sequence[Example], answers: Sequence[str]) -> numpy.ndarray:
    """[rightly abstained, abstained, unanswerable] per sample; all unscored if every question has an answer."""
    abstained = numpy.array([abstains(example, answer) for example, answer in zip(examples, answers)], float)
    unanswerable = numpy.array([not answerable(example) for example in examples], float)
    rows = numpy.column_stack([abstained * unanswerable, abstained, unanswerable])
    return rows if unanswerable.any() else rows + numpy.nan


def _precision(sums: numpy.ndarray) -> numpy.ndarray:
    return mean(sums[..., [0, 1]])


def _recall(sums: numpy.ndarray) -> numpy.ndarray:
    return mean(sums[..., [0, 2]])


def _abstention_f1(sums: numpy.ndarray) -> numpy.ndarray:
    return mean(numpy.stack([2 * sums[..., 0], sums[..., 1] + sums[..., 2]], -1))


_RIGHT: dict[str, Any] = {"sample": "right or wrong", "version": READING}
# Repeats exact_match's result of a sample; a separate table lists it by type and with all controls.
_PART: dict[str, Any] = {"sample": "part", "beside": "nothing", "version": READING}
_SET: dict[str, Any] = {"bounds": (0.0, 1.0), "sample": "nothing", "beside": "nothing", "version": READING}

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
    """How far the quotation holds what the gold answer needs, and what the answer itself says; 0 if the context does
    not contain the quotation, or there is none.

    The lower of two shares that the quotation contains: of the parts that the gold answer needs (spans, a calculation's
    numbers, what is counted), so that no quotation is worth anything that was chosen without the question, and of the
    answer's own parts. A quotation of more than twice the reference's length counts in proportion, or the whole filing
    would be the best one.
    """
    reading = read_answer(answer)
    quote = _plain(reading.quote)
    if abstains(example, answer) or not quote or f" {quote} " not in f" {_plain(example.facts['context'])} ":
        return 0.0
    gold = len(_plain(read_answer(example.reference).quote).split())
    headers = _headers(example.facts["context"]) if reading.value is None else ()
    own = tuple(part for part in _parts(example, reading) if part not in headers)
    length = min(1.0, 2 * gold / len(quote.split()))
    return length * min(_held(needed(example), quote), _held(own, quote))


def needed(example: Example) -> tuple[str, ...]:
    """The parts of the gold answer that the reference's quotation holds. An average's number of terms is in no row."""
    quote = _plain(read_answer(example.reference).quote)
    return tuple(
        part for part in example.facts.get("needed", example.facts["answer"]) if f" {_plain(part)} " in f" {quote} "
    )


def _needs_evidence(example: Example) -> bool:
    """Others are left out: without a quotation in the reference, nobody knows what the evidence is."""
    return answerable(example) and bool(needed(example))


def _held(parts: Sequence[str], quote: str) -> float:
    """The share of parts that a quotation contains; 1 of none. A count or a column's head stands in no row."""
    plain_parts = list(filter(None, map(_plain, parts)))
    return sum(f" {part} " in f" {quote} " for part in plain_parts) / len(plain_parts) if plain_parts else 1.0


def _parts(example: Example, reading: Reading) -> tuple[str, ...]:
    """The parts of an answer that need evidence: a calculation's numbers, or the spans; none for a count."""
    if reading.value is None:
        return () if example.facts["type"] == "count" else reading.spans
    operands = OPERAND.findall(reading.unscaled)
    return tuple(number for number in operands if number not in ("1", "100", str(len(operands) - 1)))


def is_cut(example: Example) -> bool:
    """Whether the context lacks a part of the gold answer, because the window was too short for it."""
    context = f" {_plain(example.facts['context'])} "
    return answerable(example) and any(
        f" {_plain(part)} " not in context for part in _parts(example, read_answer(example.reference))
    )


@lru_cache(1 << 12)
def _headers(context: str) -> frozenset[str]:
    """The column headers of a context's table."""
    before, rule, _ = context.partition("\n|---")
    return frozenset(cell.strip() for cell in before.rpartition("\n")[2].split("|")) if rule else frozenset()


@lru_cache(CACHE_SIZE)
def _plain(text: str) -> str:
    """The words and numbers in lower case: a table's bars, spacing and quotation marks make no difference."""
    return " ".join(re.findall(r"\d[\d,.]*\d|\w+|%", text.lower()))


class Number(NamedTuple):
    value: float  # without its sign: (12) grounds "fell by 12"
    decimals: int
    factor: float
    year: bool = False


@lru_cache(CACHE_SIZE)
def numbers(text: str) -> tuple[Number, ...]:
    """The numbers of a text, with the decimals as written and the factor of their scale word or percent sign.

    A number in another locale ("1.234,56") is ignored, because its value would be a guess.
    """
    result = []
    for digits, scale in _NUMBER.findall(text):
        if _PLAIN.fullmatch(digits):
            plain = digits.replace(",", "")
            factor = 0.01 if scale == "%" else tatqa.factor(scale)
            year = factor == 1 and _YEAR.fullmatch(digits) is not None
            result.append(Number(float(plain), len(plain.partition(".")[2]), factor, year))
    return tuple(result)


def is_foreign(text: str) -> bool:
    """Whether a number is written with a decimal comma or with points between thousands."""
    return bool(_FOREIGN.search(text))


@lru_cache(1 << 14)
def _context_values(context: str, scale: float, decimals: int) -> frozenset[float]:
    """The values that a context's numbers can have at an answer's scale (1: none is stated), rounded to its decimals.

    A number with its own scale word has one value, and so has a year. Others get their scale from a table's caption,
    so it may be any. A value that rounds to 0 is left out unless it is 0.
    """
    written = numbers(context)
    unscaled = [n for n in written if n.factor == 1 and not n.year]
    values = [n.value * n.factor / scale for n in written if n.factor != 1]
    values += [n.value * other / scale for n in unscaled for other in (1, scale, *tatqa.SCALES.values())]
    values += [n.value for n in written if scale == 1 or n.year]
    step = 10.0**-decimals
    steps = (value / step for value in values) if step else ()  # of a number of hundreds of digits, which has none
    halves_up = (math.floor(n + 0.5) for n in steps if math.isfinite(n))  # as people round; Python rounds .25 to .2
    rounded = frozenset(round(value, decimals) for value in (*values, *(step * n for n in halves_up)))
    return rounded if 0 in values else rounded - {0}


def grounded(example: Example, answer: str) -> tuple[int, int]:
    """Count an answer's grounded numbers, and all its numbers.

    A number is grounded if it is in the context, rounded or at another scale, and was asked for: the answer is right, or
    the number is in the reference, which is the gold answer with its row or sentence. So a figure of the filing that has
    nothing to do with the question is as good as an invented one. A calculation's 1, 100 and number of terms need not be
    in the context. A calculation's stated result is grounded if it equals the computed one, to its decimals.

    An answer without a number, where the gold one has some, counts as one that is not grounded: silence earns nothing.
    """
    reading = read_answer(answer)
    silent = int(answerable(example) and bool(numbers(" ".join(example.facts["answer"]))))
    if abstains(example, answer):
        return 0, silent
    sources = [example.facts["context"]]
    if not exact_and_f1(example, answer)[0]:
        sources.append(example.reference)
    calculation, equals, result = reading.unscaled.partition("=")
    written = numbers(calculation if reading.value is not None else reading.unscaled)
    free = {1.0, 100.0, float(len(written) - 1)} if reading.value is not None else set()
    right = 0
    for n in written:
        scale = n.factor if n.factor != 1 else tatqa.factor(reading.scale)
        right += n.value in free or all(
            round(n.value, n.decimals) in _context_values(source, scale, n.decimals) for source in sources
        )
    stated = numbers(result)[:1] if reading.value is not None and equals else ()
    right += sum(abs(abs(reading.value or 0) - n.value) <= 0.5 * 10**-n.decimals + 1e-9 for n in stated)
    return right, len(written) + len(stated) or silent


def _grounding(examples: Sequence[Example], answers: Sequence[str]) -> numpy.ndarray:
    """[grounded numbers, numbers] per sample; counts are unscored, because the context need not contain them."""
    rows = [grounded(e, a) if _is_numeric(e) else (numpy.nan, numpy.nan) for e, a in zip(examples, answers)]
    return numpy.array(rows, float).reshape(-1, 2)


def _is_numeric(example: Example) -> bool:
    return example.facts["type"] != "count"


TIER2 = (
    per_sample("evidence_overlap", "tier2", evidence_overlap, applies=_needs_evidence, version=READING + 1),
    Metric(
        "number_grounding",
        "tier2",
        _grounding,
        bounds=(0.0, math.inf),
        applies=_is_numeric,
        sample="nothing",
        version=READING + 1,
    ),
)


def by_type(examples: Sequence[Example], answers: Sequence[str]) -> list[dict[str, float | int | str]]:
    """Exact match with and without the scale, F1 and the share of "not stated", by answer type, for the report."""
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
                    "abstains": sum(abstains(*pair) for pair in chosen) / len(chosen),
                }
            )
    return table
