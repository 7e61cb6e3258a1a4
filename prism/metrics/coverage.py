"""Tier 2: of the domain's terms that the reference names, the share that the answer names too.

A lexicon is a text file, one concept a line: `myocardial infarction = heart attack = MI`; `#` starts a comment. A term
counts as named, never as asserted: "no fever" names fever. How a form of the lexicon is looked for in a text:

- Whole words, the longest form first: "blood" is not in "blood pressure" where the lexicon knows both. Hyphen and space
  are the same, accents and possessives count for nothing.
- Of an answer more is read: "high blood pressure" is a blood pressure, too (a term's last words name what it is a kind
  of), and a synonym of what the question asks about is looked through: to "What is myalgia?", "muscle pain" names muscle.
- All-capital forms are case-sensitive (AIDS is not "aids", OR is not "or"), others are not.
- The last word, and the one before "of", may be inflected: regular, Latin and Greek plurals, and the three adjectives
  that cannot be another word (-emic, -itic, -rotic). Other adjectives (renal, arterial) are synonyms for the lexicon to
  list. Write forms in the singular: a plural form is found as it stands ("hives" is not "hive").

Terms that the question gives away do not count: an answer that echoes "What is a stroke?" has not yet said anything.
"""

from __future__ import annotations

import re
import unicodedata
from collections import Counter
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache, lru_cache
from pathlib import Path
from typing import NamedTuple

import numpy

from prism.errors import DataError
from prism.metrics import Metric, per_sample
from prism.rows import Example
from prism.store import digest, file_digest

LEXICONS = Path(__file__).parent / "lexicons"
READING = 2  # raise it when the same lexicon finds other terms

_POSSESSIVE = re.compile(r"['’]s\b", re.IGNORECASE)
_WORD = re.compile(r"[^\W_]+")
# Each is tried on the end of a word. Many of the words made are no words at all, which does no harm; "colon → cola",
# "narcosis → narcotic", "academia → academic" and "pus → pi" would: hence the narrow endings.
_INFLECTIONS = [
    (re.compile(ending + "$"), inflected)
    for ending, inflected in (
        ("(?<=[^s])", "s"),
        ("(?:(?<=[sxzo])|(?<=[cs]h))", "es"),
        ("(?<=[^aeiou])y", "ies"),
        ("fe?", "ves"),
        (r"(?<=\w{3})a", "ae"),
        ("(?<=m)a", "ata"),
        (r"(?<=\w{3})us", "i"),
        (r"(?<=\w{3})um", "a"),
        ("(?<=i)on", "a"),
        ("is", "es"),
        ("is", "ides"),
        ("[ei]x", "ices"),
        ("(?<=a)x", "ces"),
        ("(?<=n)x", "ges"),
        ("(?<=m)en", "ina"),
        ("(?<=em)ia", "ic"),
        ("(?<=it)is", "ic"),
        ("(?<=ro)sis", "tic"),
    )
]


class Form(NamedTuple):
    words: list[str]
    exact: bool  # case-sensitive; the words of other forms are lower-case
    concept: str


@dataclass(frozen=True, eq=False)
class Lexicon:
    """The forms of every concept, by their first word in lower case, longest first."""

    forms: Mapping[str, Sequence[Form]]

    def find(self, text: str) -> tuple[str, ...]:
        """The concepts that a text names, each once, in the order of their first mention."""
        return tuple(dict.fromkeys(form.concept for form in _find(self, tuple(_words(text)))))

    def named(self, answer: str, given: Sequence[str] = ()) -> set[str]:
        """The concepts that an answer names: also what they are kinds of, and what forms of the `given` are made of."""
        found: set[str] = set()
        left = list(_find(self, tuple(_words(answer))))
        while left:
            form = left.pop()
            found.add(form.concept)
            parts = self._parts(form)
            left += [part for part in parts if form.concept in given or part.words == form.words[-len(part.words) :]]
        return found

    def invented(self, answer: str, known: Collection[str]) -> list[str]:
        """The concepts of an answer that are not `known`, nor made of known ones: "lung cancer", for a cancer of the lung."""
        found = {
            form.concept: {part.concept for part in self._parts(form)} for form in _find(self, tuple(_words(answer)))
        }
        return [
            concept for concept, parts in found.items() if concept not in known and not (parts and parts <= {*known})
        ]

    def _parts(self, form: Form) -> list[Form]:
        """The forms inside a form."""
        return [*_find(self, tuple(form.words[1:])), *_find(self, tuple(form.words[:-1]))]


@lru_cache(1 << 16)
def _find(lexicon: Lexicon, written: tuple[str, ...]) -> tuple[Form, ...]:
    lowered = [word.lower() for word in written]
    found = []
    at = 0
    while at < len(written):
        for form in lexicon.forms.get(lowered[at], ()):
            if list(written if form.exact else lowered)[at : at + len(form.words)] == form.words:
                found.append(form)
                at += len(form.words)
                break
        else:
            at += 1
    return tuple(found)


def _words(text: str) -> list[str]:
    if not text.isascii():
        text = "".join(c for c in unicodedata.normalize("NFKD", text) if not unicodedata.combining(c))
    return _WORD.findall(_POSSESSIVE.sub("", text))


