"""Read the label of an answer where a person would read one: any closed set of labels, English around them.

A label counts where the answer states it. It does not count where it is

- denied: "not bullish", "far from bearish", "it would be wrong to call it bullish", "bullish is unlikely";
- asked, unknown or conceded: "is it bullish?", "hard to say, maybe bullish", "while it may seem bullish, …";
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

A thought before the answer is not read.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache

from prism.rows.thoughts import without_thoughts

_MARKUP = str.maketrans(dict.fromkeys('*_`~#"“”„«»[]{}\\', " ") | dict.fromkeys("’‘ʼ´", "'") | dict.fromkeys("−–", "-"))
_TAG = re.compile(r"</?[a-zA-Z][^<>]{0,40}>")
_SPACES = re.compile(r"[^\S\n]+")
_BETWEEN = re.compile(r"(?<=\S)[\s-]+(?=\S)")
_QUOTE = re.compile(r"(?<!\w)'|'(?!\w)")
_EDGE = " \t\r\n.,;:!()'|/-"  # of an answer that is a label; "bullish?" asks
_UNSPACED = "\u0e00-\u0eff\u3040-\u30ff\u3400-\u9fff"  # Thai, Lao, kana, Han: words without spaces between them

# What stands between labels, as one alternation; the first that fits at a place counts.
_EVENTS = r"""
  (?P<nothing>,\ (?:isn't\ it | right | huh | eh | correct)(?=\?)
    | no\ (?:doubt|question|wonder) | without\ (?:a\ |any\ )?(?:doubt|question) | not\ (?:only|just|merely)
    | nothing\ but | (?:can'?t|cannot|could\ ?n[o']?t)\ (?:help\ but|be\ more) | not\ to\ mention)\b
| (?P<unknown>(?:not|\w+n't|never)\ (?:\w+\ )?(?:sure|certain|clear|know) | unsure | uncertain | unclear | ambiguous
    | no\ (?:idea|way\ to\ (?:tell|know)) | (?:not\ enough|insufficient)\ (?:information|context|data)
    | depend(?:s|ing)?
    | (?:hard|difficult|impossible|tough|too\ \w+)\ to\ (?:say|tell|know|judge|decide|determine|classify|call|label)
    | (?:can'?t|cannot|can\ not|could\ ?n[o']?t|unable\ to|not\ able\ to|not\ possible\ to)\ (?:\w+ly\ )?(?:be\ )?
      (?:say|said|tell|told|know|judge|decide|determine|classif|assess|be\ sure)\w*)
