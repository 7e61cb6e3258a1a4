"""Two sets of scores of the same samples held against each other: how much was lost, and which samples flipped.

Two questions are told apart. With one seed on either side: do these two adapters differ? With several: is this recipe
worse, on other samples and with other seeds? A loss is positive where the new side is worse, whatever the metric's
direction.
"""

from __future__ import annotations

import importlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

import numpy

from prism import stats
from prism.errors import ReferenceFault
from prism.metrics import Metric, judged, semantic
from prism.reference import Measure, Reference, find
from prism.spec import judged_metrics

Question = Literal["these adapters differ", "this recipe is worse"]


@dataclass(frozen=True)
class Comparison:
    """One metric of two sides. `loss.p` is the chance of such a loss where there is none; `alpha` what it is held to."""

    metric: Metric
    question: Question
    n: int
    seeds: tuple[int, int]
    before: float
    after: float
    loss: stats.Estimate
    level: float  # of the loss's interval
    alpha: float
    worse: tuple[
        str, ...
    ]  # ids of samples, by the mean over seeds; from right to wrong where a metric knows only these
    better: tuple[str, ...]

    def is_worse(self, drop: float = 0.0) -> bool:
        return self.loss.value > drop and self.loss.p <= self.alpha

    def detectable(self, drop: float = 0.0) -> float:
        """The smallest true loss that this comparison catches with 80 % power."""
        if self.loss.error is None:
            return numpy.inf
        return stats.detectable(drop, self.loss.error, self.alpha)


@dataclass(frozen=True)
class Against:
    """A run's scores held against a reference: a comparison a metric, and why the others have none.

    `fault` says why nothing could be compared although a reference lies there.
    """

    reference: Reference | None = None
    comparisons: Mapping[str, Comparison] = field(default_factory=dict)
    without: Mapping[str, str] = field(default_factory=dict)
    fault: str = ""


def against_accepted(root: Path, new: Reference, thresholds: int) -> Against | None:
    """Hold a run's scores against the accepted reference of its evaluation; None where there is none."""
    try:
        reference = find(root, new)
        return Against(reference, *compare(reference, new, metrics(new), thresholds)) if reference else None
    except ReferenceFault as error:
        return Against(fault=str(error))


def metrics(reference: Reference) -> list[Metric]:
    """The metrics whose statistics a reference holds, as its task defines them."""
    try:
        task = importlib.import_module(f"prism.tasks.{reference.task}")
    except ModuleNotFoundError:
        raise ReferenceFault(f'{reference.name}: its task "{reference.task}" is no module of prism/tasks') from None
    known = [*task.METRICS, *judged_metrics(task)]
    found = [metric for metric in known if metric.name in reference.measures]
    similarity = semantic.metric({}, {})
    if measure := reference.measures.get(similarity.name):  # its model is part of the evaluation, which is compared
        found.append(replace(similarity, version=measure.version))
    # A spec may word its judge's definition in its own way, under the same name or another.
    named = {metric.name for metric in found}
    return found + [
        judged(name, {}) for name, measure in reference.measures.items() if name not in named and measure.judge
    ]


def compare(
    reference: Reference, new: Reference, metrics: Sequence[Metric], thresholds: int = 1
) -> tuple[dict[str, Comparison], dict[str, str]]:
    """Compare every metric of two measurements of one evaluation: the comparisons, and why some metrics have none.

    `thresholds` is how many drop thresholds the profile declares: each is tested at .05 divided by it, and intervals
    are as wide. Raises ReferenceFault where the two measured other evaluations or lack each other's samples.
    """
    _check(reference, new)
    place = {name: row for row, name in enumerate(reference.ids)}
    order = [place[name] for name in new.ids]
    without = {metric.name: why for metric in metrics if (why := _unlike(metric, reference, new))}
    alike = [metric for metric in metrics if metric.name not in without]
    sides: dict[tuple[int, int], _Sides] = {}  # metrics of one family share their sums and their coins
    for metric in alike:
        old, now = reference.measures[metric.name].statistics, new.measures[metric.name].statistics
        if (id(old), id(now)) not in sides:
            sides[id(old), id(now)] = _Sides.of(old[:, order], now, new.groups)
    _swap(list(sides.values()))
    comparisons = {}
    for metric in alike:
        side = sides[id(reference.measures[metric.name].statistics), id(new.measures[metric.name].statistics)]
        if side.counted.any():
            comparisons[metric.name] = _compare(metric, side, new, thresholds)
        else:
            without[metric.name] = "no sample is scored on both sides"
    return comparisons, without


