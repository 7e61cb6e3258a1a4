"""Read the label of an answer where a person would read one: any closed set of labels, English around them.

A label counts where the answer states it. It does not count where it is

- denied: "not bullish", "it would be wrong to call it bullish", "negative for pneumonia", "pneumonia is absent"; where
  the labels are "spam" and "not spam", "it isn't spam" states the other;
- asked, unknown or conceded: "is it bullish?", "cannot exclude pneumonia", "while it may seem bullish, …";
- a part of other words: the D of "vitamin D", the 5 of "1 out of 5", the no of "no idea";
- one of several to choose from: "bullish or bearish", "neutral/bullish", "bullish, bearish".

The rules, of which the first that finds a label decides:

1. *whole*: the answer is a label, apart from case, markup and punctuation.
2. *shares*: numbers beside two labels or more, such as probabilities, or yes and no: the label with the largest.
3. *only*: one label is stated.
4. *lead*: the answer begins with a stated label ("bearish, since a bullish reading …").
5. *cue*: a stated label follows "answer:", "the sentiment is" and the like. A "final" one overrules others; else two
   that disagree find nothing.
6. *noun*: one label is stated other than before a noun ("a bearish gap, yet it is bullish").
7. *conclusion*: one is in the last clause after "so", "but", "overall" or a colon.

A thought before the answer is not read. The words that deny, ask and so on are in `label_words`.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache

from prism.metrics.label_words import (
    ABOUT,
    AGREED,
    BEFORE_LETTER,
    CUE,
    DENIED_AFTER,
    DENIES,
    JOIN,
    NOUN,
    OF,
    OR,
    SCAN,
    SENTENCE_ENDS,
    SHARE,
    UNSPACED,
    YES_NO,
)
from prism.rows.thoughts import without_thoughts

_MARKUP = str.maketrans(dict.fromkeys('*_`~#"“”„«»[]{}\\', " ") | dict.fromkeys("’‘ʼ´", "'") | dict.fromkeys("−–", "-"))
_TAG = re.compile(r"</?[a-zA-Z][^<>]{0,40}>")
_SPACES = re.compile(r"[^\S\n]+")
_BETWEEN = re.compile(r"(?<=\S)[\s-]+(?=\S)")
_QUOTE = re.compile(r"(?<!\w)'|'(?!\w)")
_EDGE = " \t\r\n.,;:!()'|/-"  # of an answer that is a label; "bullish?" asks


def read_label(answer: str, labels: Sequence[str], descriptions: Mapping[str, str] | None = None) -> str | None:
    """The label that an answer states, as `labels` spells it; None if it states none, or more than one.

    `descriptions` gives labels further names, by label: with {"2": "bearish"} the answer "bearish" is a 2. Labels may
    be several words, contain one another (the longest counts: "very positive" is no "positive") and be digits.
    """
    return _read(answer, tuple(labels), tuple((descriptions or {}).items()))


@lru_cache(1 << 16)  # every metric reads every answer
def _read(answer: str, labels: tuple[str, ...], descriptions: tuple[tuple[str, str], ...]) -> str | None:
    reader = _reader(labels, descriptions)
    return reader.names.get(answer) or reader.read(answer)


@dataclass
class _Mention:
    label: str
    start: int
    end: int
    stated: bool
    denied: bool
    turned: int  # the number of the clause after "so", "but", a colon …; 0 in others
    noun: bool  # before a noun: "a bearish gap"
    group: int  # mentions that are joined by "or", commas or slashes have one


@dataclass(frozen=True)
class _Reader:
    """The patterns of one set of labels. `names` maps all spellings to labels, as given and as `_plain` writes them."""

    names: Mapping[str, str]
    opposites: Mapping[str, str]  # "not spam" by "spam"
    label: re.Pattern[str]
    events: re.Pattern[str]
    shares: tuple[re.Pattern[str], re.Pattern[str]]

    def read(self, answer: str) -> str | None:
        text = _plain(without_thoughts(answer)[0])
        whole = self.names.get(_spelling(text)) or self.names.get(_spelling(text.strip(_EDGE)))
        if whole:
            return whole
        mentions = self._mentions(text)
        if not mentions:
            return None
        several = len({mention.label for mention in mentions}) > 1
        if several and (likeliest := self._likeliest(text)):
            return likeliest
        stated = [mention for mention in mentions if mention.stated]
        if len({mention.label for mention in stated}) < 2:
            return stated[0].label if stated else None
        if lead := _lead(text, stated):
            return lead
        cued = _after_cues(text, stated)
        if cued:
            return cued.pop() if len(cued) == 1 else None
        return _only(stated) or _conclusion(stated)

    def _mentions(self, text: str) -> list[_Mention]:
        """The labels in a text, each with whether it is stated."""
        mentions: list[_Mention] = []
        found = [match for match in self.label.finditer(text) if _apart(text, match)]
        if not found:
            return mentions
        denied = unknown = asked = neither = phrase = False
        turned = turns = 0
        sentence = 0  # the first mention of this sentence
        last = ""
        first, end = found[0].start(), found[-1].end()
        for event in self.events.finditer(text, max(text.rfind(sign, 0, first) for sign in SENTENCE_ENDS) + 1):
            kind = str(event.lastgroup)
            if kind == "label" and not _apart(text, event):
                kind = "word"
            elif kind == "label":
                mention = self._mention(text, event, mentions, denied, turned)
                opposed = (
                    denied
                    and mention.label in self.opposites
                    and DENIES.search(text, max(0, event.start() - 80), event.start())
                )
                mention.stated = not (unknown or asked) and (not mention.denied or bool(opposed))
                mentions.append(mention)
            elif kind in ("denial", "phrase"):
                denied = last in ("and", "or") or not denied  # a second one affirms: "not wrong to call it bullish"
                phrase = kind == "phrase" and not event["onward"]  # "with no sign that it is bullish" goes on
            elif kind == "verb":  # "a tweet with no opinion is neutral"
                denied, phrase = denied and not phrase, False
            elif kind == "neither":
                denied, neither, phrase = True, event[0] != "nor", False
            elif kind == "unknown":
                unknown = True
            elif kind == "asked":
                asked = True
            elif kind in ("turn", "arrow"):
                denied = unknown = asked = neither = False
                turned = turns = turns + 1
            elif kind in ("comma", "colon"):
                denied, asked = neither, False
                if kind == "colon":
                    turned = turns = turns + 1
            elif kind == "and":
                denied = denied and (phrase or last == "label")
            elif kind in ("question", "sentence"):
                if kind == "question" and last != "nothing" and not AGREED.match(text, event.end()):
                    for mention in mentions[sentence:]:
                        mention.stated = False
                denied = unknown = asked = neither = False
                turned, sentence = 0, len(mentions)
                if event.start() >= end:
                    break
            last = kind
        groups: dict[int, set[str]] = {}
        for mention in mentions:
            groups.setdefault(mention.group, set()).add(mention.label)
        for mention in mentions:
            mention.stated = mention.stated and len(groups[mention.group]) == 1
            if mention.stated and mention.denied:
                mention.label = self.opposites[mention.label]
        return mentions

    def _mention(
        self, text: str, event: re.Match[str], mentions: Sequence[_Mention], denied: bool, turned: int
    ) -> _Mention:
        start, end = event.span()
        group = len(mentions)
        noun = bool(NOUN.match(text, end))
        if mentions and _joined(text, mentions, start):
            between = text[mentions[-1].end : start]
            if not between.strip() and event[0].isdigit() and "\n" in between and text.startswith((":", ".", ")"), end):
                pass  # the number of a line
            elif event[0] == "no" and noun and not OR.search(between):
                pass  # "yes, no fracture"
            elif not mentions[-1].denied or denied or OR.search(between):  # "not bullish, bearish" is bearish
                group, denied = mentions[-1].group, denied or mentions[-1].denied
        denied = denied or bool(DENIED_AFTER.match(text, end))
        return _Mention(self.names[_spelling(event[0])], start, end, False, denied, turned, noun, group)

    def _likeliest(self, text: str) -> str | None:
        """The label with the largest number beside it, where two labels or more have one."""
        found = max((self._shares(text, pattern) for pattern in self.shares), key=len)
        largest = max(found.values(), default=0.0)
        best = [label for label, share in found.items() if share == largest]
        return best[0] if len(found) > 1 and len(best) == 1 else None

    def _shares(self, text: str, pattern: re.Pattern[str]) -> dict[str, float]:
        found: dict[str, str] = {}
        for match in pattern.finditer(text):
            found.setdefault(self.names[_spelling(match["label"])], match["share"])
        values = {label: YES_NO[s] if s in YES_NO else float(s.rstrip("% ")) for label, s in found.items()}
        # "bullish (1), bearish (2)" lists codes and "1. bullish" is a list: whole numbers are shares if they make 100.
        codes = any(share.isdigit() for share in found.values())
        return {} if codes and sum(values.values()) != 100 else values


def _apart(text: str, match: re.Match[str]) -> bool:
    """Whether a label is no part of a name such as "vitamin D", which only one letter can be."""
    if len(match[0]) > 1 or not match[0].isalpha() or re.match(f"[{UNSPACED}]", match[0]):
        return True
    return bool(BEFORE_LETTER.search(text, max(0, match.start() - 30), match.start()))


def _joined(text: str, mentions: Sequence[_Mention], start: int) -> bool:
    """Whether nothing but commas, "or" and the like is between the last mention and `start`."""
    last = mentions[-1]
    if not JOIN.fullmatch(text, last.end, start):
        return False
    of_a_line = (
        len(mentions) > 1 and mentions[-2].group == last.group and "\n" not in text[mentions[-2].end : last.start]
    )
    return not (of_a_line and "\n" in text[last.end : start])  # the line after a list of options is the answer


def _lead(text: str, stated: Sequence[_Mention]) -> str | None:
    first = stated[0]
    if first.noun or text[: first.start].strip(_EDGE):
        return None
    about = ABOUT.match(text, first.end)  # "bullish on oil and bearish on gold"
    others = (other.end for other in stated if other.label != first.label)
    return None if about and any(text.startswith(about[0], end) for end in others) else first.label


def _after_cues(text: str, stated: Sequence[_Mention]) -> set[str]:
    starts = {mention.start: mention.label for mention in stated}
    cues = [(bool(cue[1]), starts[cue.end()]) for cue in CUE.finditer(text) if cue.end() in starts]
    final = [label for is_final, label in cues if is_final]
    return set(final[-1:] or [label for _, label in cues])


def _only(stated: Iterable[_Mention]) -> str | None:
    found = {mention.label for mention in stated if not mention.noun}
    return found.pop() if len(found) == 1 else None


def _conclusion(stated: Sequence[_Mention]) -> str | None:
    last = max((mention.turned for mention in stated), default=0)
    return _only(mention for mention in stated if mention.turned == last) if last else None


def _plain(text: str) -> str:
    """Lower case, composed, without markup, tags, quotation marks and invisible characters."""
    if not text.isascii():
        text = "".join(c for c in unicodedata.normalize("NFKC", text) if unicodedata.category(c) != "Cf")
    text = _TAG.sub(" ", text) if "<" in text else text
    text = text.translate(_MARKUP).casefold()
    return _SPACES.sub(" ", _QUOTE.sub(" ", text) if "'" in text else text)


def _spelling(text: str) -> str:
    """One space for the hyphens, spaces and line breaks between words; "-1" keeps its sign."""
    return _BETWEEN.sub(" ", text.strip())


@lru_cache(64)
def _reader(labels: tuple[str, ...], descriptions: tuple[tuple[str, str], ...]) -> _Reader:
    names: dict[str, str] = {label: label for label in labels}
    spellings: dict[str, str] = {}
    opposites: dict[str, str] = {}
    for label in labels:
        spellings.setdefault(_spelling(_plain(label)) or label, label)
    for label in labels:  # "not toxic" says "non-toxic", where that is a label beside "toxic"
        denial, _, rest = _spelling(_plain(label)).partition(" ")
        if denial in ("non", "not", "no") and rest in spellings:
            opposites[spellings[rest]] = label
            for other in ("non", "not", "no"):
                spellings.setdefault(f"{other} {rest}", label)
    for label, description in descriptions:
        if label in names and (spelling := _spelling(_plain(description)).strip(_EDGE)):
            spellings.setdefault(spelling, label)
    patterns = [_pattern(name) for name in sorted(spellings, key=len, reverse=True) if re.search(r"\w", name)]
    label, share = f"(?P<label>{'|'.join(patterns) or '(?!)'})", SHARE
    if any(re.match(r"[-+]?\d", spelling) for spelling in spellings):
        share = share.replace(r"|\d+|", "|")  # "0, 1, 2" lists labels
    after = re.compile(rf"{label}\W{{0,6}}?{OF}{share}")
    before = re.compile(rf"(?<![\w.]){share}\W{{0,3}}{OF}{label}")
    return _Reader(
        spellings | names, opposites, re.compile(label), re.compile(f"{label} | {SCAN}", re.VERBOSE), (after, before)
    )


def _pattern(spelling: str) -> str:
    """A spelling as a whole word: no part of another word or number; a single letter is no article."""
    start = "" if re.match(f"[{UNSPACED}]", spelling) else r"(?<![\w'$])" if spelling[0].isalnum() else ""
    end = "" if re.match(f"[{UNSPACED}]", spelling[-1]) else r"(?![\w%])" if spelling[-1].isalnum() else ""
    start += r"(?<!out\sof\s)"  # "1 star out of 5 stars"
    if spelling == "no":
        end += r"(?!\s(?:\w+\s)?(?:idea|information|info|answer|way\sto|data|context|image|opinion|response|comment|doubt)\b)"
    if spelling[0].isdigit():
        start += r"(?<![-+])(?<!\d[.,])(?<!\d\sof\s)"
    if spelling[-1].isdigit():
        end += r"(?![.,]\d)"
    if len(spelling) == 1 and spelling.isalpha() and not re.match(f"[{UNSPACED}]", spelling):
        more = r"\(not\b" if spelling in "ai" else r"\(|(?:but|over|rather|than|would|seems|fits)\b"
        end += rf"(?=\s*(?:$|[\n.,;:!?)|/-]|(?:or|and|is|are|was|as|because|since)\b|{more}))"
    return start + r"[\s-]+".join(map(re.escape, spelling.split())) + end
