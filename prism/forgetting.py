"""The forgetting matrix of phase 7: each adapter is asked the questions of every spec that stands on the same base.

Answers come from the store as all answers do, and so does the matrix of the same answers: what scores and compares them
(nltk, SciPy) takes longer to import than all else of a second look.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter

from prism.experiment import Experiment
from prism.rows import Example
from prism.rows.answers import read_predictions
from prism.rows.remembered import content
from prism.spec import Spec
from prism.verdicts.forgetting import Cell, cell
from prism.verdicts.headline import Headline

ROWS = 100  # held-out questions a cell: the nano profile's 12 cells take two minutes on two cores
OF_THE_WEIGHTS = ("model_name", "revision", "load_in_4bit", "load_in_8bit", "dtype")


def matrix(
    experiments: Sequence[Experiment], headlines: Mapping[str, Headline], limit: float, rows: int = ROWS
) -> list[Cell]:
    """Every cell, adapter by adapter, of the specs in `headlines`; `limit` is the loss that none may exceed.

    Each spec's questions are scored by its headline's metric, those that this metric applies to.
    """
    known = [experiment for experiment in experiments if experiment.spec.id in headlines]
    pairs = [(one, other) for one in known for other in known if same_base(one.spec, other.spec)]
    cells = sum(one is not other for one, other in pairs)
    given: list[tuple[Any, ...]] = []  # the arguments of each `cell`
    determining = []
    for one, other in pairs:
        headline = headlines[other.spec.id]
        metric = next(metric for metric in other.task.metrics if metric.name == headline.record.metric)
        asked = chosen([example for example in other.examples.held_out if metric.applies(example)], rows)
        base, tuned = _of(other.baseline, asked), _answers(one, other, asked)
        given.append((one.spec.id, other.spec, metric, asked, base, tuned, limit, cells, headline))
        job = [other.spec.model_dump(mode="json", exclude={"folder"}), other.task.source, metric.name, metric.version]
        determining.append([one.spec.id, *job, content(asked), base, tuned, asdict(headline)])
    if not given:
        return []
    identity = {"kind": "forgetting", "limit": limit, "cells": determining}
    table = known[0].setting.remember(identity, lambda: [asdict(cell(*each)) for each in given])
    return TypeAdapter(list[Cell]).validate_python(table)


def same_base(one: Spec, other: Spec) -> bool:
    """Whether an adapter of one spec can be asked the other's questions: the same weights, loaded in the same way."""
    same = all(getattr(one.model, key) == getattr(other.model, key) for key in OF_THE_WEIGHTS)
    return same and bool(one.image) == bool(other.image)


def chosen(held_out: Sequence[Example], rows: int) -> list[Example]:
    """The same examples each time: those with the first ids, which are hashes of the rows."""
    return sorted(held_out, key=lambda example: example.id)[:rows]


def _answers(one: Experiment, other: Experiment, asked: Sequence[Example]) -> list[str]:
    """The answers of one spec's first adapter to the other's questions; to its own they are stored already."""
    seed, adapter = next(iter(one.adapters.items()))
    if one is other:
        return _of(other.tuned[seed], asked)
    return _of(other.answers(asked, adapter, f"the adapter of {one.spec.id}"), asked)


def _of(folder: Path, asked: Sequence[Example]) -> list[str]:
    return [prediction.answer for prediction in read_predictions(folder, asked)]
