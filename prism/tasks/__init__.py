"""Tasks, one module each: how a row becomes messages, how an answer is parsed, which metrics score it.

A task module defines the fields of `Task` as constants in capitals or as functions: `COLUMNS`, `VERSION`, `METRICS` and
`example` always, the others if needed. `financial_sentiment.py` is the shortest complete example.
"""

from __future__ import annotations

import importlib
import pkgutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import MISSING, dataclass, field, fields, replace
from types import ModuleType
from typing import Any

from prism.errors import ScoresError, SpecError
from prism.judge import Definition
from prism.metrics import Metric, every_sample, judged, semantic
from prism.rows import Example, Prediction, Row
from prism.spec import Spec
from prism.verdicts.scores import Scores


def _same_row(row: Row, spec: Spec) -> list[Row]:
    return [row]


def _no_details(examples: Sequence[Example], answers: Sequence[str]) -> dict[str, Any]:
    return {}


@dataclass(frozen=True)
class Task:
    """The hooks of a task module, with their defaults; this is their only list."""

    name: str
    version: int  # raise it if the same rows give other questions, or the same answers are parsed differently
    columns: Sequence[str]  # the columns that it reads; [data].columns of a spec maps other names to them
    example: Callable[[Row, str], Example]  # (row, id); raises DataError with the invalid value
    metrics: Sequence[Metric]  # they get the raw answers
    judged: Sequence[Definition] = ()  # graded by the judge; their metrics are tier 3
    is_judged: Callable[[Example], bool] = every_sample  # whether the judge grades the answers to an example
    # The closed set of labels, and the function that finds the label of an answer; they enable the classical and the
    # label-likelihood controls.
    labels: Sequence[str] = ()
    parse: Callable[[str], str | None] | None = None
    images: Sequence[
        str
    ] = ()  # the columns that hold images, each of which `example` gets as the path of a prepared one
    lists: Sequence[str] = ()  # the columns of which a value may be a list of texts
    rows: Callable[[Row, Spec], list[Row]] = _same_row  # splits a published row with several questions
    # By control name: a function of (example, all held-out examples) that returns the example with missing or different
    # evidence, which the tuned model answers as well.
    controls: Mapping[str, Callable[[Example, Sequence[Example]], Example]] = field(default_factory=dict)
    fixed: Mapping[str, str] = field(default_factory=dict)  # by control name: its one answer to every question
    # By control name: a function of (training, held out) that returns the answers of what learns without the model.
    contenders: Mapping[str, Callable[[Sequence[Example], Sequence[Example]], list[str]]] = field(default_factory=dict)
    # For the reports: tables and the terms missing in each answer, from (examples, answers), and failure patterns, from
    # (examples, baseline, tuned).
    details: Callable[[Sequence[Example], Sequence[str]], dict[str, Any]] = _no_details
    missing: Callable[[Sequence[Example], Sequence[str]], list[list[str]]] | None = None
    failures: Callable[[Sequence[Example], Sequence[Prediction], Sequence[Prediction]], dict[str, Any]] | None = None


def load_task(name: str) -> Task:
    """Load a task by its module name. Raises SpecError if there is no such task, or if it lacks a hook."""
    try:
        module = importlib.import_module(f"prism.tasks.{name}")
    except ModuleNotFoundError as error:
        if error.name != f"prism.tasks.{name}":
            raise
        raise SpecError(f'task = "{name}": no such task; the tasks are {", ".join(known_tasks())}') from None
    given = {hook.name: found for hook in fields(Task) if (found := _hook(module, hook.name)) is not None}
    lacking = [hook.name for hook in fields(Task) if hook.name not in given and hook.name != "name" and _required(hook)]
    if "example" in lacking:
        raise SpecError(f'task = "{name}": no such task; the tasks are {", ".join(known_tasks())}')
    if lacking:
        raise SpecError(f'task = "{name}": prism/tasks/{name}.py has no {_attribute(lacking[0])}; add it')
    return Task(**{**given, "name": name})


def _required(hook: Any) -> bool:
    return hook.default is MISSING and hook.default_factory is MISSING


def _attribute(hook: str) -> str:
    return hook if hook in FUNCTIONS else hook.upper()


FUNCTIONS = ("example", "parse", "is_judged", "rows", "details", "missing", "failures")


def _hook(module: ModuleType, hook: str) -> Any:
    return getattr(module, _attribute(hook), None)


def known_tasks() -> list[str]:
    """The names of all task modules."""
    names = (found.name for found in pkgutil.iter_modules(__path__))
    return [name for name in names if hasattr(importlib.import_module(f"prism.tasks.{name}"), "example")]


def judged_metrics(definitions: Sequence[Definition]) -> list[Metric]:
    """The tier-3 metrics of a judge's definitions, without a scoring function: their scores come from a judge."""
    return [judged(definition.metric, {}) for definition in definitions]


def metrics_of(scores: Scores) -> list[Metric]:
    """The metrics in a scores file, as its task defines them. Raises ScoresError if the task is gone."""
    try:
        task = load_task(scores.task)
    except SpecError:
        raise ScoresError(f'{scores.name}: its task "{scores.task}" is not a module of prism/tasks') from None
    known = [*task.metrics, *judged_metrics(task.judged)]
    found = [metric for metric in known if metric.name in scores.measures]
    if measure := scores.measures.get(semantic.NAME):  # its model is part of the evaluation digest, which is compared
        found.append(replace(semantic.metric({}, {}), version=measure.version))
    # A spec may change the wording of a judge's definition, with or without a new name.
    names = {metric.name for metric in found}
    return found + [
        judged(name, {}) for name, measure in scores.measures.items() if name not in names and measure.judge
    ]
