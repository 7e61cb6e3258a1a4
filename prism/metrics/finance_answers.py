"""Read an answer about a filing: its quotation, spans, scale and calculation.

The requested form is the answer on one line, `412 million`, `412 - 385 million`, `Retail; Online` or `not stated`, and
the quoted evidence on the next, `"Net sales | 412 | 385"`. An untuned model says the same in other ways, so labels
("Answer: …"), bold type, JSON, the other order, "$412m", "minus 12.6" and the usual ways to abstain are read too. What
TAT-QA's scorer counts as another answer stays one: "about 412", "three", "FY2019", a decimal comma.

`prism.metrics.arithmetic` computes a calculation; "412 - 385 = 27" also states its result, which counts if the
calculator is not used.
"""

from __future__ import annotations

import json
import math
import re
from functools import lru_cache
from typing import Any, NamedTuple

from prism.metrics.arithmetic import compute
from prism.rows.thoughts import without_thoughts

NOT_STATED = "not stated"
READING = 3  # raise it if the same answers are read differently
CACHE_SIZE = 1 << 16  # every metric reads every answer, of the baseline, each seed and each control

_PLAIN_SIGNS = str.maketrans("−’", "-'", "`")
_BOLD = re.compile(r"\*\*(\S|\S.{0,999}?\S)\*\*")  # "9 ** 9" is a power
_CURRENCY = re.compile(r"\bUS(?=\$)|\b(?:USD|EUR)\s?(?=\d)|(?<=\d)\s(?:US\s)?dollars\b(?=\W*$)|(?<=\()\$\s?(?=\d)")
_MINUS = re.compile(r"(?:^|(?<=[;\n]\s)|(?<=\n))(?:[–—]|minus\s)(?=\$?\d)", re.IGNORECASE)
_SPACED = re.compile(r"(?:^|(?<=[-$(]))\d{1,3}(?:[ \u00a0\u202f\u2009]\d{3})+(?![\d ]*\d)")
_OPERATORS = "-+*/="
_NEGATIVE_SCALED = re.compile(r"^\(\$?([\d.,]+)\s?(thousand|million|billion|mn|bn)\)")
_BASIS_POINTS = re.compile(r"^(-?[\d,.]*\d)\s?(?:bps|basis points?)\b")
_LABEL = re.compile(r"(?:^|\s)_*(?:the |final ){0,9}(answer|evidence|quote)_*(?:\s*:| is:?(?=\s))_*\s*", re.IGNORECASE)
_QUOTED = re.compile(r"[\"“](.+)[\"”][^\w\"”]*")
_QUOTED_FIRST = re.compile(r"[\"“]([^\"“”]+)[\"”]\s*[-–:,]?\s*(\S.*)$")
_NOT = r"(?:not|isn't|aren't|wasn't|weren't|hasn't\s+been|haven't\s+been)"
_SAID = (
    r"(?:stated?|say|said|mention(?:ed)?|given?|provided?|disclosed?|specif(?:y|ied)|reported|shown?|indicated?|listed)"
)
_SOURCE = r"(?:report|filing|text|table|context|document|passage|statements?|paragraphs?|data|information)"
_ABSTAINS = re.compile(
    # it is not stated
    rf"\b{_NOT}\s+(?:been\s+)?(?:\w+ly\s+)?(?:{_SAID}|available|known|included|found|present|answerable|determinable)\b"
    rf"|\b{_NOT}\s+(?:in|part\s+of)\s+the\s+{_SOURCE}\b"
    # the filing does not say
    rf"|\b(?:does|do|did)(?:\s+not|n't)\s+(?:\w+ly\s+)?(?:{_SAID}|contain|include|list|know|have\s+(?:enough|any|the|that))\b"
    r"|\b(?:includes?|contains?|gives?|provides?|has|have|states?|shows?|discloses?)\s+no\s+(?:such|figure|information)\b"
    # it cannot be determined
    r"|\b(?:cannot|can't|could\s+not|couldn't|unable\s+to|impossible\s+to|not\s+possible\s+to|no\s+way\s+to)\s+(?:be\s+)?"
    r"(?:determined?|answer(?:ed)?|found|find|tell|say|calculated?|computed?|derived?|inferred|known?|located?|identif\w+)\b"
    # there is no information
    r"|\b(?:no|not\s+enough|insufficient)\s+(?:such\s+|sufficient\s+|relevant\s+|specific\s+)?"
    r"(?:mention|information|data|figures?|details?|answer|disclosure|evidence|context)"
    r"(?=\W*$|\s+(?:on|about|for|in|of|to|regarding|is|was|that|given|provided|available)\b)"
    # nothing else is said
    r"|^\W*(?:n/?a|n\.a\.|none|null|nil|unknown|unclear|unanswerable|undisclosed|unspecified|unavailable|not applicable"
    r"|not sure)\b\W*$",
    re.IGNORECASE,
)
_NAMED = re.compile(  # numbers that an abstaining answer may name
    r"\b(?:(?:19|20)\d\d|10-[KQ]|Q[1-4]|(?:note|page|item|section|table)\s\d+"
    r"|(?:January|February|March|April|May|June|July|August|September|October|November|December)\s\d{1,2})\b",
    re.IGNORECASE,
)
_IN_WORDS = re.compile(
    r"\b(?:one|two|three|four|five|six|seven|eight|nine|ten|\w+teen|\w+ty|twelve)\s(?:\w+llion|thousand|percent)\b"
)
_SCALE = re.compile(
    r"(?:(?<=[\d)\]%])\s*\(?(?:in )?(thousand|million|mn|billion|bn|percent|per\scent|pct)s?\)?|(?<=\d)(k|mm?|b))$",
    re.IGNORECASE,
)
_LAST_WORD = re.compile(r"\s(thousand|million|billion|percent)$")  # after a span with a scale of its own
_WORDS = {
    "mn": "million",
    "bn": "billion",
    "k": "thousand",
    "m": "million",
    "mm": "million",
    "b": "billion",
} | dict.fromkeys(("per cent", "pct"), "percent")
_RISE = re.compile(
    r"^(?:an?\s)?(?:increase|rise|gain|growth)\sof\s(?=[$\d])|(?<=[\d%])\s(?:increase|rise|gain|growth)$", re.IGNORECASE
)
_FALL = re.compile(
    r"^(?:an?\s)?(?:decrease|decline|drop|fall|loss)\sof\s(?=[$\d])|(?<=[\d%])\s(?:decrease|decline|drop|fall|loss)$",
    re.IGNORECASE,
)
_SEPARATOR = re.compile(r",\s+(?:and\s+)?|(?:(?<!\s)\s+)?[;\n]\s*")
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

    def answers(self, calculator: bool, several: bool = False) -> tuple[tuple[tuple[str, ...], str], ...]:
        """The possible spans and scales, of which the best counts: "million" at the end may be the scale or the last
        word, and a ";" may separate spans or not. Where `several` spans are asked for, commas may as well."""
        written = [(self.spans, self.scale), (_spans(self.whole), ""), (tuple(filter(None, [self.whole])), "")]
        if self.value is None:
            written += self._others(several)
        if not calculator or self.value is None:
            return tuple(written)
        computed = [((text,), self.scale) for text in _roundings(self.value, 2)]
        if not self.scale:  # .2342 for 23.42 percent
            computed += [((text,), "") for text in _roundings(self.value, 4)]
        return tuple(computed if "=" in self.unscaled else computed + written)  # "3 - 5" may be a range

    def _others(self, several: bool) -> list[tuple[tuple[str, ...], str]]:
        found = []
        if word := _LAST_WORD.search(self.unscaled):
            found.append((_spans(self.unscaled[: word.start()]), self.scale or word[1]))
        if several and "," in self.whole:
            found.append((tuple(filter(None, _SEPARATOR.split(self.whole))), ""))
        for change, sign in ((_RISE, ""), (_FALL, "-"), (_FALL, "")):  # a loss of 12.6 is -12.6, or asked for as 12.6
            amount = change.sub("", self.unscaled)
            if amount != self.unscaled and any(map(str.isdigit, amount)):
                found.append(((sign + amount,), self.scale))
        return found