def _check(reference: Reference, new: Reference) -> None:
    shared = len(set(reference.ids) & set(new.ids))
    if reference.evaluation_digest != new.evaluation_digest:
        raise ReferenceFault(
            f"{reference.name} and {new.name}: other evaluations, with {shared:,} of {len(new.ids):,} samples in common, "
            f"so that a difference would mean nothing; compare runs of the same rows, prompts, metrics and [generate]"
        )
    for side, lacking, other in (("reference", reference, new), ("run", new, reference)):
        known = set(lacking.ids)
        missing = [name for name in other.ids if name not in known]
        if missing:
            raise ReferenceFault(
                f"{lacking.name}: the {side} lacks {len(missing):,} of {len(other.ids):,} samples, {missing[0]} the first; "
                f"restore it, or `prism accept` a whole run"
            )


def _unlike(metric: Metric, reference: Reference, new: Reference) -> str:
    """Why one metric of two alike evaluations cannot be compared; empty where it can."""
    old, now = reference.measures.get(metric.name), new.measures.get(metric.name)
    if old is None or now is None:
        return f"the {'reference' if old is None else 'run'} has no {metric.name}; accept a run that measured it"
    if {old.version, now.version} != {metric.version}:
        return f"versions {old.version} and {now.version}, here {metric.version}; measure both sides again"
    if old.judge != now.judge:
        return f"judged by {old.judge or 'nobody'}, now by {now.judge or 'nobody'}; ask the same judge"
    return ""


@dataclass
class _Sides:
    """The statistics of one family of metrics on both sides, (seeds, samples, d), and their sums by group."""

    old: numpy.ndarray
    now: numpy.ndarray
    counted: numpy.ndarray  # which samples every seed of both sides scored
    groups: numpy.ndarray  # of the samples that count
    sums: tuple[numpy.ndarray, numpy.ndarray]
    swapped: numpy.ndarray | None = None

    @classmethod
    def of(cls, old: numpy.ndarray, now: numpy.ndarray, groups: Sequence[str]) -> _Sides:
        counted = ~(numpy.isnan(old).any((0, 2)) | numpy.isnan(now).any((0, 2)))
        kept = numpy.asarray(groups)[counted]
        old, now = old[:, counted], now[:, counted]
        summed = (numpy.empty(0), numpy.empty(0))
        if len(kept):
            summed = (_sums(old, kept), _sums(now, kept))
        return cls(old, now, counted, kept, summed)

    @property
    def of_one_seed(self) -> bool:
        return len(self.old) == len(self.now) == 1


def _sums(statistics: numpy.ndarray, groups: numpy.ndarray) -> numpy.ndarray:
    return numpy.stack([stats.group_sums(part, groups.tolist()) for part in statistics])


def _swap(sides: Sequence[_Sides]) -> None:
    """Throw the coins once for all families that have the same groups, where one seed stands on either side."""
    waiting: dict[bytes, list[_Sides]] = {}
    for side in sides:
        if side.of_one_seed and side.counted.any():
            waiting.setdefault(side.counted.tobytes(), []).append(side)
    for alike in waiting.values():
        old, now = (numpy.hstack([side.sums[which][0] for side in alike]) for which in (0, 1))
        swapped = stats.swapped_sums(old, now)
        ends = numpy.cumsum([side.sums[0].shape[-1] for side in alike])[:-1]
        for side, part in zip(alike, numpy.split(swapped, ends, axis=1)):
            side.swapped = part


