"""Check that a spec's gate fits its task, when the spec is loaded and before any compute is spent on it."""

from __future__ import annotations

import re
from pathlib import Path

from prism.errors import SpecError
from prism.metrics import semantic
from prism.models.cost import COSTS
from prism.spec import Limit, Spec, load_spec
from prism.tasks import Task, is_file, judged_metrics, load_task


def load_checked_spec(path: Path) -> Spec:
    """Read a spec and check it against its task.

    Raises SpecError for the first mistake: one sentence with the file, table, key, value and remedy.
    """
    spec = load_spec(path)
    check(spec, f"{path.parent.name}/{path.name}")
    return spec


def check(spec: Spec, place: str) -> None:
    """Raise SpecError if the task does not exist or a threshold does not fit any of its metrics."""
    if not is_file(spec.task) and not re.fullmatch(r"[a-z][a-z0-9_]*", spec.task):
        raise SpecError(
            f'{place} task = "{spec.task}": must be the name of a module in prism/tasks, or the path of a .py file from '
            f"the spec's folder"
        )
    if is_file(spec.task) and spec.task_file.startswith(("/", "../")):
        raise SpecError(f'{place} task = "{spec.task}": lies outside the checkout; move it beside the spec')
    try:
        task = load_task(spec)
    except SpecError as error:
        raise SpecError(f"{place} {error}") from None
    if bool(task.images) != bool(spec.image):
        has = (
            "reads images, so the spec needs the table [image]; add it"
            if task.images
            else "reads no images; delete [image]"
        )
        raise SpecError(f'{place} task = "{spec.task}": {has}')
    for limit in spec.limits():
        key = f'{place} [gate.{limit.tier}] "{limit.metric}"'.replace('"', "" if " " not in limit.metric else '"')
        if limit.tier == "cost":
            _check_cost(limit, key)
        else:
            _check_metric(limit, key, spec, task)


def _check_cost(limit: Limit, place: str) -> None:
    if limit.metric not in COSTS:
        raise SpecError(f"{place}: not a cost; the costs are {', '.join(COSTS)}")
    side = "ceiling" if COSTS[limit.metric] == "lower" else "floor"
    if limit.key != side:
        raise SpecError(f"{place}.{limit.key}: a cost is one measurement without a baseline; give it a {side}")


def _check_metric(limit: Limit, place: str, spec: Spec, task: Task) -> None:
    similarity = [semantic.metric({}, {})] if spec.semantic else []
    metrics = {metric.name: metric for metric in (*task.metrics, *similarity, *judged_metrics(task.judged))}
    metric = metrics.get(limit.metric)
    if metric is None or metric.tier != limit.tier:
        names = ", ".join(name for name, known in metrics.items() if known.tier == limit.tier) or "none"
        raise SpecError(f"{place}: not a {limit.tier} metric of {spec.task}; those are {names}")
    if limit.key == ("floor" if metric.direction == "lower" else "ceiling"):
        side = "ceiling" if limit.key == "floor" else "floor"
        raise SpecError(f"{place}.{limit.key}: has no effect, as {metric.direction} is better; give it a {side}")
    low, high = metric.range if limit.key in ("floor", "ceiling") else _differences(metric.range)
    if not low <= limit.value <= high:
        raise SpecError(f"{place}.{limit.key} = {limit.value:g}: must be in [{low:g}, {high:g}]")


def _differences(bounds: tuple[float, float]) -> tuple[float, float]:
    span = bounds[1] - bounds[0]
    return -span, span
