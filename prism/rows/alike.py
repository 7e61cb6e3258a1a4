"""Finds texts that say the same: the same words, shuffled words, one text within another, or few edits.

Below `LONG` words one word makes another question ("cystinosis", "cystinuria"), so two short texts are alike only if their
words are the same, in any order from `SHUFFLED` words up, or if one stands in the other between ends of clauses: a
question with a sentence before or after it. Longer texts are alike, too, if the sets of their character 5-grams (shingles)
have a Jaccard similarity of at least `JACCARD`, or if `CONTAINED` of the shorter text's stand in the longer one; another
number or negation makes another text. MinHash and shared word 4-grams propose such pairs, and the sets decide.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import lru_cache
from typing import Literal, NamedTuple
from zlib import crc32

from prism.rows.folding import Text, read

LONG = 12  # words
SHUFFLED = 8  # words, from which on their order does not count; below, it may: process of a bone, bone of a process
SPOKEN = 5  # words, below which emoji say the rest
CLAUSE = 6  # different words of what is looked for in other texts ("@ann @ann" says little); a question needs two words
JACCARD = 0.8
CONTAINED = 0.9
SHINGLE_LENGTH = 5  # characters
PERMUTATIONS = 128
BANDS = (32, 4)  # bands, hashes a band: finds a pair of Jaccard .8 with probability 1 − 5e-8
GRAM = 4  # words
ANCHORS = 8  # 4-grams of a text that are looked for in others: all are missed with probability .1^8 at CONTAINED
CROWD = 200  # an anchor of more texts is a template's, and proposes nothing
NEGATIONS = frozenset(("not", "no", "never", "without", "cannot", "t"))  # "t" of "isn't"

Likeness = Literal["same words", "shuffled words", "contained", "similar"]


class Alike(NamedTuple):
    """The place of a training text, and how alike a held-out text is: 1, Jaccard or the share that is contained."""

    training: int
    similarity: float
    likeness: Likeness


def alike(training: Sequence[str], held_out: Sequence[str]) -> Iterator[tuple[int, Alike]]:
    """Each pair of a held-out and a training text that are alike, by their places. A pair may come more than once."""
    known, asked = [read(text) for text in training], [read(text) for text in held_out]
    yield from _same_words(known, asked)
    for mine, theirs in _clauses(asked, known):
        yield mine, Alike(theirs, 1.0, "contained")
    for theirs, mine in _clauses(known, asked):
        yield mine, Alike(theirs, 1.0, "contained")
    yield from _long(known, asked)


def _same_words(training: Sequence[Text], held_out: Sequence[Text]) -> Iterator[tuple[int, Alike]]:
    places = _by(training, _signature)
    for mine, text in enumerate(held_out):
        for theirs in places.get(_signature(text), ()) if text.words else ():
            same = text.words == training[theirs].words
            yield mine, Alike(theirs, 1.0, "same words" if same else "shuffled words")


def _signature(text: Text) -> tuple[object, ...]:
    """What two texts of the same words share. Signs count in short texts, emoji in very short ones."""
    n = len(text.words)
    words = text.words if n < SHUFFLED else tuple(sorted(text.words))
    return words, text.marks if n < LONG else None, text.pictures if n < SPOKEN else None


def _clauses(whole: Sequence[Text], longer: Sequence[Text]) -> Iterator[tuple[int, int]]:
    """Pairs of places: a short text of `whole`, and one of `longer` in which it stands between ends of clauses."""
    places = _by(whole, lambda text: text.words if len(text.words) < LONG else None)
    for at, text in enumerate(longer):
        for n, first in enumerate(text.ends):
            for last in text.ends[n + 1 :]:
                if last - first >= LONG:
                    break
                if last - first in (1, len(text.words)):
                    continue
                words = text.words[first:last]
                stated = len(set(words)) >= CLAUSE
                for place in places.get(words, ()):
                    if stated or (last in text.asked and len(words) in whole[place].asked):
                        yield place, at


def _long(training: Sequence[Text], held_out: Sequence[Text]) -> Iterator[tuple[int, Alike]]:
    known, asked = (
        {place: text for place, text in enumerate(part) if len(text.words) >= LONG and len(set(text.words)) >= CLAUSE}
        for part in (training, held_out)
    )
    if not known or not asked:
        return
    shingles = lru_cache(1 << 14)(_shingles)
    for mine, theirs in dict.fromkeys((*_by_minhash(known, asked, shingles), *_by_anchors(known, asked))):
        one, other = asked[mine], known[theirs]
        if not _same_facts(one, other):
            continue
        pieces, others = shingles(one.words), shingles(other.words)
        shared = len(pieces & others)
        jaccard, contained = shared / len(pieces | others), shared / min(len(pieces), len(others))
        if jaccard >= JACCARD:
            yield mine, Alike(theirs, round(jaccard, 4), "similar")
        elif contained >= CONTAINED:
            yield mine, Alike(theirs, round(contained, 4), "contained")


def _same_facts(one: Text, other: Text) -> bool:
    """Whether the shorter text has the numbers and negations of that part of the longer one that is like it."""
    shorter, longer = sorted((one.words, other.words), key=len)
    shared = set(grams(shorter))
    places = [place for place, gram in enumerate(grams(longer)) if gram in shared]
    part = longer[places[0] : places[-1] + GRAM] if places else ()
    return _facts(shorter) == _facts(part)


def _facts(words: Sequence[str]) -> set[str]:
    return {word for word in words if word in NEGATIONS or any(map(str.isdigit, word))}


def _shingles(words: Sequence[str]) -> frozenset[str]:
    text = " ".join(words)
    return frozenset(text[i : i + SHINGLE_LENGTH] for i in range(len(text) - SHINGLE_LENGTH + 1))


def grams(words: Sequence[str]) -> list[str]:
    """Each run of `GRAM` words."""
    return [" ".join(words[i : i + GRAM]) for i in range(len(words) - GRAM + 1)]


def _by_minhash(
    training: Mapping[int, Text], held_out: Mapping[int, Text], shingles: Callable[[tuple[str, ...]], frozenset[str]]
) -> Iterator[tuple[int, int]]:
    """Pairs of places, held out and training, of texts that share a band of MinHash values."""
    from datasketch import MinHash, MinHashLSH

    def minhashes(texts: Mapping[int, Text]) -> Iterator[tuple[int, MinHash]]:
        encoded = ([shingle.encode() for shingle in shingles(text.words)] for text in texts.values())
        return zip(texts, MinHash.generator(encoded, num_perm=PERMUTATIONS, hashfunc=crc32))

    index = MinHashLSH(num_perm=PERMUTATIONS, params=BANDS)
    for place, minhash in minhashes(training):
        index.insert(place, minhash)
    for place, minhash in minhashes(held_out):
        yield from ((place, int(other)) for other in sorted(index.query(minhash)))


def _by_anchors(training: Mapping[int, Text], held_out: Mapping[int, Text]) -> Iterator[tuple[int, int]]:
    """Pairs of places, held out and training, of texts of which one has an anchor of the other."""
    yield from _anchored(held_out, training)
    yield from ((mine, theirs) for theirs, mine in _anchored(training, held_out))


def _anchored(texts: Mapping[int, Text], longer: Mapping[int, Text]) -> Iterator[tuple[int, int]]:
    anchors: dict[str, list[int]] = {}
    for place, text in texts.items():
        for gram in sorted(set(grams(text.words)), key=lambda gram: (crc32(gram.encode()), gram))[:ANCHORS]:
            anchors.setdefault(gram, []).append(place)
    for other, text in longer.items():
        for gram in grams(text.words):
            places = anchors.get(gram, ())
            if len(places) <= CROWD:
                yield from ((place, other) for place in places if len(texts[place].words) <= len(text.words))


def _by(texts: Sequence[Text], key: Callable[[Text], object]) -> dict[object, list[int]]:
    """The places of the texts by their key."""
    places: dict[object, list[int]] = {}
    for place, text in enumerate(texts):
        places.setdefault(key(text), []).append(place)
    return places
