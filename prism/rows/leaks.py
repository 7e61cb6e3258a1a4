"""Leaks: held-out samples that have a twin among the training rows, so that a score may be memory.

Examples of text alone are twins by their question, as the task asks it, and the context that it is about, if any. *Exact*:
the same text. *Near*: the sets of five-character pieces of their words share at least `JACCARD` of their union (lower
case, without punctuation and without the lines that every question holds, which are the task's own). MinHash proposes
the pairs and the sets themselves decide, so no pair is reported that is none; on 5,000 × 7,619 tweets none was missed
either.

Examples with images are twins by image, since different images are asked the same questions. *Exact*: the same question
about the same file. *Near*: images whose perceptual hashes differ in at most `BITS` of 256, whatever is asked. A copy
compressed to JPEG quality 50 or halved in size differs in up to 8; of 315 radiographs no two differ in fewer than 70.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy

from prism.errors import DataError
from prism.rows import Example
from prism.rows.images import image_digests
from prism.store import digest, file_digest
from prism.store.provenance import versions

JACCARD = 0.8
BITS = 16
PIECE = 5  # characters
PERMUTATIONS = 128
SHOWN = 10  # pairs in the report; samples/*.jsonl names every sample's twin
BANDS = (32, 4)  # bands of so many hashes: proposes a pair of Jaccard .8 with probability 1 − 5e-8

Kind = Literal["exact", "near"]

_WORD = re.compile(r"\w+")


class Twin(NamedTuple):
    """A training row, by its place, and how like it is to the held-out sample: Jaccard, or the share of equal bits."""

    training: int
    similarity: float
    exact: bool


@dataclass(frozen=True)
class Leaks:
    """The nearest twin of each held-out sample that has one, by place, and the training rows that are someone's twin."""

    held_out: Mapping[int, Twin]
    exact: Sequence[int]
    near: Sequence[int]  # near, and no exact twin of any

    def rows(self, kind: Kind) -> set[int]:
        """The places of the training rows that `[data].dedupe` removes; "near" removes exact twins too."""
        return set(self.exact) | (set(self.near) if kind == "near" else set())

    def summary(self, training: Sequence[Example], held_out: Sequence[Example]) -> dict[str, Any]:
        """For the report: how many held-out samples have a twin, and the ids of the closest pairs. No text."""
        twins = sorted(self.held_out.items(), key=lambda item: (not item[1].exact, -item[1].similarity, item[0]))
        return {
            "held_out": len(held_out),
            "exact": sum(twin.exact for _, twin in twins),
            "near": sum(not twin.exact for _, twin in twins),
            "same_reference": sum(training[twin.training].reference == held_out[i].reference for i, twin in twins),
            "pairs": [{"held_out": held_out[i].id, **described(twin, training)} for i, twin in twins[:SHOWN]],
        }

    def to_json(self) -> dict[str, Any]:
        return asdict(self)

    @classmethod
    def from_json(cls, table: Mapping[str, Any]) -> Leaks:
        held_out = {int(place): Twin(*twin) for place, twin in table["held_out"].items()}
        return cls(held_out, table["exact"], table["near"])


def described(twin: Twin, training: Sequence[Example]) -> dict[str, Any]:
    return {"training": training[twin.training].id, "similarity": twin.similarity, "exact": twin.exact}


def identity(training: Sequence[Example], held_out: Sequence[Example]) -> dict[str, Any]:
    """What the outcome of `find_twins` depends on, beside this module."""
    return {
        "kind": "leaks",
        "rows": digest(
            [[[asked(example), image_digests(example)] for example in part] for part in (training, held_out)]
        ),
        "libraries": versions(["datasketch", "ImageHash", "pillow"]),
    }


def asked(example: Example) -> str:
    """The question with the context that it is about: the same one about another filing is another question."""
    return "\n".join(filter(None, (example.facts.get("context", ""), example.question)))


def find_twins(training: Sequence[Example], held_out: Sequence[Example]) -> Leaks:
    """Compare every held-out sample with every training row.

    Raises DataError for an image that cannot be read.
    """
    nearest: dict[int, Twin] = {}
    exact: set[int] = set()
    near: set[int] = set()
    for place, twin in (*_texts(training, held_out), *_images(training, held_out)):
        (exact if twin.exact else near).add(twin.training)
        known = nearest.get(place)
        if known is None or _closeness(twin) > _closeness(known):
            nearest[place] = twin
    return Leaks(dict(sorted(nearest.items())), sorted(exact), sorted(near - exact))