def _compare(metric: Metric, side: _Sides, new: Reference, thresholds: int) -> Comparison:
    sign = 1 if metric.direction == "higher" else -1

    def function(sums: numpy.ndarray) -> numpy.ndarray:
        return sign * metric.value(sums)

    level = 1 - 0.1 / thresholds
    old, now = side.sums
    worse, better = _moved(metric, sign, side, numpy.asarray(new.ids)[side.counted])
    question: Question = "these adapters differ" if side.of_one_seed else "this recipe is worse"
    if not side.of_one_seed:
        loss = stats.recipes(old, now, function, level, metric.right_or_wrong)
    elif metric.right_or_wrong and len(set(side.groups)) == len(side.groups):
        loss = stats.flips(len(better), len(worse), len(side.groups), level)
    else:
        assert side.swapped is not None
        loss = stats.difference(old[0], now[0], function, level, metric.right_or_wrong)
        loss = replace(loss, p=stats.swap_p(old[0], now[0], side.swapped, function))
    before, after = (float(metric.value(sums.sum(-2)).mean()) for sums in (old, now))
    return Comparison(
        metric=metric,
        question=question,
        n=len(side.groups),
        seeds=(len(old), len(now)),
        before=before,
        after=after,
        loss=loss,
        level=level,
        alpha=0.05 / thresholds,
        worse=worse,
        better=better,
    )


def _moved(metric: Metric, sign: int, side: _Sides, ids: numpy.ndarray) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Ids of the samples that became worse and better, the farthest first; by majority where they are right or wrong."""
    if not metric.of_one_sample:
        return (), ()
    before, after = (sign * metric.value(part).mean(0) for part in (side.old, side.now))
    if metric.right_or_wrong:
        moved = (before - sign * 0.5) * (after - sign * 0.5) < 0
    else:
        moved = numpy.abs(after - before) > 1e-9
    change = numpy.where(moved, after - before, 0)
    order = numpy.argsort(change, kind="stable")
    return (
        tuple(ids[order[change[order] < 0]].tolist()),
        tuple(ids[order[::-1][change[order[::-1]] > 0]].tolist()),
    )


def first_flipped(comparisons: Iterable[Comparison]) -> Comparison | None:
    """The first comparison that has flipped samples: the one that a report names them by."""
    return next((found for found in comparisons if found.worse or found.better), None)


def differences(reference: Reference, new: Reference) -> list[tuple[str, str, str]]:
    """How the training sides differ: (key, there, here)."""
    there, here = (
        dict(_flat({"seeds": side.seeds, **{key: side.training[key] for key in side.training if key != "adapters"}}))
        for side in (reference, new)
    )
    keys = [*there, *(key for key in here if key not in there)]
    return [(key, there.get(key, ""), here.get(key, "")) for key in keys if there.get(key) != here.get(key)]


def _flat(table: Any, prefix: str = "") -> Iterator[tuple[str, str]]:
    if isinstance(table, Mapping):
        for key, value in table.items():
            yield from _flat(value, f"{prefix}.{key}" if prefix else str(key))
    else:
        values = table if isinstance(table, list | tuple) else [table]
        yield prefix, ", ".join(str(value)[: 12 if len(str(value)) == 64 else None] for value in values)  # 64: a digest


def to_record(comparison: Comparison, measure: Measure, reference: Reference) -> dict[str, Any]:
    """What a Record keeps of it, in plain JSON types."""
    loss = comparison.loss
    return {
        "file": f"{reference.name}.json",
        "commit": reference.origin.get("commit"),
        "question": comparison.question,
        "value": comparison.before,
        "ci": list(measure.ci),
        "seeds": dict(measure.seeds),
        "n": comparison.n,
        "loss": {"value": loss.value, "ci": [loss.low, loss.high], "level": comparison.level, "p": loss.p},
        "alpha": comparison.alpha,
        "detectable": comparison.detectable(),
        "worse": len(comparison.worse),
        "better": len(comparison.better),
    }