def _roundings(value: float, decimals: int) -> list[str]:
    """A value to some decimals, from its exact value: once, where a half may go either way."""
    steps = value * 10**decimals
    if not abs(steps) < 2**52:
        return [f"{value:.{decimals}f}"]
    near = (math.floor(steps), math.ceil(steps))
    return [f"{n / 10**decimals:.{decimals}f}" for n in dict.fromkeys(near) if abs(n - steps) <= 0.5 + 1e-7]


@lru_cache(CACHE_SIZE)
def read_answer(answer: str) -> Reading:
    """Read an answer's quotation, its final answer with the scale, and whether it abstains."""
    answer = plain(_from_json(without_thoughts(answer)[0].strip()))
    quote, whole = _quotation(answer.strip())
    if _ABSTAINS.search(whole) and not _gives_a_figure(whole):
        return Reading(quote, whole, whole, (NOT_STATED,), "", None, True)
    last = whole.rpartition(";")[2].strip() if whole.count("=") > 1 else whole  # of several steps the last one answers
    unscaled, scale = _figure(last).rstrip(".").rstrip(), ""
    if match := _SCALE.search(unscaled):
        unscaled, word = unscaled[: match.start()].rstrip(), " ".join((match[1] or match[2]).lower().split())
        scale = _WORDS.get(word, word)
    left, equals, right = unscaled.partition("=")
    value = compute(left if equals else unscaled)
    return Reading(quote, whole, unscaled, _spans(right if equals and right.strip() else unscaled), scale, value, False)


