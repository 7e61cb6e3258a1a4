"""Reads the words of a text, whatever stands between a reader and them: case, punctuation, look-alikes, the invisible.

`fold` applies NFKC (full-width letters, ligatures, mathematical alphabets), removes Unicode's default-ignorable characters
(zero-width spaces and joiners, soft hyphens, direction marks), and writes Cyrillic, Greek and Armenian letters that look
like Latin ones as these. `read` splits a folded text into words and clauses.
"""

from __future__ import annotations

import unicodedata
from typing import NamedTuple

import regex

# Letter under letter, from Unicode's confusables.txt (UTS 39), and the small letters of capitals that it lists, so that
# Russian in capitals stays the same text. The Greek small mu is left out: 5 μg is not 5 mg. A table, since the package
# that carries the whole file (confusable_homoglyphs, 1 MB) has no function that folds.
_LOOK_ALIKES = str.maketrans(
    "АВЕЅІЈКМНОРСТУҮХавеѕіјкмнорстуүхԁԛԝһӏѵΑΒΕΖΗΙΚΜΝΟΡΤΥΧαβεζηικνορτυχγϲϳոսօցհՏՍՕɑɡıɩᴄᴏᴠᴡᴢꜱɪ",
    "ABESIJKMHOPCTYYXabesijkmhopctyyxdqwhivABEZHIKMNOPTYXabezhiknoptuxycjnuoghSUOagiicovwzsi",
)
_INVISIBLE = regex.compile(r"\p{Default_Ignorable_Code_Point}+")
_NO_SPACES = r"\p{Han}\p{Hiragana}\p{Katakana}\p{Thai}\p{Lao}\p{Khmer}\p{Myanmar}"  # each character counts as a word
_TOKEN = regex.compile(
    rf"(?P<word>(?:(?<!\w)-)?\d+(?:[.,]\d+)+|[{_NO_SPACES}]|(?:(?<!\w)-(?=\d))?[\w--[{_NO_SPACES}]]+(?:(?<=\p{{L}})[+#]+(?!\w))?)"
    r"|(?P<sentence>[.!](?=\s|\Z)|[。！？?\n])"
    r"|(?P<aside>\((?=[^()]*\)\s*(?:[.?!]|\Z)))"  # at the end of a sentence: an abbreviation, a synonym
    r"|(?P<clause>[;:|\[\]{}\"“”\p{So}]|\s[-–—]+\s|\.\.+)",
    regex.V1,
)
_PICTURE = regex.compile(r"\p{So}")
_MARK = regex.compile(r"\p{Sm}")
_EMPTY = frozenset(("a", "an", "the", "is", "are"))  # "what is", "what are the": the same question


class Text(NamedTuple):
    """The words of a text without articles, "is" and "are", in the singular; and where its clauses lie."""

    words: tuple[str, ...]
    ends: tuple[int, ...]  # 0 and the number of words before each end of a clause, ascending
    asked: frozenset[int]  # those of `ends` at a question mark, or at a bracket before one
    marks: frozenset[str]  # mathematical signs
    pictures: frozenset[str]  # emoji


def fold(text: str) -> str:
    if text.isascii():
        return text.casefold()
    visible = _INVISIBLE.sub("", unicodedata.normalize("NFKC", text))
    return unicodedata.normalize("NFKC", visible.translate(_LOOK_ALIKES).casefold())


def read(text: str) -> Text:
    folded = fold(text)
    words: list[str] = []
    ends, asked, asides = {0}, set[int](), set[int]()
    for token in _TOKEN.finditer(folded):
        if word := token["word"]:
            if word not in _EMPTY:
                words.append(_singular(word))
            continue
        ends.add(len(words))
        if token["aside"]:
            asides.add(len(words))
        elif mark := token["sentence"]:
            if mark in "?？":
                asked |= {len(words), *asides}
            asides.clear()
    marks, pictures = (frozenset(pattern.findall(folded)) for pattern in (_MARK, _PICTURE))
    return Text(tuple(words), tuple(sorted({*ends, len(words)})), frozenset(asked), marks, pictures)


def _singular(word: str) -> str:
    if word[0] == "-" or word[0].isdigit():
        return word.replace(",", "")
    return word[:-1] if len(word) > 4 and word[-1] == "s" and word[-2] not in "sui" else word
