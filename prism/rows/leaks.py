"""Finds leaks: held-out samples whose score may be memorization, since the training rows hold their like.

A *twin* asks the same. Texts are twins by question (as the task asks it, without what all questions share, its prompt) and
context, if any: both must be alike. *Exact*: the same text. *Near*: `prism.rows.alike` says how. The same question about
another filing is no twin; another question about the same filing is none either, and is named as a shared context.

An *answer* leaks if the words of the reference stand in the reference of a training row, from `ANSWER` words up and
whatever was asked. One that more than `CLOSED` of the training rows give is a canned answer or a label, and no leak.

Examples with images are compared by image, since different images get the same questions. *Exact*: the same question
about the same file. *Near*: perceptual hashes that differ in at most `MAX_BITS` of 256, for any question. A copy with
JPEG quality 50 or half the size differs in up to 8 bits; no two of 315 radiographs differ in fewer than 70.

What compares texts is imported where they are compared: most runs know what leaks.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import cache
from os.path import commonprefix
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy

from prism.errors import DataError
from prism.progress import Progress
from prism.rows import Example
from prism.rows.images import image_digests
from prism.store import file_digest, list_digest
from prism.store.provenance import versions

ANSWER = 5  # words
CLOSED = 0.05  # of the training rows, and more than `CANNED` of them
CANNED = 10
PROMPT = 5  # words that all questions begin or end with; "What is" belongs to the question
MANY = 20  # different questions; what fewer have in common may be chance
MAX_BITS = 16
SHOWN = 10  # twins in the report, and as many answers; samples/*.jsonl has those of every sample

Kind = Literal["exact", "near"]
Remember = Callable[[Mapping[str, Any], Callable[[], Any]], Any]


class Twin(NamedTuple):
    """The index of a training row, its similarity to the held-out sample, and how it is like it.

    `similarity` is 1, a Jaccard similarity, the share of the shorter text that is contained, or the share of equal bits.
    `likeness` is "exact", "same picture" or one of `prism.rows.alike`.
    """

    training: int
    similarity: float
    likeness: str

    @property
    def exact(self) -> bool:
        return self.likeness == "exact"


@dataclass(frozen=True)
class Leaks:
    """What the training rows tell of held-out samples, which stand here by index."""

    held_out: Mapping[int, Twin]  # the nearest twin
    exact: Sequence[int]  # training rows that are an exact twin of any sample
    near: Sequence[int]  # those that are a near twin and no exact one
    answers: Mapping[int, int]  # the first training row whose answer holds that of the sample
    contexts: Mapping[int, int]  # the first training row with the context of a sample that has no twin

    @property
    def leaked(self) -> set[int]:
        """The held-out samples that may be known by heart: those with a twin, or with an answer that stands in training."""
        return {*self.held_out, *self.answers}

    def rows(self, kind: Kind) -> set[int]:
        """The indices of the training rows that `[data].dedupe` removes; "near" removes exact twins too.

        A row that only shares an answer or a context stays: it asks something else.
        """
        return set(self.exact) | (set(self.near) if kind == "near" else set())

    def summary(self, training: Sequence[Example], held_out: Sequence[Example]) -> dict[str, Any]:
        """For the report: the number of held-out samples that leak, by kind, and the ids of the closest pairs. No text."""
        twins = sorted(self.held_out.items(), key=lambda item: (not item[1].exact, -item[1].similarity, item[0]))
        answers = [(i, Twin(row, 1.0, "answer")) for i, row in self.answers.items() if i not in self.held_out]
        return {
            "held_out": len(held_out),
            "exact": sum(twin.exact for _, twin in twins),
            "near": sum(not twin.exact for _, twin in twins),
            "kinds": dict(Counter(twin.likeness for _, twin in twins if not twin.exact).most_common()),
            "answers": len(self.answers),
            "answers_only": len(answers),
            "contexts": len(self.contexts),
            "same_reference": sum(training[twin.training].reference == held_out[i].reference for i, twin in twins),
            "pairs": [
                {"held_out": held_out[i].id, **_described(twin, training)}
                for i, twin in (*twins[:SHOWN], *answers[:SHOWN])
            ],
        }

    def by_id(self, training: Sequence[Example], held_out: Sequence[Example]) -> dict[str, dict[str, Any]]:
        """For samples/*.jsonl: the training rows that each sample is like, by the sample's id."""
        told: dict[str, dict[str, Any]] = {}
        for i, twin in self.held_out.items():
            told.setdefault(held_out[i].id, {})["twin"] = _described(twin, training)
        for name, rows in (("answer_in", self.answers), ("context_in", self.contexts)):
            for i, row in rows.items():
                told.setdefault(held_out[i].id, {})[name] = training[row].id
        return told

    def to_json(self) -> dict[str, Any]:
        return asdict(self)

    @classmethod
    def from_json(cls, table: Mapping[str, Any]) -> Leaks:
        held_out = {int(index): Twin(*twin) for index, twin in table["held_out"].items()}
        answers, contexts = ({int(i): row for i, row in table[name].items()} for name in ("answers", "contexts"))
        return cls(held_out, table["exact"], table["near"], answers, contexts)


def _described(twin: Twin, training: Sequence[Example]) -> dict[str, Any]:
    return {"training": training[twin.training].id, "similarity": twin.similarity, "kind": twin.likeness}


def identity(training: Sequence[Example], held_out: Sequence[Example]) -> dict[str, Any]:
    """What the result of `find_twins` depends on, besides this package's source."""
    return {
        "kind": "leaks",
        "rows": [
            list_digest([*_compared(example), example.reference, image_digests(example)] for example in part)
            for part in (training, held_out)
        ],
        "libraries": versions(["datasketch", "ImageHash", "pillow", "regex"]),
    }


def remembered(
    training: Sequence[Example], held_out: Sequence[Example], remember: Remember, name: str, screen: Progress
) -> Leaks:
    """`find_twins`, looked for once for the same rows; `name` is the spec's, for the `screen`."""
    if not training:
        return Leaks({}, [], [], {}, {})

    def compute() -> dict[str, Any]:
        what = f"leaks, {len(held_out):,} held-out samples against {len(training):,} training rows"
        with screen.progress(f"{name}: {what}"):
            return find_twins(training, held_out).to_json()

    return Leaks.from_json(remember(identity(training, held_out), compute))


def _compared(example: Example) -> tuple[str, str]:
    return str(example.facts.get("context", "")), example.question


def find_twins(training: Sequence[Example], held_out: Sequence[Example]) -> Leaks:
    """Compare every held-out sample with every training row. Raises DataError if an image cannot be read."""
    nearest: dict[int, Twin] = {}
    exact: set[int] = set()
    near: set[int] = set()
    contexts = _like_contexts(training, held_out)
    for indices, rows, twin in (*_text_twins(training, held_out, contexts), *_image_twins(training, held_out)):
        (exact if twin.exact else near).update(rows)
        for index in indices:
            current = nearest.get(index)
            if current is None or _closeness(twin) > _closeness(current):
                nearest[index] = twin
    answers = dict(_answers(training, held_out, contexts))
    shared = {i: row for i, row in _shared_contexts(training, held_out, contexts) if i not in nearest}
    return Leaks(dict(sorted(nearest.items())), sorted(exact), sorted(near - exact), answers, shared)


def leaking_places(pool: Sequence[Example], held_out: Sequence[Example], kind: Kind) -> set[int]:
    """The indices of the training rows that `[data].dedupe` removes."""
    return find_twins(pool, held_out).rows(kind)


def _closeness(twin: Twin) -> tuple[bool, float, int]:
    return twin.exact, twin.similarity, -twin.training


Pairs = Mapping[str, Mapping[str, tuple[float, str]]]  # held-out text → training text → similarity and likeness


def _pairs(training: Iterable[str], held_out: Iterable[str], own: Mapping[str, str]) -> Pairs:
    """The texts that are the same or alike. `own` holds what to compare in a text's place, if not all of it."""
    from prism.rows.alike import alike

    known, asked = list(dict.fromkeys(training)), list(dict.fromkeys(held_out))
    pairs: dict[str, dict[str, tuple[float, str]]] = {}
    for mine, like in alike([own.get(text, text) for text in known], [own.get(text, text) for text in asked]):
        found = pairs.setdefault(asked[mine], {})
        if found.get(known[like.training], (0.0, ""))[0] < like.similarity:
            found[known[like.training]] = like.similarity, like.likeness
    for text in set(known).intersection(asked):
        pairs.setdefault(text, {})[text] = 1.0, "exact"
    return pairs


def _own(texts: Sequence[str]) -> dict[str, str]:
    """The texts without the task's prompt: the lines that all have in common, and the words at both ends."""
    shared = set[str]().union(*map(str.splitlines, texts[:1])).intersection(*map(str.splitlines, texts))
    own = {text: "\n".join(line for line in text.splitlines() if line not in shared) or text for text in texts}
    if len(own) < MANY:
        return own
    split = {text: words.split(" ") for text, words in own.items()}
    first = len(commonprefix(list(split.values())))
    last = len(commonprefix([words[::-1] for words in split.values()]))
    first, last = (n if n >= PROMPT else 0 for n in (first, last))
    return {text: " ".join(words[first : len(words) - last]) or own[text] for text, words in split.items()}


def _like_contexts(training: Sequence[Example], held_out: Sequence[Example]) -> Pairs:
    known, asked = ([_compared(example)[0] for example in part if not example.images] for part in (training, held_out))
    return _pairs(known, asked, own={})


def _text_twins(
    training: Sequence[Example], held_out: Sequence[Example], contexts: Pairs
) -> Iterator[tuple[Sequence[int], Sequence[int], Twin]]:
    """The indices of held-out samples, those of training rows that are twins of each, and the first of these."""
    known, asked = _by_text(training), _by_text(held_out)
    known_questions, asked_questions = [question for _, question in known], [question for _, question in asked]
    questions = _pairs(known_questions, asked_questions, own=_own([*known_questions, *asked_questions]))
    for (context, question), indices in asked.items():
        for other_question, of_question in questions.get(question, {}).items():
            for other_context, of_context in contexts.get(context, {}).items():
                if rows := known.get((other_context, other_question)):
                    similarity, likeness = of_context if of_question[1] == "exact" else of_question
                    yield indices, rows, Twin(rows[0], min(similarity, of_context[0]), likeness)


def _by_text(examples: Sequence[Example]) -> dict[tuple[str, str], list[int]]:
    indices: dict[tuple[str, str], list[int]] = {}
    for index, example in enumerate(examples):
        if not example.images:
            indices.setdefault(_compared(example), []).append(index)
    return indices


def _shared_contexts(
    training: Sequence[Example], held_out: Sequence[Example], contexts: Pairs
) -> Iterator[tuple[int, int]]:
    first: dict[str, int] = {}
    for row, example in enumerate(training):
        if not example.images:
            first.setdefault(_compared(example)[0], row)
    for index, example in enumerate(held_out):
        context, _ = _compared(example)
        if context and not example.images and context in contexts:
            yield index, min(first[other] for other in contexts[context])


def _answers(training: Sequence[Example], held_out: Sequence[Example], contexts: Pairs) -> Iterator[tuple[int, int]]:
    """Held-out indices, and the first training row whose answer holds the words of theirs in their order.

    An answer that is read from a context or an image is known by heart only if the row has the same one.
    """
    from prism.rows.alike import grams
    from prism.rows.folding import read

    rows: dict[tuple[str, ...], list[int]] = {}
    for row, example in enumerate(training):
        if not example.images:
            rows.setdefault(read(example.reference).words, []).append(row)
    answers = {i: read(example.reference).words for i, example in enumerate(held_out) if not example.images}
    looked_for = {gram for words in answers.values() if len(words) >= ANSWER for gram in grams(words)}
    places: dict[str, list[tuple[str, ...]]] = {}
    for words in rows:
        for gram in looked_for.intersection(grams(words)):
            places.setdefault(gram, []).append(words)

    @cache
    def holding(words: tuple[str, ...]) -> list[int]:
        # The rarest piece of the answer names the few training answers that can hold it.
        candidates = min((places.get(gram, []) for gram in grams(words)), key=len)
        text = f" {' '.join(words)} "
        return sorted(row for other in candidates if text in f" {' '.join(other)} " for row in rows[other])

    for index, words in answers.items():
        if len(words) < ANSWER:
            continue
        found = holding(words)
        if len(found) > max(CLOSED * len(training), CANNED):
            continue
        like = contexts.get(_compared(held_out[index])[0], {})
        yield from ((index, row) for row in [row for row in found if _compared(training[row])[0] in like][:1])


def _image_twins(
    training: Sequence[Example], held_out: Sequence[Example]
) -> Iterator[tuple[Sequence[int], Sequence[int], Twin]]:
    held_out_images, training_images = _by_image(held_out), _by_image(training)
    if not held_out_images or not training_images:
        return
    hashes = numpy.array([_perceptual_hash(path) for path in training_images])
    paths = list(training_images)
    for path, indices in held_out_images.items():
        differing = numpy.bitwise_count(hashes ^ _perceptual_hash(path)).sum(1)
        for i in numpy.flatnonzero(differing <= MAX_BITS):
            same_file = file_digest(path) == file_digest(paths[i])
            for index in indices:
                for row in training_images[paths[i]]:
                    exact = same_file and held_out[index].question == training[row].question
                    similarity = round(1 - int(differing[i]) / 256, 4)
                    yield [index], [row], Twin(row, similarity, "exact" if exact else "same picture")


def _by_image(examples: Sequence[Example]) -> dict[Path, list[int]]:
    indices: dict[Path, list[int]] = {}
    for index, example in enumerate(examples):
        for path in example.images:
            indices.setdefault(path, []).append(index)
    return indices


def _perceptual_hash(path: Path) -> numpy.ndarray:
    """256 bits, packed into 32 bytes. Raises DataError if the image cannot be read."""
    import imagehash
    from PIL import Image

    try:
        with Image.open(path) as picture:
            return numpy.packbits(imagehash.phash(picture, hash_size=16).hash)
    except (OSError, ValueError, Image.DecompressionBombError) as error:
        raise DataError(f"{path}: the image cannot be read ({error}); restore the file or delete its row") from None
