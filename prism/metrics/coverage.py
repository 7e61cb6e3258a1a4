"""Tier 2: how well the domain terms of an answer are those of its reference, as F1.

Recall is the share of the reference's terms that the answer names, precision the share of the answer's terms that are
the reference's. Without precision the 14 most common terms of any lexicon were the best answer to every question
(measured on 504 flashcards: recall .175 where a tuned model had .133; F1 .051 against .133). An answer that names both of
two terms and a further right one that the reference lacks still gets .8. What the answer names besides in the same
words is not held against it: the terms of the question, what a named term is a kind of, and a term that is made of
named ones.

A lexicon is a text file with one concept per line: `myocardial infarction = heart attack = MI`; `#` starts a comment. A
term counts as named even if it is negated: "no fever" names fever. How a text is searched for the lexicon's forms:

- Whole words, the longest form first: "blood" is not in "blood pressure" if the lexicon has both. A hyphen equals a
  space, accents and possessives are ignored.
- In an answer, a term also names the terms in it that are its last words, which name its kind ("high blood pressure"
  is a blood pressure), or all of them if it is a synonym of a term in the question: for "What is myalgia?", "muscle
  pain" names muscle.
- All-capital forms are case-sensitive (AIDS is not "aids", OR is not "or"), others are not.
- The last word, and the one before "of", may be inflected: regular, Latin and Greek plurals, and the three adjectives
  that cannot be another word (-emic, -itic, -rotic). The lexicon must list other adjectives (renal, arterial) as
  synonyms. Write forms in the singular: a plural form matches only as written ("hives" is not "hive").

Terms in the question do not count: an answer that echoes "What is a stroke?" has not said anything yet.
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
from prism.metrics.overlap import is_unread
from prism.rows import Example
from prism.store import digest, file_digest

LEXICONS = Path(__file__).parent / "lexicons"
NAME = "keyword_coverage"
READING = 4  # raise it if the same lexicon finds other terms, or they are scored otherwise

_POSSESSIVE = re.compile(r"['’]s\b", re.IGNORECASE)
_WORD = re.compile(r"[^\W_]+")
# Each is tried on the end of a word. Many results are not words, which is harmless; "colon → cola", "narcosis →
# narcotic", "academia → academic" and "pus → pi" would not be, hence the narrow endings.
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
        """The concepts that a text names, each once, in order of first mention."""
        return tuple(dict.fromkeys(form.concept for form in _find(self, tuple(_words(text)))))

    def named(self, answer: str, given: Sequence[str] = ()) -> set[str]:
        """The concepts that an answer names, what they are kinds of, and the parts of forms of the `given` concepts."""
        concepts: set[str] = set()
        queue = list(_find(self, tuple(_words(answer))))
        while queue:
            form = queue.pop()
            concepts.add(form.concept)
            parts = self._parts(form)
            queue += [part for part in parts if form.concept in given or part.words == form.words[-len(part.words) :]]
        return concepts

    def invented(self, answer: str, known: Collection[str]) -> list[str]:
        """The concepts of an answer that are not `known`, nor part or made of known ones ("lung cancer": lung, cancer)."""
        parts_of = {
            form.concept: {part.concept for part in self._parts(form)} for form in _find(self, tuple(_words(answer)))
        }
        known = {*known}.union(*(parts for concept, parts in parts_of.items() if concept in known))
        return [
            concept for concept, parts in parts_of.items() if concept not in known and not (parts and parts <= known)
        ]

    def _parts(self, form: Form) -> list[Form]:
        """The forms inside a form."""
        return [*_find(self, tuple(form.words[1:])), *_find(self, tuple(form.words[:-1]))]


@lru_cache(1 << 16)
def _find(lexicon: Lexicon, words: tuple[str, ...]) -> tuple[Form, ...]:
    lowered = [word.lower() for word in words]
    forms = []
    i = 0
    while i < len(words):
        for form in lexicon.forms.get(lowered[i], ()):
            if list((words if form.exact else lowered)[i : i + len(form.words)]) == form.words:
                forms.append(form)
                i += len(form.words)
                break
        else:
            i += 1
    return tuple(forms)


def _words(text: str) -> list[str]:
    if not text.isascii():
        text = "".join(c for c in unicodedata.normalize("NFKD", text) if not unicodedata.combining(c))
    return _WORD.findall(_POSSESSIVE.sub("", text))


@cache
def load_lexicon(path: Path) -> Lexicon:
    """Read a lexicon.

    Raises DataError, with file and line, if a form is empty or names two concepts, or if there is no concept or file.
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
        raise DataError(f"{path.name}: contains no concept; write one per line, canonical = synonym = ABBREVIATION")
    forms: dict[str, list[Form]] = {}
    for words, concept in (inflections | concepts).items():  # written forms override inflected ones
        exact = any(word != word.lower() for word in words)
        forms.setdefault(words[0].lower(), []).append(Form(list(words), exact, concept))
    for same_start in forms.values():
        same_start.sort(key=lambda form: (-len(form.words), not form.exact))
    return Lexicon(forms)


def _concepts(path: Path) -> Iterator[tuple[int, list[str]]]:
    """The line number and names of each concept."""
    try:
        text = path.read_text(encoding="utf-8-sig")
    except OSError:
        available = ", ".join(sorted(file.stem for file in path.parent.glob("*.txt"))) or "none"
        raise DataError(f"{path.name}: no such lexicon in {path.parent.name}/; there are: {available}") from None
    except UnicodeDecodeError as error:
        raise DataError(f"{path.name}: byte {error.start} is not UTF-8; save the file as UTF-8") from None
    for number, line in enumerate(text.splitlines(), start=1):
        concept = line.partition("#")[0].strip()
        if concept:
            yield number, [name.strip() for name in concept.split("=")]


def _form(name: str) -> tuple[str, ...]:
    """The words of a name in the lexicon: as written if the name is all capitals, else in lower case."""
    return tuple(_words(name if name.isupper() else name.lower()))


def _inflected(name: str) -> Iterator[tuple[str, ...]]:
    """The other spellings of a name."""
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
    """The concepts that an answer must name: those of the reference that are not in the question.

    None of a reference in another script than the lexicon's: of a Chinese one only Latin abbreviations would be asked for.
    """
    if is_unread(example.reference):
        return []
    given = lexicon.find(example.question)
    return [concept for concept in lexicon.find(example.reference) if concept not in given]


def missing(lexicon: Lexicon, examples: Sequence[Example], answers: Sequence[str]) -> list[list[str]]:
    """The concepts that each answer should have named but did not."""
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
    """Keyword coverage by a lexicon, such as `LEXICONS / "medical.txt"`: F1 of the required concepts.

    A sample without required concepts is unscored.
    """

    def coverage(example: Example, answer: str) -> float:
        lexicon = load_lexicon(path)
        asked = asked_for(lexicon, example)
        if not asked:
            return numpy.nan
        given = lexicon.find(example.question)
        named = len(asked) - len(_lacking(lexicon, example, answer, asked))
        wrong = len(lexicon.invented(answer, {*given, *lexicon.named(example.reference, given)}))
        return 2 * named / (len(asked) + named + wrong)

    beside = "controls and shuffled references"
    return per_sample(NAME, "tier2", coverage, beside=beside, version=_version(path))


def _version(path: Path) -> int:
    """A digest of the lexicon and of how it is read, since a change of either changes the scores."""
    if not path.is_file():
        return 0  # load_lexicon() raises the error
    return int(digest([READING, file_digest(path)])[:8], 16)
