"""Accepted results: what a later run is held against, in files that people review and commit.

A reference holds, for every metric and training seed, each held-out sample's statistics by sample id, so that a later
run is compared sample by sample. Its name carries the evaluation digest that it was measured under: another digest is
another question. A digest of its own tells a file that was edited by hand from one that was accepted.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy

from prism.data import Example
from prism.errors import ReferenceFault
from prism.metrics import Metric
from prism.record import write_text
from prism.spec import Spec
from prism.store import digest

SCHEMA = 1


@dataclass(frozen=True)
class Reference:
    """Scores of one spec, of a run or as accepted. `tuned` maps metric and seed to statistics (samples, d)."""

    phase: str
    spec: str
    task: str
    evaluation_digest: str
    ids: tuple[str, ...]
    groups: tuple[str, ...]
    tuned: Mapping[str, Mapping[str, numpy.ndarray]]
    training: Mapping[str, Any]  # the side that may differ: options, rows, base, adapters
    origin: Mapping[str, Any]  # run, commit, date: where it was measured

    @property
    def id(self) -> str:
        return f"{self.phase}/{self.spec}"

    @property
    def file_name(self) -> str:
        return f"{self.spec}@{self.evaluation_digest[:8]}.json"


def measured(
    spec: Spec,
    evaluation: str,
    examples: Sequence[Example],
    after: Mapping[int, Sequence[str]],
    metrics: Sequence[Metric],
    training: Mapping[str, Any],
) -> Reference:
    """The scores of a spec as a run has just measured them."""
    tuned = {
        metric.name: {str(seed): metric.statistics(examples, said) for seed, said in after.items()}
        for metric in metrics
    }
    ids, groups = (tuple(getattr(example, name) for example in examples) for name in ("id", "group"))
    return Reference(spec.phase, spec.name, spec.task, evaluation, ids, groups, tuned, training, {})


def to_json(reference: Reference) -> dict[str, Any]:
    """Plain JSON. Metrics that share their statistics (a confusion matrix) share one table of distinct rows."""
    tables: dict[str, Any] = {}
    tuned: dict[str, dict[str, str]] = {}
    for metric, seeds in reference.tuned.items():
        tuned[metric] = {}
        for seed, statistics in seeds.items():
            packed = _pack(statistics)
            name = digest(packed)[:12]
            tables[name] = packed
            tuned[metric][seed] = name
    content = {
        "schema": SCHEMA,
        "phase": reference.phase,
        "spec": reference.spec,
        "task": reference.task,
        "evaluation_digest": reference.evaluation_digest,
        "training": dict(reference.training),
        "origin": dict(reference.origin),
        "ids": list(reference.ids),
        "groups": [] if reference.groups == reference.ids else list(reference.groups),
        "tuned": tuned,
        "tables": tables,
    }
    return {"digest": digest(content), **content}


def _pack(statistics: numpy.ndarray) -> dict[str, Any]:
    """Distinct rows, and the number of each sample's; null stands for a sample that is unscored."""
    numbers: dict[tuple[float, ...], int] = {}
    index: list[int | None] = []
    for row in statistics.tolist():
        unscored = any(math.isnan(value) for value in row)
        index.append(None if unscored else numbers.setdefault(tuple(row), len(numbers)))
    return {"width": statistics.shape[1], "rows": [list(row) for row in numbers], "index": index}


def _unpack(table: Mapping[str, Any]) -> numpy.ndarray:
    rows = numpy.array([*table["rows"], [math.nan] * table["width"]], dtype=float).reshape(-1, table["width"])
    return rows[[len(rows) - 1 if number is None else number for number in table["index"]]]


def write(reference: Reference, path: Path) -> None:
    write_text(path, json.dumps(to_json(reference), ensure_ascii=False, separators=(",", ":")) + "\n")


def load(path: Path) -> Reference:
    """Read a reference.

    Raises ReferenceFault for a file that is damaged, edited by hand, of another schema, or named for other samples.
    """
    try:
        return parse(path.read_text(encoding="utf-8"), path.name)
    except (OSError, UnicodeDecodeError) as error:
        raise ReferenceFault(f"{path}: cannot be read ({error}); restore it from git") from None


def parse(text: str, name: str) -> Reference:
    """The reference in a file's text; `name` is the file's, for messages and for the digest that it carries."""
    try:
        content = json.loads(text)
        schema, own = content["schema"], content.pop("digest")
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise ReferenceFault(f"{name}: is no reference ({error}); restore it from git") from None
    if schema != SCHEMA:
        raise ReferenceFault(f"{name}: has schema {schema!r}, this PRISM reads {SCHEMA}; measure and accept it again")
    if own != digest(content):
        raise ReferenceFault(f"{name}: was edited by hand or damaged; restore it from git, or accept a run again")
    if not name.endswith(f"@{content['evaluation_digest'][:8]}.json") and "@" in name:
        raise ReferenceFault(f"{name}: holds evaluation {content['evaluation_digest'][:8]}; restore its own name")
    tables = {key: _unpack(table) for key, table in content["tables"].items()}
    ids = tuple(content["ids"])
    if not ids or any(len(table) != len(ids) for table in tables.values()):
        raise ReferenceFault(f"{name}: its scores do not fit its {len(ids)} samples; restore it from git")
    return Reference(
        content["phase"],
        content["spec"],
        content["task"],
        content["evaluation_digest"],
        ids,
        tuple(content["groups"]) or ids,
        {metric: {seed: tables[key] for seed, key in seeds.items()} for metric, seeds in content["tuned"].items()},
        content["training"],
        content["origin"],
    )


def find(folder: Path, spec: Spec, evaluation: str) -> Reference | None:
    """The accepted reference of a spec for this evaluation, or None."""
    path = folder / spec.phase / f"{spec.name}@{evaluation[:8]}.json"
    return load(path) if path.exists() else None