@lru_cache(CACHE_SIZE)
def plain(text: str) -> str:
    """A text with plain signs for minus and apostrophe, without backticks, bold type and names of currencies."""
    return _MINUS.sub("-", _CURRENCY.sub("", _BOLD.sub(r"\1", text.translate(_PLAIN_SIGNS))))


def _gives_a_figure(text: str) -> bool:
    return any(map(str.isdigit, _NAMED.sub("", text))) or bool(_IN_WORDS.search(text))


def _figure(text: str) -> str:
    """A figure as TAT-QA writes it: "1 234" as 1234, "(12.6 million)" as (12.6) million, "25 bps" as 0.25 percent."""
    if not text[-1:].isalnum() and not text[:1].isdigit() and "(" not in text:
        return text
    last = max(map(text.rfind, _OPERATORS))
    text = _SPACED.sub(lambda found: found[0] if found.end() <= last else re.sub(r"\s", "", found[0]), text)
    text = _NEGATIVE_SCALED.sub(r"(\1) \2", text)
    points = _BASIS_POINTS.match(text)
    return f"{float(points[1].replace(',', '')) / 100:.6g} percent" if points and points[1].count(".") < 2 else text


def _from_json(text: str) -> str:
    """The requested form of an answer that is a JSON list of spans, or an object with an "answer"; others as they are."""
    inner = text.removeprefix("```json").strip("`\n ") if text.startswith("```") else text
    if not inner.startswith(("{", "[")):
        return text
    try:
        found: Any = json.loads(inner)
    except (ValueError, RecursionError):
        return text
    if isinstance(found, list):
        found = {"answer": found}
    said = found.get("answer")
    spans = said if isinstance(said, list) else [said]
    if not spans or not all(isinstance(span, str | int | float) for span in spans):
        return text
    quote = found.get("evidence") or found.get("quote")
    line = " ".join(filter(None, ["; ".join(map(str, spans)), str(found.get("scale") or "")]))
    return f'{line}\n"{quote}"' if isinstance(quote, str) else line


def _spans(text: str) -> tuple[str, ...]:
    return tuple(filter(None, (_BULLET.sub("", part).strip() for part in re.split(r"[;\n]", text))))


def _quotation(text: str) -> tuple[str, str]:
    """Split off the quoted evidence: (evidence, the other lines, from the answer's label on if there is one)."""
    lines = [line.strip() for line in _LABEL.sub(r"\n\1: ", text).split("\n") if line.strip()]
    if len(lines) == 1 and (both := _QUOTED_FIRST.match(lines[0])):
        return both[1].strip(), both[2]
    quote, answer = "", list[str]()
    all_quoted = all(map(_QUOTED.fullmatch, lines))  # then the first is the answer
    for line in lines:
        label, _, rest = line.partition(": ") if _LABEL.match(line + " ") else ("", "", line)
        quoted = _QUOTED.fullmatch(rest)
        if label.lower() in ("evidence", "quote") or (quoted and not label and (answer or not all_quoted)):
            quote = quote or (quoted[1] if quoted else rest).strip()
        elif label:
            answer = [rest] if rest else []
        else:
            answer.append(rest)
    return quote, "\n".join(answer).strip()