def leaking_places(pool: Sequence[Example], held_out: Sequence[Example], kind: Kind) -> set[int]:
    """The places of the training rows that `[data].dedupe` removes."""
    return find_twins(pool, held_out).rows(kind)


def _closeness(twin: Twin) -> tuple[bool, float, int]:
    return twin.exact, twin.similarity, -twin.training


def _texts(training: Sequence[Example], held_out: Sequence[Example]) -> Iterator[tuple[int, Twin]]:
    ours, theirs = _by_question(held_out), _by_question(training)
    if not ours or not theirs:
        return
    for text, places in ours.items():
        for row in theirs.get(text, ()):
            yield from ((place, Twin(row, 1.0, True)) for place in places)
    shared = _said_by_all([*theirs, *ours])
    pieces = lru_cache(1 << 14)(lambda text: _pieces(text, shared))
    for mine, other in _proposed(list(theirs), list(ours), pieces):
        similarity = len(pieces(mine) & pieces(other)) / len(pieces(mine) | pieces(other))
        if similarity >= JACCARD and mine != other:
            for place in ours[mine]:
                yield from ((place, Twin(row, round(similarity, 4), False)) for row in theirs[other])


def _by_question(examples: Sequence[Example]) -> dict[str, list[int]]:
    places: dict[str, list[int]] = {}
    for place, example in enumerate(examples):
        if not example.images:
            places.setdefault(asked(example), []).append(place)
    return places


def _said_by_all(texts: Sequence[str]) -> set[str]:
    return set(texts[0].splitlines()).intersection(*(text.splitlines() for text in texts))


def _pieces(text: str, shared: set[str]) -> frozenset[str]:
    """A text's set of pieces, never an empty one; `shared` are the lines that every question holds."""
    own = " ".join(line for line in text.splitlines() if line not in shared) or text
    # A text of pictographs alone has no words, and two such texts are not alike for that.
    words = " ".join(_WORD.findall(own.lower())) or own
    return frozenset(words[i : i + PIECE] for i in range(max(1, len(words) - PIECE + 1)))


def _proposed(
    training: Sequence[str], held_out: Sequence[str], pieces: Callable[[str], frozenset[str]]
) -> Iterator[tuple[str, str]]:
    """Pairs (held out, training) of texts that share a band of MinHash values."""
    from datasketch import MinHash, MinHashLSH

    def sketches(texts: Sequence[str]) -> Iterator[tuple[str, MinHash]]:
        encoded = ([piece.encode() for piece in pieces(text)] for text in texts)
        return zip(texts, MinHash.generator(encoded, num_perm=PERMUTATIONS))

    index = MinHashLSH(num_perm=PERMUTATIONS, params=BANDS)
    for text, sketch in sketches(training):
        index.insert(text, sketch)
    for text, sketch in sketches(held_out):
        yield from ((text, str(other)) for other in index.query(sketch))


def _images(training: Sequence[Example], held_out: Sequence[Example]) -> Iterator[tuple[int, Twin]]:
    ours, theirs = _by_image(held_out), _by_image(training)
    if not ours or not theirs:
        return
    hashes = numpy.array([_perceptual_hash(path) for path in theirs])
    others = list(theirs)
    for path, places in ours.items():
        differing = numpy.bitwise_count(hashes ^ _perceptual_hash(path)).sum(1)
        for i in numpy.flatnonzero(differing <= BITS):
            same_file = file_digest(path) == file_digest(others[i])
            for place in places:
                for row in theirs[others[i]]:
                    same = same_file and held_out[place].question == training[row].question
                    yield place, Twin(row, round(1 - int(differing[i]) / 256, 4), same)


def _by_image(examples: Sequence[Example]) -> dict[Path, list[int]]:
    places: dict[Path, list[int]] = {}
    for place, example in enumerate(examples):
        for path in example.images:
            places.setdefault(path, []).append(place)
    return places


def _perceptual_hash(path: Path) -> numpy.ndarray:
    """256 bits, packed into 32 bytes."""
    import imagehash
    from PIL import Image

    try:
        with Image.open(path) as picture:
            return numpy.packbits(imagehash.phash(picture, hash_size=16).hash)
    except (OSError, ValueError, Image.DecompressionBombError) as error:
        raise DataError(f"{path}: no image that can be read ({error}); restore the file or drop its row") from None
