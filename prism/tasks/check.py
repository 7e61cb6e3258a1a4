"""Whether a spec's gate fits its task: checked where a spec is taken up, before anything is spent on it."""

from __future__ import annotations

import re
from pathlib import Path

from prism.errors import SpecError
from prism.metrics import semantic
from prism.models.cost import COSTS
from prism.spec import Limit, Spec, load_spec
from prism.tasks import Task, judged_metrics, load_task


def take_up(path: Path) -> Spec:
    """Read a spec and check it against its task.

    Raises SpecError with the file, table, key, value and remedy: one sentence, the first thing found wrong.
    """
    spec = load_spec(path)
    check(spec, f"{path.parent.name}/{path.name}")
    return spec


def check(spec: Spec, place: str) -> None:
    """Raises SpecError if the task does not exist or a threshold cannot be one of its metrics'."""
    if not re.fullmatch(r"[a-z][a-z0-9_]*", spec.task):
        raise SpecError(f'{place} task = "{spec.task}": must be the name of a module in prism/tasks')
    try:
        task = load_task(spec.task)
    except SpecError as error:
        raise SpecError(f"{place} {error}") from None
    for limit in spec.limits():
        where = f'{place} [gate.{limit.tier}] "{limit.metric}"'.replace('"', "" if " " not in limit.metric else '"')
        if limit.tier == "cost":
            _check_cost(limit, where)
        else:
            _check_metric(limit, where, spec, task)


def _check_cost(limit: Limit, where: str) -> None:
    if limit.metric not in COSTS:
        raise SpecError(f"{where}: not a cost; there are {', '.join(COSTS)}")
    side = "ceiling" if COSTS[limit.metric] == "lower" else "floor"
    if limit.key != side:
        raise SpecError(f"{where}.{limit.key}: a cost is one measurement, not compared; give it a {side}")


def _check_metric(limit: Limit, where: str, spec: Spec, task: Task) -> None:
    similarity = [semantic.metric({}, {})] if spec.semantic else []
    metrics = {metric.name: metric for metric in (*task.metrics, *similarity, *judged_metrics(task.judged))}
    metric = metrics.get(limit.metric)
    if metric is None or metric.tier != limit.tier:
        here = ", ".join(name for name, known in metrics.items() if known.tier == limit.tier) or "none"
        raise SpecError(f"{where}: not a {limit.tier} metric of {spec.task}; there are {here}")
    if limit.key == ("floor" if metric.direction == "lower" else "ceiling"):
        side = "ceiling" if limit.key == "floor" else "floor"
        raise SpecError(f"{where}.{limit.key}: {metric.direction} is better, so it bounds nothing; give it a {side}")
    low, high = metric.range if limit.key in ("floor", "ceiling") else _differences(metric.range)
    if not low <= limit.value <= high:
        raise SpecError(f"{where}.{limit.key} = {limit.value:g}: must lie in [{low:g}, {high:g}]")


def _differences(bounds: tuple[float, float]) -> tuple[float, float]:
    span = bounds[1] - bounds[0]
    return -span, span
