"""Reads answers and label likelihoods from JSON lines files, which are written batch by batch."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, TypeVar

from pydantic import TypeAdapter, ValidationError

from prism.errors import ModelError
from prism.rows import Example, Prediction
from prism.rows.thoughts import without_thoughts
from prism.store import read_json

ANSWERS = "predictions.jsonl"
LIKELIHOODS = "likelihoods.jsonl"
T = TypeVar("T")


@dataclass(frozen=True)
class _Likelihoods:
    """A line of `LIKELIHOODS`: the log-likelihood of each label as the answer to one sample."""

    id: str
    labels: dict[str, float]


def read_predictions(folder: Path, examples: Sequence[Example]) -> list[Prediction]:
    """Predictions in the order of the examples, without their thoughts, which stay in the file.

    Raises ModelError if one is missing, since the engine gave no answer, or if a line is none.
    """
    by_id = {said.id: _without_thoughts(said) for said in _lines(folder / ANSWERS, TypeAdapter(Prediction))}
    missing = [example.id for example in examples if example.id not in by_id]
    if missing:
        raise ModelError(
            f"{folder}: {len(missing)} of {len(examples)} samples have no answer, first {missing[0]}; delete the "
            f"folder and run again"
        )
    return [by_id[example.id] for example in examples]


def _without_thoughts(prediction: Prediction) -> Prediction:
    """The prediction as the metrics and the judge see it. A thought that does not end was cut off, and so the answer."""
    said, cut_off = without_thoughts(prediction.answer)
    if said == prediction.answer and not cut_off:
        return prediction
    return replace(prediction, answer=said, finish="length" if cut_off else prediction.finish)


def read_likelihoods(folder: Path, examples: Sequence[Example]) -> list[dict[str, float]]:
    """The log-likelihood of each label, in the order of the examples. Raises ModelError as `read_predictions` does."""
    by_id = {line.id: line.labels for line in _lines(folder / LIKELIHOODS, TypeAdapter(_Likelihoods))}
    if missing := next((example.id for example in examples if example.id not in by_id), None):
        raise ModelError(f"{folder}: sample {missing} has no likelihoods; delete the folder and run again")
    return [by_id[example.id] for example in examples]


def _lines(path: Path, form: TypeAdapter[T]) -> Iterator[T]:
    """The lines of a file that may have come in a stranger's bundle."""
    with path.open("rb") as file:
        for number, line in enumerate(file, start=1):
            try:
                yield form.validate_json(line)
            except ValidationError as error:
                why = error.errors(include_input=False)[0]["msg"]
                raise ModelError(f"{path}:{number}: is no answer ({why}); delete the folder and run again") from None


def read_json_lines(path: Path) -> Iterator[dict[str, Any]]:
    """One object a line. Unlike `str.splitlines`, this does not split at U+2028, which an answer may contain."""
    with path.open(encoding="utf-8") as file:
        for line in file:
            yield json.loads(line)


def finished_ids(path: Path) -> set[str]:
    """The ids already in a JSON lines file. Removes the first line that is no answer, and what follows it."""
    if not path.exists():
        return set()
    complete, ids = [], set()
    for line in path.read_bytes().split(b"\n"):  # a killed process may have cut a character in two
        try:
            name = read_json(line.decode())["id"]
        except (ValueError, KeyError, TypeError):
            break
        if not isinstance(name, str):
            break
        ids.add(name)
        complete.append(line + b"\n")
    path.write_bytes(b"".join(complete))
    return ids
