"""An answer about a filing: how it is read, and what is scored of it besides its words.

The form asked for is the answer in one line, `412 million`, `412 - 385 million`, `Retail; Online` or `not stated`, and
the quoted evidence in the next, `"Net sales | 412 | 385"`. A model that was not tuned says the same in other ways, so
labels ("Answer: …"), bold type, the other order and the usual ways to abstain are read too. What it is not excused from is
the scale; `exact_match_without_scale` says what it would score if it were.

A calculation is computed (`prism.metrics.arithmetic`); "412 - 385 = 27" states its result besides, which counts where
the calculator is not used.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Sequence
from functools import lru_cache, partial
from typing import Any, NamedTuple

import numpy

from prism.data import Example
from prism.metrics import Metric, everything, mean, tatqa
from prism.metrics.arithmetic import OPERAND, compute

NOT_STATED = "not stated"
TYPES = ("span", "multi-span", "arithmetic", "count", "unanswerable")
READING = 2  # raise it when the same answers are read otherwise
CACHED = 1 << 16  # every metric reads every answer, of the baseline, each seed and each control

_PLAIN_SIGNS = str.maketrans("−’", "-'", "`")
_BOLD = re.compile(r"\*\*(\S|\S.*?\S)\*\*")  # "9 ** 9" is a power
_CURRENCY = re.compile(r"\bUS(?=\$)|\b(?:USD|EUR)\s?(?=\d)")
_LABEL = re.compile(r"(?:^|\s)_*(?:the |final )*(answer|evidence|quote)_*(?:\s*:| is:?(?=\s))_*\s*", re.IGNORECASE)
_QUOTED = re.compile(r"[\"“](.+)[\"”]\W*$")
_QUOTED_FIRST = re.compile(r"[\"“]([^\"“”]+)[\"”]\s*[-–:,]?\s*(\S.*)$")
_ABSTAINS = re.compile(
    r"\b(?:not|isn't|aren't)\s+(?:been\s+)?(?:stated|mentioned|given|provided|disclosed|specified|available)\b"
    r"|\b(?:not|isn't|aren't) in the (?:report|filing|text|table|context|document)\b"
    r"|\bcannot be (?:determined|answered|found)\b|\bno (?:mention|information|data)\b|^n/a\b"
    r"|\bdoes(?: not|n't) (?:state|say|mention|provide|specify|disclose|give|contain|include)\b",
    re.IGNORECASE,
)
_NAMED = re.compile(r"\b(?:(?:19|20)\d\d|10-[KQ])\b")  # numbers that an abstaining answer may name
_SCALE = re.compile(r"(?<=[\d)\]%])\s*\(?(?:in )?(thousand|million|mn|billion|bn|percent)s?\)?$", re.IGNORECASE)
_WORDS = {"mn": "million", "bn": "billion"}
_BULLET = re.compile(r"^\s*(?:[-*•]|\d+[.)])\s+(?=\D)")
_YEAR = re.compile(r"(?:19|20)\d\d")
_NUMBER = re.compile(r"(?<![\w.,])(\d[\d.,]*\d|\d)\)?\s?(%|thousand|million|billion)?", re.IGNORECASE)
_PLAIN = re.compile(r"\d{1,3}(?:,\d{3})+(?:\.\d+)?|\d+(?:\.\d+)?")
_FOREIGN = re.compile(r"\d\.\d{3},\d|\d,\d{1,2}(?!\d)|\d\.\d{3}\.\d{3}")


class Reading(NamedTuple):
    """What an answer says. Without quotation, scale or calculation these are empty."""

    quote: str
    whole: str  # the answer as it is written
    said: str  # without its scale
    spans: tuple[str, ...]  # of "412 - 385 = 27" the result
    scale: str
    value: float | None  # what a calculation comes to
    abstains: bool

    def answers(self, calculator: bool) -> tuple[tuple[tuple[str, ...], str], ...]:
        """Spans and scale. "million" at an answer's end may be its scale or its last word, a ";" part two spans or one:
        whichever is right counts."""
        written = (self.spans, self.scale), (_spans(self.whole), ""), (tuple(filter(None, [self.whole])), "")
        if not calculator or self.value is None:
            return written
        computed = (f"{round(self.value, 4) + 0.0:.4f}",), self.scale  # + 0.0 makes 0 of -0
        return (computed,) if "=" in self.said else (computed, *written)  # "3 - 5" may be a range


@lru_cache(CACHED)
def read(answer: str) -> Reading:
    """An answer's quotation, its final answer with the scale, and whether it says that nothing is stated."""
    answer = _CURRENCY.sub("", _BOLD.sub(r"\1", answer.translate(_PLAIN_SIGNS)))
    quote, whole = _quotation(answer.strip())
    if _ABSTAINS.search(whole) and not any(map(str.isdigit, _NAMED.sub("", whole))):
        return Reading(quote, whole, whole, (NOT_STATED,), "", None, True)
    said, scale = whole.rstrip(".").rstrip(), ""
    if found := _SCALE.search(said):
        said, word = said[: found.start()].rstrip(), found[1].lower()
        scale = _WORDS.get(word, word)
    left, equals, right = said.partition("=")
    value = compute(left if equals else said)
    return Reading(quote, whole, said, _spans(right if equals and right.strip() else said), scale, value, False)


def _spans(text: str) -> tuple[str, ...]:
    return tuple(filter(None, (_BULLET.sub("", part).strip() for part in re.split(r"[;\n]", text))))


