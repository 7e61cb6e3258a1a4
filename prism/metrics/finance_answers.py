"""How an answer about a filing is read: its quotation, its spans, its scale, its calculation.

The form asked for is the answer in one line, `412 million`, `412 - 385 million`, `Retail; Online` or `not stated`, and
the quoted evidence in the next, `"Net sales | 412 | 385"`. A model that was not tuned says the same in other ways, so
labels ("Answer: …"), bold type, the other order and the usual ways to abstain are read too.

A calculation is computed (`prism.metrics.arithmetic`); "412 - 385 = 27" states its result besides, which counts where
the calculator is not used.
"""

from __future__ import annotations

import re
from functools import lru_cache
from typing import NamedTuple

from prism.metrics.arithmetic import compute

NOT_STATED = "not stated"
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
def read_answer(answer: str) -> Reading:
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
