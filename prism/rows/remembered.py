"""Reads the rows of a file once, and keeps what later runs need of them under the digest of the file's bytes.

That is the held-out examples, the training rows that leaks name, and the number and digests of all training rows. A run
whose artifacts are stored needs no more, so it neither parses nor checks the file. The training rows themselves are read
when another of them is looked at.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property, partial
from pathlib import Path
from typing import Any, overload

from prism.errors import DataError
from prism.progress import Progress
from prism.redaction import redacted
from prism.rows import Example, Row, leaks
from prism.rows.examples import Reader, load_examples
from prism.rows.images import image_digests
from prism.rows.leaks import Kind, Leaks, Remember
from prism.rows.parts import local_part, parts_of
from prism.rows.splits import split_places, unique_ids
from prism.spec import Spec
from prism.store import digest, file_digest, list_digest

# Of a spec, what determines no example. The rest may: a task's hook gets all of it.
NO_PART = {"title", "profile", "requires", "lora", "sft", "semantic", "judge", "gate", "phase", "name", "folder"}


@dataclass
class Training(Sequence[Example]):
    """Training rows that are read when one is looked at. Known before: how many, their digests, `some` by their index."""

    read: Callable[[], Sequence[Example]]
    size: int
    trained_on: str  # the digest of what adapters are trained on
    content: str  # the digest of all that the examples hold
    some: Mapping[int, Example] = field(default_factory=dict)

    @classmethod
    def of(cls, rows: Sequence[Example]) -> Training:
        return cls(lambda: rows, len(rows), trained_on(rows), content(rows))

    @cached_property
    def rows(self) -> Sequence[Example]:
        return self.read()

    def without(self, ids: Collection[str]) -> Training:
        """The rows without those of these ids, which are among them."""
        if not ids:
            return self
        left = [digest([known, sorted(ids)]) for known in (self.trained_on, self.content)]
        return Training(lambda: [e for e in self.rows if e.id not in ids], self.size - len(ids), left[0], left[1])

    def __len__(self) -> int:
        return self.size

    @overload
    def __getitem__(self, place: int) -> Example: ...

    @overload
    def __getitem__(self, place: slice) -> Sequence[Example]: ...

    def __getitem__(self, place: int | slice) -> Example | Sequence[Example]:
        if isinstance(place, int) and place in self.some:
            return self.some[place]
        return self.rows[place]


def trained_on(training: Sequence[Example]) -> str:
    """The digest of what an adapter is trained on: questions, references and images, in order."""
    if isinstance(training, Training):
        return training.trained_on
    return list_digest([e.messages, e.reference, *filter(None, [image_digests(e)])] for e in training)


def content(training: Sequence[Example]) -> str:
    """The digest of all that examples hold."""
    if isinstance(training, Training):
        return training.content
    return list_digest([json.dumps(_plain(example), default=str), image_digests(example)] for example in training)


@dataclass(frozen=True)
class Examples:
    """What a spec measures. `training` is empty for a finished adapter whose training rows are unknown."""

    training: Training
    held_out: list[Example]
    leaks: Leaks
    removed: int  # training rows that [data].dedupe left out


def identity(spec: Spec, source: str, root: Path, data: Path | None) -> dict[str, Any] | None:
    """What determines the examples of a spec, its files by their bytes; `source` is the digest of a task beside the spec.

    None where that is not known: rows of the hub, images, a task of the user's own, which may read what it likes, and
    files that are missing, which are refused as they are read.
    """
    if source or spec.image:
        return None
    files = [
        found and found.file for part in parts_of(spec, root, data) for found in (local_part(spec, root, data, part),)
    ]
    if not all(file and file.is_file() for file in files):
        return None
    return {
        "kind": "examples",
        "files": [[file.suffix, file_digest(file)] for file in files if file],
        "spec": spec.model_dump(
            mode="json", exclude={**dict.fromkeys(NO_PART, True), "data": {"path", "name", "measured_on"}}
        ),
    }


def examples(
    spec: Spec, task: Reader, root: Path, data: Path | None, home: Path, screen: Progress, remember: Remember
) -> Examples:
    """The examples of a spec, read or remembered; `home` is the store's folder, `data` is --prism-data.

    Raises DataError as `load_examples` does.
    """
    read = partial(_read, spec, task, root, data, home, screen, remember)
    known = identity(spec, task.source, root, data)
    if known is None:
        return read()
    now: list[Examples] = []

    def compute() -> dict[str, Any] | None:
        now.append(read())
        return _kept(now[0])

    kept = remember(known, compute)
    return now[0] if now else _restored(kept, spec.id, read) if kept else read()


def _read(
    spec: Spec, task: Reader, root: Path, data: Path | None, home: Path, screen: Progress, remember: Remember
) -> Examples:
    removed: set[int] = set()

    def twins(training: Sequence[Example], held_out: Sequence[Example]) -> Leaks:
        return leaks.remembered(training, held_out, remember, spec.id, screen)

    def places(rows: Sequence[Row], split: Mapping[str, Any], seed: int) -> tuple[list[int], list[int]]:
        identity = {"kind": "split", "rows": digest(unique_ids(rows)), "split": split, "seed": seed}
        return remember(identity, lambda: split_places(rows, split, seed))

    def leaking(pool: Sequence[Example], held_out: Sequence[Example], kind: Kind) -> set[int]:
        removed.update(twins(pool, held_out).rows(kind))
        return removed

    training, held_out = load_examples(spec, task, root, data, places, leaking, home / "images", screen.say)
    return Examples(Training.of(training), held_out, twins(training, held_out), len(removed))


def _kept(found: Examples) -> dict[str, Any] | None:
    """What later runs need of the examples, as JSON; None if JSON or the removal of secrets would change an example."""
    told, training = found.leaks, found.training
    named = {twin.training for twin in told.held_out.values()}.union(told.answers.values(), told.contexts.values())
    kept = {
        "held_out": [_plain(example) for example in found.held_out],
        "some": {place: _plain(training[place]) for place in sorted(named)},
        "training": {"size": len(training), "trained_on": training.trained_on, "content": training.content},
        "leaks": told.to_json(),
        "removed": found.removed,
    }
    try:
        again = _restored(json.loads(redacted(json.dumps(kept))), "", lambda: found)
    except TypeError:  # of a Parquet file: a date
        return None
    same = again.held_out == found.held_out and all(again.training[place] == training[place] for place in named)
    return kept if same else None


def _restored(kept: Mapping[str, Any], name: str, read: Callable[[], Examples]) -> Examples:
    def rows() -> Sequence[Example]:
        now = read().training
        if now.trained_on != kept["training"]["trained_on"]:
            raise DataError(f"{name}: the file of its rows changed while it was read; run again")
        return now.rows

    some = {int(place): _example(plain) for place, plain in kept["some"].items()}
    training = Training(rows, some=some, **kept["training"])
    return Examples(training, [_example(e) for e in kept["held_out"]], Leaks.from_json(kept["leaks"]), kept["removed"])


def _plain(example: Example) -> dict[str, Any]:
    """The example as JSON has it, without images."""
    return {
        "id": example.id,
        "messages": list(example.messages),
        "reference": example.reference,
        "group": example.group,
        "facts": example.facts,
    }


def _example(plain: Mapping[str, Any]) -> Example:
    return Example(**{**plain, "messages": tuple(plain["messages"])})
