"""Tasks: how a row becomes messages, how an answer is read, which metrics judge it. One module a task.

A task is a module of this folder that has the names of `Task`'s fields in capitals or as functions: `COLUMNS`, `VERSION`,
`METRICS` and `example` always, the others if they are needed. `financial_sentiment.py` is the shortest whole one.
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
from prism.metrics import Metric, judged, semantic
from prism.rows import Example, Prediction, Row
from prism.spec import Spec
from prism.verdicts.scores import Scores


def _as_it_is(row: Row, spec: Spec) -> list[Row]:
    return [row]


def _nothing(examples: Sequence[Example], answers: Sequence[str]) -> dict[str, Any]:
    return {}


@dataclass(frozen=True)
class Task:
    """What a task module offers; this is the one list of its hooks and of what they are if it leaves them out."""

    name: str
    version: int  # raise it when the same rows give other questions, or the same answers another reading
    columns: Sequence[str]  # the columns that it reads; a spec's [data].columns maps other names onto them
    example: Callable[[Row, str], Example]  # (row, id); raises DataError naming the value that it cannot use
    metrics: Sequence[Metric]  # they see the raw answers
    judged: Sequence[Definition] = ()  # what a judge grades; their metrics are tier 3
    # The closed set of answers, and which of them an answer names; they switch the classical and the label-likelihood
    # controls on.
    labels: Sequence[str] = ()
    parse: Callable[[str], str | None] | None = None
    rows: Callable[[Row, Spec], list[Row]] = _as_it_is  # the rows that a published row of several questions stands for
    # By a control's name: (example, all held-out examples) to the example as the tuned model is asked it once more,
    # without its evidence or with another's.
    controls: Mapping[str, Callable[[Example, Sequence[Example]], Example]] = field(default_factory=dict)
    fixed: Mapping[str, str] = field(default_factory=dict)  # by a control's name: its one answer to every question
    # For the reports, from (examples, answers): tables, and the terms that each answer lacks; and from (examples,
    # baseline, tuned): the patterns in which predictions fail.
    details: Callable[[Sequence[Example], Sequence[str]], dict[str, Any]] = _nothing
    missing: Callable[[Sequence[Example], Sequence[str]], list[list[str]]] | None = None
    failures: Callable[[Sequence[Example], Sequence[Prediction], Sequence[Prediction]], dict[str, Any]] | None = None


def load_task(name: str) -> Task:
    """The task of a module of this folder. Raises SpecError if there is no such task, or if it lacks a hook."""
    try:
        module = importlib.import_module(f"prism.tasks.{name}")
    except ModuleNotFoundError as error:
        if error.name != f"prism.tasks.{name}":
            raise
        raise SpecError(f'task = "{name}": no such task; there are {", ".join(known_tasks())}') from None
    given = {hook.name: found for hook in fields(Task) if (found := _hook(module, hook.name)) is not None}
    lacking = [hook.name for hook in fields(Task) if hook.name not in given and hook.name != "name" and _required(hook)]
    if "example" in lacking:
        raise SpecError(f'task = "{name}": no such task; there are {", ".join(known_tasks())}')
    if lacking:
        raise SpecError(f'task = "{name}": prism/tasks/{name}.py has no {_written(lacking[0])}; add it')
    return Task(**{**given, "name": name})


def _required(hook: Any) -> bool:
    return hook.default is MISSING and hook.default_factory is MISSING


def _written(hook: str) -> str:
    return hook if hook in FUNCTIONS else hook.upper()


FUNCTIONS = ("example", "parse", "rows", "details", "missing", "failures")


def _hook(module: ModuleType, hook: str) -> Any:
    return getattr(module, _written(hook), None)


def known_tasks() -> list[str]:
    """The names of the modules of this folder that are tasks."""
    names = (found.name for found in pkgutil.iter_modules(__path__))
    return [name for name in names if hasattr(importlib.import_module(f"prism.tasks.{name}"), "example")]


def judged_metrics(definitions: Sequence[Definition]) -> list[Metric]:
    """The tier-3 metrics of a judge's definitions, by name only: their scores come from a judge."""
    return [judged(definition.metric, {}) for definition in definitions]


def metrics_of(scores: Scores) -> list[Metric]:
    """The metrics that a file of scores holds, as its task defines them. Raises ScoresError if the task is gone."""
    try:
        task = load_task(scores.task)
    except SpecError:
        raise ScoresError(f'{scores.name}: its task "{scores.task}" is no module of prism/tasks') from None
    known = [*task.metrics, *judged_metrics(task.judged)]
    found = [metric for metric in known if metric.name in scores.measures]
    if measure := scores.measures.get(semantic.NAME):  # its model is part of the evaluation, which is compared
        found.append(replace(semantic.metric({}, {}), version=measure.version))
    # A spec may word its judge's definition in its own way, under the same name or another.
    named = {metric.name for metric in found}
    return found + [
        judged(name, {}) for name, measure in scores.measures.items() if name not in named and measure.judge
    ]
