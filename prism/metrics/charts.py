"""Answers about charts and receipts: relaxed accuracy as published, a strict one beside it, dates and totals by value.

Relaxed accuracy takes 1910 for 2010 and 2% for .02, and refuses 1000 for 1,000: it is shown since others publish it.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterator, Sequence
from datetime import date
from fractions import Fraction
from typing import Any, NamedTuple

from prism.metrics import Metric, per_sample
from prism.metrics.anls import accepted
from prism.metrics.by_fact import Cell, by_fact
from prism.rows import Example

TOLERANCE = 0.05
FIELDS = ("date", "total")  # of a receipt: the fact "field" of the examples that `exact_value` applies to

# --- as published -------------------------------------------------------------------------------------------------


def relaxed_correctness(gold: str, said: str) -> bool:
    """The relaxed correctness of ChartQA (Masry et al. 2022) as the code of pix2struct has it, which everyone copies.

    Both sides are read by `float()`, after a division by 100 where they end in a percent sign. A relative error of at
    most .05 is right where both are numbers and the gold one is not 0; else the texts have to be equal without case.
    Years, thousands commas, currency and full stops get no rule. The error is a float: of the golds .01 to 19.99, one a
    cent, 953 refuse an answer that is larger by exactly 5 % (1 and 1.05), the other 1,046 take it (10 and 10.5).
    """
    target, value = _to_float(gold), _to_float(said)
    if value is not None and target:
        return abs(value - target) / abs(target) <= TOLERANCE
    return said.lower() == gold.lower()


def _to_float(text: str) -> float | None:
    try:
        return float(text.rstrip("%")) / 100 if text.endswith("%") else float(text)
    except ValueError:
        return None


# --- strict -------------------------------------------------------------------------------------------------------

_SIGN = r"(?:US|HK|NZ|[ACRS])?[$€£¥₩₫₱₹฿]"
_CODE = r"RM|MYR|SGD|USD|EUR|GBP|JPY|CNY|INR|IDR|THB|HKD|AUD|CAD|NZD|CHF|Rs\.?"
_MONEY = rf"(?:{_SIGN}|{_CODE})"
_NUMBER = re.compile(
    rf"([-+]?)\s*(?:{_MONEY}\s*)?([-+]?)\s*([0-9]{{1,3}}(?:,[0-9]{{3}})+|[0-9]+|(?=\.[0-9]))(\.[0-9]+)?"
    rf"\s*(%|per\s?cent\b)?\s*{_MONEY}?",
    re.IGNORECASE,
)
_YEAR = re.compile(r"(?:18|19|20)[0-9]{2}")
_ARTICLE = re.compile(r"(?<!\S)(?:a|an|the) (?=\S)")
_LONGEST = 60  # characters of a number: nobody reads more off a chart, and Python refuses to read 4,300


class Number(NamedTuple):
    value: Fraction
    percent: bool


def read_number(text: str) -> Number | None:
    """The exact value of a text that is a number and nothing else, or None.

    A currency sign or code and the commas between thousands say nothing about the value, nor does a final full stop.
    A percent sign is noted and not divided by. A decimal comma is no number: 1,234 in one locale is 1.234 in another.
    """
    text = _plain(text)
    found = _NUMBER.fullmatch(text) if len(text) <= _LONGEST else None
    if found is None or found[1] and found[2]:
        return None
    value = Fraction(f"{found[3].replace(',', '') or 0}{found[4] or ''}")
    return Number(-value if "-" in (found[1], found[2]) else value, found[5] is not None)


def _plain(text: str) -> str:
    """A text in composed Unicode with single spaces, a plain minus sign and no final full stop."""
    text = " ".join(unicodedata.normalize("NFC", text).replace("\u2212", "-").split())
    return text.rstrip(". ")


def plain_text(text: str) -> str:
    """A text without case, final full stop and articles; an article with nothing after it is a name ("Product A")."""
    return _ARTICLE.sub("", _plain(text).casefold())


def is_year(text: str) -> bool:
    """Whether a text is four digits from 1800 to 2099, bare of commas, currency and percent sign."""
    return _YEAR.fullmatch(_plain(text)) is not None


def strict_correctness(gold: str, said: str) -> bool:
    """The relaxed correctness without its gaps: numbers within 5 % of a gold that is no year, everything else exact.

    Exact decimals decide, so an answer larger by exactly 5 % is right. A gold year takes its own value alone, and so
    does 0. A percent sign is dropped, as ChartQAPro does it: 2% for 2 is right, and .02 for 2% wrong. Texts are equal
    without case, articles and final full stop. Words of scale are not read: "5 million" is a text.
    """
    target, value = read_number(gold), read_number(said)
    if target is None or value is None:
        return plain_text(said) == plain_text(gold)
    allowed = 0 if is_year(gold) else abs(target.value) * Fraction(5, 100)
    return abs(value.value - target.value) <= allowed


# --- dates and totals ---------------------------------------------------------------------------------------------

_NAMES = "january february march april may june july august september october november december"
_MONTHS = {name: i for i, long in enumerate(_NAMES.split(), 1) for name in (long, long[:3])} | {"sept": 9}
_DIGITS = "[0-9]{1,2}|[0-9]{4}"
_PARTS = re.compile(rf"([a-z]+|{_DIGITS})(?: ?[-/.,] ?| )([a-z]+|{_DIGITS})(?: ?[-/.,] ?| )({_DIGITS})")
_COMPACT = re.compile(r"[0-9]{8}")
_ORDINAL = re.compile(r"\b([0-9]{1,2})(?:st|nd|rd|th)\b")
_YEARS = range(1900, 2100)


def read_date(text: str) -> date | tuple[str, ...] | None:
    """The date that a text is; its parts in their order where it could be two dates, None where it is none.

    Day, month and year in figures, with the month as a word, the year first, or eight digits. A day of at most 12 may
    be the month. A year of two digits stands last, and is 19yy from 69 on, as `time.strptime` has it.
    """
    text = _ORDINAL.sub(r"\1", _plain(text).casefold())
    found = _PARTS.fullmatch(text)
    if found:
        splits = [found.groups()]
    elif _COMPACT.fullmatch(text):
        splits = [(text[:4], text[4:6], text[6:]), (text[:2], text[2:4], text[4:])]
    else:
        return None
    readings = {reading for split in splits for reading in _readings(*split)}
    if len(readings) > 1:  # the year stands last, or day and month would have but one order
        first, second, year = splits[-1]
        return first.zfill(2), second.zfill(2), str(_year(year))
    return readings.pop() if readings else None


def _readings(first: str, second: str, third: str) -> Iterator[date]:
    """The dates that three parts can be, of the years 1900 to 2099."""
    year_first = (first, second, third)
    for year, month, day in [year_first] if len(first) == 4 else [(third, second, first), (third, first, second)]:
        try:
            found = date(_year(year), _MONTHS[month] if month.isalpha() else int(month), int(day))
        except (KeyError, ValueError):  # no month's name, or no such day
            continue
        if found.year in _YEARS and len(year) in (2, 4):
            yield found


def _year(digits: str) -> int:
    return int(digits) + (0 if len(digits) != 2 else 1900 if int(digits) > 68 else 2000)


def same_date(gold: str, said: str) -> bool:
    """Whether two texts are one date: separators are no difference, the order of the parts is one where it matters.

    25/12/2018, 25-12-2018 and 2018-12-25 are the same. 12/01/2019 is 12-01-2019, and neither 2019-01-12 nor 2019-12-01,
    since it may be either.
    """
    target = read_date(gold)
    return plain_text(said) == plain_text(gold) if target is None else read_date(said) == target


def same_amount(gold: str, said: str) -> bool:
    """Whether two texts are one amount: 9, 9.00, RM9.00 and $9.00 are the same, and 1,007.50 is 1007.5."""
    target = read_number(gold)
    return plain_text(said) == plain_text(gold) if target is None else read_number(said) == target


def is_value(example: Example) -> bool:
    """Whether a receipt's date or total is asked for."""
    return example.facts.get("field") in FIELDS


# --- metrics ------------------------------------------------------------------------------------------------------


def _relaxed(example: Example, answer: str) -> float:
    return float(any(relaxed_correctness(gold, answer) for gold in accepted(example)))


def _strict(example: Example, answer: str) -> float:
    return float(any(strict_correctness(gold, answer) for gold in accepted(example)))


def _exact_value(example: Example, answer: str) -> float:
    same = same_date if example.facts["field"] == "date" else same_amount
    return float(any(same(gold, answer) for gold in accepted(example)))


_RIGHT: dict[str, Any] = {"sample": "right or wrong", "version": 1}

METRICS: tuple[Metric, ...] = (
    per_sample("relaxed_accuracy", "tier1", _relaxed, **_RIGHT),
    per_sample("strict_accuracy", "tier1", _strict, **_RIGHT),
    per_sample("exact_value", "tier1", _exact_value, applies=is_value, **_RIGHT),
)


def by_kind(examples: Sequence[Example], answers: Sequence[str]) -> dict[str, list[dict[str, Cell]] | str]:
    """The metrics by kind of picture and by question type, for the report."""
    return by_fact(METRICS, ("kind", "question_type"), examples, answers)