| (?P<asked>whether | if | while | (?:even\ )?(?:al)?though | despite)\b
| (?P<turn>but | however | yet | so | therefore | thus | hence | overall | instead(?!\ of)
    | (?:in\ )?conclusion | i(?:'d|\ would)?\ (?:say|go|guess|lean|choose|pick))(?!\w) | (?P<arrow>=> | -+> | →)
| (?P<neither>neither | nor)\b
| (?P<denial>not | \w+n't | (?:is|are|was|were|do|does|did|would|could|should|ca|wo)nt | cannot | never
    | (?:non|anti)(?=\W)
    | none | nothing | nobody | no(?!\ (?:it|this|that|the|i|it's|not)\b) | hardly | barely | scarcely | without
    | far\ from | anything\ but | rather\ than | instead\ of | opposed\ to | (?:opposite|reverse)\ of | other\ than
    | than | except | avoid(?:ing)? | less | lack(?:s|ing)? | wrong | incorrect | mistak\w+ | inaccurate
    | inappropriate | misleading | false | untrue | unlikely | unable | doubt(?:s|ful)? | disagree\w* | den(?:y|ies|ied)
    | rul(?:es?|ed|ing)\ out
    | exclud\w+ | fail(?:s|ed)?\ to | a\ stretch
    | (?:refus|declin)\w+\ to\ (?:say|label|call|classify|rate|judge|give))\b
| (?P<and>and)\b
| (?P<or>or)\b
| (?P<question>\?)
| (?P<sentence>[.!](?=\s|$) | [;\n。！])
| (?P<colon>:)
| (?P<comma>[,()—] | \s-\s)
"""
_WORD = rf"[^\W_{_UNSPACED}]+"
# Most words begin like none of the above, and are passed over at once.
_STARTS = "|".join(sorted({word[:3] for word in re.findall("[a-z]{2,}", _EVENTS)}))
_OTHER = rf"(?P<other>(?!{_STARTS}|[ai]\b){_WORD}(?![\w']))"
_SCAN = rf"{_OTHER} | {_EVENTS} | (?P<word>{_WORD}(?:'\w+)?)"
_SENTENCE_ENDS = (". ", "! ", ".\n", "\n", ";", "?")
_JOIN = re.compile(
    r"(?:[\s\d,./|&+()=%、-]|:(?=\s*\d)|\b[a-h](?=\))|还是|或|\b(?:or|and|nor|to|vs|versus|just|either|a|an)\b)*"
)
_OR = re.compile(r"\b(?:or|nor|and)\b|[/|&]")
_NOUN = re.compile(  # a word after the label that it describes
    r"[ -](?!(?:because|since|as|due|on|for|and|or|nor|but|yet|in|with|given|about|is|are|was|than|to|at|by|of|if|though"
    r"|although|while|overall|here|now|rather|instead|not|so|however|sentiment|too|otherwise|that|it|this|when"
    r"|after)\b)[^\W\d_]"
)
_DENIED_AFTER = re.compile(
    r"(?:\s(?!because|since|as|and|or|but|so|if)\w+){0,2}?\s(?:is|are|was|be|seems|looks|it\sis)"
    r"(?:n't|\snot|\s(?:\w+\s)?(?:wrong|incorrect|unlikely|false"
    r"|inaccurate|inappropriate|mistak\w+|out\sof|ruled\sout|excluded))\b"
    r"|(?:\s\w+){0,2}?\s(?:does|do|would|can|could)(?:n't|not|\snot)\s(?:fit|apply|seem|be|hold|match|describe)\b"
    r"|\s*[:=]\s*(?:false|no)\b"
)
_ABOUT = re.compile(r" (?:on|in|for|if|until|about) ")
_AGREED = re.compile(r"\s*(?:yes|yep|yeah|absolutely|indeed|definitely|certainly|correct)\b")
_CUE = re.compile(
    r"\b(final\s+)?(?:answer|label|sentiment|classification|class|category|verdict|prediction|output|result|rating)\b"
    r"\s*(?:would\s+be|is|was|as|:|=|->|=>)[\s:'(]*(?:most\s+likely\s+|clearly\s+|probably\s+|the\s+|an?\s+)*"
)
_SHARE = r"(?P<share>\d*\.\d+\s*%?|\d+\s*%|\d+|true|false|yes|no)(?![\w%]|\.\d)"
_OF = (
    r"(?:(?:is|was|are|score|probability|prob|confidence|likelihood|chance|with|at|about|of|an?|p|that|it|likely"
    r"|sure|certain|confident|being|be|for|to)\W{1,4}){0,5}"
)
_YES_NO = {"true": 1.0, "yes": 1.0, "false": 0.0, "no": 0.0}


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
        found = list(self.label.finditer(text))
        if not found:
            return mentions
        denied = unknown = asked = neither = False
        turned = turns = 0
        sentence = 0  # the first mention of this sentence
        last = ""
        first, end = found[0].start(), found[-1].end()
        for event in self.events.finditer(text, max(text.rfind(sign, 0, first) for sign in _SENTENCE_ENDS) + 1):
            kind = str(event.lastgroup)
            if kind == "label":
                mention = self._mention(text, event, mentions, denied, turned)
                mention.stated = not (mention.denied or unknown or asked)
                mentions.append(mention)
            elif kind == "denial":
                denied = last in ("and", "or") or not denied  # a second one affirms: "not wrong to call it bullish"
            elif kind == "neither":
                denied, neither = True, event[0] == "neither"
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
                denied = denied and last == "label"
            elif kind in ("question", "sentence"):
                if kind == "question" and last != "nothing" and not _AGREED.match(text, event.end()):
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
        return mentions

    def _mention(
        self, text: str, event: re.Match[str], mentions: Sequence[_Mention], denied: bool, turned: int
    ) -> _Mention:
        start, end = event.span()
        group = len(mentions)
        if mentions and _joined(text, mentions, start):
            between = text[mentions[-1].end : start]
            if not mentions[-1].denied or denied or _OR.search(between):  # "not bullish, bearish" is bearish
                group, denied = mentions[-1].group, denied or mentions[-1].denied
        denied = denied or bool(_DENIED_AFTER.match(text, end))
        noun = bool(_NOUN.match(text, end))
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
        values = {label: _YES_NO[s] if s in _YES_NO else float(s.rstrip("% ")) for label, s in found.items()}
        # "bullish (1), bearish (2)" lists codes and "1. bullish" is a list: whole numbers are shares if they make 100.
        codes = any(share.isdigit() for share in found.values())
        return {} if codes and sum(values.values()) != 100 else values


def _joined(text: str, mentions: Sequence[_Mention], start: int) -> bool:
    """Whether nothing but commas, "or" and the like is between the last mention and `start`."""
    last = mentions[-1]
    if not _JOIN.fullmatch(text, last.end, start):
        return False
    of_a_line = (
        len(mentions) > 1 and mentions[-2].group == last.group and "\n" not in text[mentions[-2].end : last.start]
    )
    return not (of_a_line and "\n" in text[last.end : start])  # the line after a list of options is the answer


def _lead(text: str, stated: Sequence[_Mention]) -> str | None:
    first = stated[0]
    if first.noun or text[: first.start].strip(_EDGE):
        return None
    about = _ABOUT.match(text, first.end)  # "bullish on oil and bearish on gold"
    others = (other.end for other in stated if other.label != first.label)
    return None if about and any(text.startswith(about[0], end) for end in others) else first.label


def _after_cues(text: str, stated: Sequence[_Mention]) -> set[str]:
    starts = {mention.start: mention.label for mention in stated}
    cues = [(bool(cue[1]), starts[cue.end()]) for cue in _CUE.finditer(text) if cue.end() in starts]
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
    for label in labels:
        spellings.setdefault(_spelling(_plain(label)) or label, label)
    for label in labels:  # "not toxic" says "non-toxic", where that is a label beside "toxic"
        denial, _, rest = _spelling(_plain(label)).partition(" ")
        if denial in ("non", "not", "no") and rest in spellings:
            for other in ("non", "not", "no"):
                spellings.setdefault(f"{other} {rest}", label)
    for label, description in descriptions:
        if label in names and (spelling := _spelling(_plain(description)).strip(_EDGE)):
            spellings.setdefault(spelling, label)
    patterns = [_pattern(name) for name in sorted(spellings, key=len, reverse=True) if re.search(r"\w", name)]
    label, share = f"(?P<label>{'|'.join(patterns) or '(?!)'})", _SHARE
    if any(re.match(r"[-+]?\d", spelling) for spelling in spellings):
        share = share.replace(r"|\d+|", "|")  # "0, 1, 2" lists labels
    after = re.compile(rf"{label}\W{{0,6}}?{_OF}{share}")
    before = re.compile(rf"(?<![\w.]){share}\W{{0,3}}{_OF}{label}")
    return _Reader(spellings | names, re.compile(label), re.compile(f"{label} | {_SCAN}", re.VERBOSE), (after, before))


def _pattern(spelling: str) -> str:
    """A spelling as a whole word: no part of another word or number; a single letter is no article."""
    start = "" if re.match(f"[{_UNSPACED}]", spelling) else r"(?<![\w'$])" if spelling[0].isalnum() else ""
    end = "" if re.match(f"[{_UNSPACED}]", spelling[-1]) else r"(?![\w%])" if spelling[-1].isalnum() else ""
    if spelling[0].isdigit():
        start += r"(?<![-+])(?<!\d[.,])"
    if spelling[-1].isdigit():
        end += r"(?![.,]\d)"
    if len(spelling) == 1 and spelling.isalpha() and not re.match(f"[{_UNSPACED}]", spelling):
        end += r"(?=\s*(?:$|[\n.,;:!?)|/-]|(?:or|and|is|because|since)\b))"
    return start + r"[\s-]+".join(map(re.escape, spelling.split())) + end
