"""Reads answers and label likelihoods from JSON lines files, which are written batch by batch."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from prism.errors import ModelError
from prism.rows import Example, Prediction
from prism.rows.thoughts import without_thoughts
from prism.store import read_json

ANSWERS = "predictions.jsonl"
LIKELIHOODS = "likelihoods.jsonl"


def read_predictions(folder: Path, examples: Sequence[Example]) -> list[Prediction]:
    """Predictions in the order of the examples, without their thoughts, which stay in the file.

    Raises ModelError if one is missing: the engine gave no answer.
    """
    by_id = {line["id"]: _without_thoughts(Prediction(**line)) for line in read_json_lines(folder / ANSWERS)}
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
    return replace(prediction, answer=said, finish="length" if cut_off else prediction.finish)


def read_likelihoods(folder: Path, examples: Sequence[Example]) -> list[dict[str, float]]:
    """The log-likelihood of each label, in the order of the examples."""
    by_id = {line["id"]: line["labels"] for line in read_json_lines(folder / LIKELIHOODS)}
    return [by_id[example.id] for example in examples]


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