@cache
def load_lexicon(path: Path) -> Lexicon:
    """Read a lexicon.

    Raises DataError, with file and line, for a form that is empty or names two concepts, and where there is none.
    """
    concepts: dict[tuple[str, ...], str] = {}
    inflections: dict[tuple[str, ...], str] = {}
    for number, names in _concepts(path):
        for name in names:
            words = _form(name)
            if not words:
                raise DataError(f"{path.name}:{number}: {name!r} has no letter or digit; delete it, or one of the '='")
            if concepts.setdefault(words, names[0]) != names[0]:
                raise DataError(
                    f"{path.name}:{number}: {name!r} already names {concepts[words]!r}; a form can name one concept"
                )
            inflections |= dict.fromkeys(_inflected(name), names[0])
    if not concepts:
        raise DataError(f"{path.name}: holds no concept; write one a line, canonical = synonym = ABBREVIATION")
    forms: dict[str, list[Form]] = {}
    for words, concept in (inflections | concepts).items():  # what is written out wins over what an ending makes
        exact = any(word != word.lower() for word in words)
        forms.setdefault(words[0].lower(), []).append(Form(list(words), exact, concept))
    for same_start in forms.values():
        same_start.sort(key=lambda form: (-len(form.words), not form.exact))
    return Lexicon(forms)


def _concepts(path: Path) -> Iterator[tuple[int, list[str]]]:
    """Line number and names of each concept."""
    try:
        text = path.read_text(encoding="utf-8-sig")
    except OSError:
        there = ", ".join(sorted(file.stem for file in path.parent.glob("*.txt"))) or "none"
        raise DataError(f"{path.name}: no such lexicon in {path.parent.name}/; there are: {there}") from None
    except UnicodeDecodeError as error:
        raise DataError(f"{path.name}: byte {error.start} is not UTF-8; save the file as UTF-8") from None
    for number, line in enumerate(text.splitlines(), start=1):
        concept = line.partition("#")[0].strip()
        if concept:
            yield number, [name.strip() for name in concept.split("=")]


def _form(name: str) -> tuple[str, ...]:
    """The words that stand for a name in the lexicon: as written for an all-capital name, else in lower case."""
    return tuple(_words(name if name.isupper() else name.lower()))


def _inflected(name: str) -> Iterator[tuple[str, ...]]:
    """The other ways in which a name may be written."""
    if name.isupper():
        *start, last = _form(name)
        yield *start, last + "s"  # MIs, ECGs
        return
    for spelling in {name, name.replace("-", ""), re.sub(r"['’]s\b", "s", name)}:
        words = _form(spelling)
        yield words
        heads = {len(words) - 1, words.index("of") - 1 if "of" in words[1:] else len(words) - 1}
        for head in heads:
            for ending, inflected in _INFLECTIONS:
                if len(words[head]) > 2 and ending.search(words[head]):
                    yield *words[:head], ending.sub(inflected, words[head]), *words[head + 1 :]


def asked_for(lexicon: Lexicon, example: Example) -> list[str]:
    """The concepts that an answer has to name: those of the reference that the question does not give away."""
    given = lexicon.find(example.question)
    return [concept for concept in lexicon.find(example.reference) if concept not in given]


def missing(lexicon: Lexicon, examples: Sequence[Example], answers: Sequence[str]) -> list[list[str]]:
    """The concepts that each answer should have named and did not."""
    return [
        _lacking(lexicon, example, answer, asked_for(lexicon, example)) for example, answer in zip(examples, answers)
    ]


def _lacking(lexicon: Lexicon, example: Example, answer: str, asked: Sequence[str]) -> list[str]:
    named = lexicon.named(answer, lexicon.find(example.question))
    return [concept for concept in asked if concept not in named]


def most_missed(
    lexicon: Lexicon, examples: Sequence[Example], answers: Sequence[str], limit: int = 20
) -> list[dict[str, str | int]]:
    """The concepts that most answers lack: how many should have named each, and how many did not."""
    asked = Counter(concept for example in examples for concept in asked_for(lexicon, example))
    missed = Counter(concept for concepts in missing(lexicon, examples, answers) for concept in concepts)
    ranked = sorted(missed, key=lambda concept: (-missed[concept], concept))
    return [{"term": concept, "asked": asked[concept], "missed": missed[concept]} for concept in ranked[:limit]]


def metric(path: Path) -> Metric:
    """Keyword coverage by one lexicon, `LEXICONS / "medical.txt"` for example: the share of the asked concepts named.

    A reference that asks for no concept is unscored.
    """

    def coverage(example: Example, answer: str) -> float:
        lexicon = load_lexicon(path)
        asked = asked_for(lexicon, example)
        lacking = _lacking(lexicon, example, answer, asked)
        return (len(asked) - len(lacking)) / len(asked) if asked else numpy.nan

    beside = "controls and shuffled references"
    return per_sample("keyword_coverage", "tier2", coverage, beside=beside, version=_version(path))


def _version(path: Path) -> int:
    """The lexicon's own digest, and how it is read: either gives the same answers other scores."""
    return (
        int(digest([READING, file_digest(path)])[:8], 16) if path.is_file() else 0
    )  # if missing, load_lexicon() says so