def _quotation(text: str) -> tuple[str, str]:
    """The quoted evidence and what is left of an answer: the lines that are no quotation, from the label on, if any."""
    lines = [line.strip() for line in _LABEL.sub(r"\n\1: ", text).split("\n") if line.strip()]
    if len(lines) == 1 and (both := _QUOTED_FIRST.match(lines[0])):
        return both[1].strip(), both[2]
    quote, said = "", list[str]()
    for line in lines:
        label, _, rest = line.partition(": ") if _LABEL.match(line + " ") else ("", "", line)
        found = _QUOTED.fullmatch(rest)
        if label.lower() in ("evidence", "quote") or (found and not label and (said or len(lines) > 1)):
            quote = quote or (found[1] if found else rest).strip()
        elif label:
            said = [rest] if rest else []
        else:
            said.append(rest)
    return quote, "\n".join(said).strip()


# --- tier 1 -------------------------------------------------------------------------------------------------------


def exact_and_f1(example: Example, answer: str, calculator: bool = True) -> tuple[float, float]:
    """TAT-QA's exact match and F1; a question without an answer is answered right by saying so, and by that alone."""
    facts = example.facts
    said = read(answer)
    if said.abstains or facts["type"] == "unanswerable":
        right = float(said.abstains and facts["type"] == "unanswerable")
        return right, right
    gold = tuple(facts["answer"]), facts["scale"], facts["type"]
    return max(_scored(spans, scale, *gold) for spans, scale in said.answers(calculator))


_scored = lru_cache(CACHED)(tatqa.score)


def _mean_of(
    name: str,
    tier: str,
    one: Callable[[Example, str], float],
    of: Callable[[Example], bool] = everything,
    **options: Any,
) -> Metric:
    """The mean of a score of one sample over those that the metric is of."""

    def statistics(examples: Sequence[Example], answers: Sequence[str]) -> numpy.ndarray:
        rows = numpy.full((len(examples), 2), numpy.nan)
        for row, (example, answer) in enumerate(zip(examples, answers)):
            if of(example):
                rows[row] = one(example, answer), 1
        return rows

    return Metric(name, tier, statistics, mean, of=of, version=READING, **options)


def _exact(example: Example, answer: str) -> float:
    return exact_and_f1(example, answer)[0]


def _exact_as_written(example: Example, answer: str) -> float:
    return exact_and_f1(example, answer, calculator=False)[0]


def _exact_without_scale(example: Example, answer: str) -> float:
    """The exact match under the gold scale, whichever scale the answer states, or none."""
    facts = example.facts
    exact, said = _exact(example, answer), read(answer)
    if exact or said.abstains or not facts["scale"]:
        return exact
    gold = tuple(facts["answer"]), facts["scale"], facts["type"]
    return max(_scored(spans, facts["scale"], *gold)[0] for spans, _ in said.answers(calculator=True))


def _is(kind: str, example: Example) -> bool:
    return example.facts["type"] == kind


def answerable(example: Example) -> bool:
    return example.facts["type"] != "unanswerable"


def _abstentions(examples: Sequence[Example], answers: Sequence[str]) -> numpy.ndarray:
    """[abstained rightly, abstained, should have] a sample; all unscored where every question has an answer."""
    did = numpy.array([read(answer).abstains for answer in answers], float)
    should = numpy.array([not answerable(example) for example in examples], float)
    rows = numpy.column_stack([did * should, did, should])
    return rows if should.any() else rows + numpy.nan


def _precision(sums: numpy.ndarray) -> numpy.ndarray:
    return mean(sums[..., [0, 1]])


def _recall(sums: numpy.ndarray) -> numpy.ndarray:
    return mean(sums[..., [0, 2]])


def _abstention_f1(sums: numpy.ndarray) -> numpy.ndarray:
    return mean(numpy.stack([2 * sums[..., 0], sums[..., 1] + sums[..., 2]], -1))


_RIGHT: dict[str, Any] = {"right_or_wrong": True}
# Says of a sample what exact_match has said; by type and with all controls it stands in a table of its own.
_PART: dict[str, Any] = {"right_or_wrong": True, "of_one_sample": False, "controlled": False}
_SET: dict[str, Any] = {"of_one_sample": False, "controlled": False, "version": READING}

TIER1 = (
    _mean_of("exact_match", "tier1", _exact, **_RIGHT),
    _mean_of("f1", "tier1", lambda example, answer: exact_and_f1(example, answer)[1]),
    _mean_of("exact_match_without_scale", "tier1", _exact_without_scale, **_RIGHT),
    _mean_of("exact_match_without_calculator", "tier1", _exact_as_written, **_PART),
    _mean_of("context_gain", "tier1", _exact, answerable, baseline="without_context", **_RIGHT),
    _mean_of("answering_gain", "tier1", _exact, baseline="always_not_stated", **_RIGHT),
    *(
        _mean_of(f"exact_match_{kind.replace('-', '_')}", "tier1", _exact, partial(_is, kind), **_PART)
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
    said = read(answer)
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
        f" {_plain(part)} " not in context for part in _parts(example, read(example.reference))
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
    said = read(answer)
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
    _mean_of("evidence_overlap", "tier2", evidence_overlap, of=answerable),
    Metric("number_grounding", "tier2", _grounding, mean, of=_is_numeric, of_one_sample=False, version=READING),
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
                    "abstains": sum(read(answer).abstains for _, answer in chosen) / len(chosen),
                }
            )
    return table
