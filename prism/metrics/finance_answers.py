"""Read an answer about a filing: its quotation, spans, scale and calculation.

The requested form is the answer on one line, `412 million`, `412 - 385 million`, `Retail; Online` or `not stated`, and
the quoted evidence on the next, `"Net sales | 412 | 385"`. An untuned model says the same in other ways, so labels
("Answer: …"), bold type, the other order and the usual ways to abstain are read too.

`prism.metrics.arithmetic` computes a calculation; "412 - 385 = 27" also states its result, which counts if the
calculator is not used.
"""

from __future__ import annotations

import re
from functools import lru_cache
from typing import NamedTuple

from prism.metrics.arithmetic import compute

NOT_STATED = "not stated"
READING = 2  # raise it if the same answers are read differently
CACHE_SIZE = 1 << 16  # every metric reads every answer, of the baseline, each seed and each control

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
    """The parts of an answer. Quotation and scale are empty, and value is None, if it has none."""

    quote: str
    whole: str  # the answer as written
    unscaled: str  # without its scale
    spans: tuple[str, ...]  # for "412 - 385 = 27" the result
    scale: str
    value: float | None  # the result of a calculation
    abstains: bool

    def answers(self, calculator: bool) -> tuple[tuple[tuple[str, ...], str], ...]:
        """The possible spans and scales, of which the best counts: "million" at the end may be the scale or the last
        word, and a ";" may separate spans or not."""
        written = (self.spans, self.scale), (_spans(self.whole), ""), (tuple(filter(None, [self.whole])), "")
        if not calculator or self.value is None:
            return written
        computed = (f"{round(self.value, 4) + 0.0:.4f}",), self.scale  # + 0.0 makes 0 of -0
        return (computed,) if "=" in self.unscaled else (computed, *written)  # "3 - 5" may be a range


@lru_cache(CACHE_SIZE)
def read_answer(answer: str) -> Reading:
    """Read an answer's quotation, its final answer with the scale, and whether it abstains."""
    answer = _CURRENCY.sub("", _BOLD.sub(r"\1", answer.translate(_PLAIN_SIGNS)))
    quote, whole = _quotation(answer.strip())
    if _ABSTAINS.search(whole) and not any(map(str.isdigit, _NAMED.sub("", whole))):
        return Reading(quote, whole, whole, (NOT_STATED,), "", None, True)
    unscaled, scale = whole.rstrip(".").rstrip(), ""
    if match := _SCALE.search(unscaled):
        unscaled, word = unscaled[: match.start()].rstrip(), match[1].lower()
        scale = _WORDS.get(word, word)
    left, equals, right = unscaled.partition("=")
    value = compute(left if equals else unscaled)
    return Reading(quote, whole, unscaled, _spans(right if equals and right.strip() else unscaled), scale, value, False)


def _spans(text: str) -> tuple[str, ...]:
    return tuple(filter(None, (_BULLET.sub("", part).strip() for part in re.split(r"[;\n]", text))))


def _quotation(text: str) -> tuple[str, str]:
    """Split off the quoted evidence: (evidence, the other lines, from the answer's label on if there is one)."""
    lines = [line.strip() for line in _LABEL.sub(r"\n\1: ", text).split("\n") if line.strip()]
    if len(lines) == 1 and (both := _QUOTED_FIRST.match(lines[0])):
        return both[1].strip(), both[2]
    quote, answer = "", list[str]()
    for line in lines:
        label, _, rest = line.partition(": ") if _LABEL.match(line + " ") else ("", "", line)
        quoted = _QUOTED.fullmatch(rest)
        if label.lower() in ("evidence", "quote") or (quoted and not label and (answer or len(lines) > 1)):
            quote = quote or (quoted[1] if quoted else rest).strip()
        elif label:
            answer = [rest] if rest else []
        else:
            answer.append(rest)
    return quote, "\n".join(answer).strip()
