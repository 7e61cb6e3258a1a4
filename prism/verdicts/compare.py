"""Two sets of scores of the same samples held against each other: how much was lost, and which samples flipped.

Two questions are told apart. With one seed on either side: do these two adapters differ? With several: is this recipe
worse, on other samples and with other seeds? A loss is positive where the new side is worse, whatever the metric's
direction.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

import numpy

from prism.errors import ScoresError
from prism.metrics import Metric
from prism.verdicts import intervals, losses
from prism.verdicts.scores import Scores

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
    loss: intervals.Estimate
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
        return losses.detectable(drop, self.loss.error, self.alpha)


def compare(
    old: Scores, new: Scores, metrics: Sequence[Metric], thresholds: int = 1
) -> tuple[dict[str, Comparison], dict[str, str]]:
    """Compare every metric of two measurements of one evaluation: the comparisons, and why some metrics have none.

    `thresholds` is how many drop thresholds the profile declares: each is tested at .05 divided by it, and intervals
    are as wide. Raises ScoresError where the two measured other evaluations or lack each other's samples.
    """
    _check(old, new)
    place = {name: row for row, name in enumerate(old.ids)}
    order = [place[name] for name in new.ids]
    without = {metric.name: why for metric in metrics if (why := _unlike(metric, old, new))}
    alike = [metric for metric in metrics if metric.name not in without]
    sides: dict[tuple[int, int], _Sides] = {}  # metrics of one family share their sums and their coins
    for metric in alike:
        before, after = old.measures[metric.name].statistics, new.measures[metric.name].statistics
        if (id(before), id(after)) not in sides:
            sides[id(before), id(after)] = _Sides.of(before[:, order], after, new.groups)
    _swap(list(sides.values()))
    comparisons = {}
    for metric in alike:
        side = sides[id(old.measures[metric.name].statistics), id(new.measures[metric.name].statistics)]
        if side.counted.any():
            comparisons[metric.name] = _compare(metric, side, new, thresholds)
        else:
            without[metric.name] = "no sample is scored on both sides"
    return comparisons, without


def _check(old: Scores, new: Scores) -> None:
    shared = len(set(old.ids) & set(new.ids))
    if old.evaluation_digest != new.evaluation_digest:
        raise ScoresError(
            f"{old.name} and {new.name}: other evaluations, with {shared:,} of {len(new.ids):,} samples in common, "
            f"so that a difference would mean nothing; compare runs of the same rows, prompts, metrics and [generate]"
        )
    for side, lacking, other in (("accepted run", old, new), ("run", new, old)):
        known = set(lacking.ids)
        missing = [name for name in other.ids if name not in known]
        if missing:
            raise ScoresError(
                f"{lacking.name}: the {side} lacks {len(missing):,} of {len(other.ids):,} samples, {missing[0]} the first; "
                f"restore it, or `prism accept` a whole run"
            )


def _unlike(metric: Metric, old: Scores, new: Scores) -> str:
    """Why one metric of two alike evaluations cannot be compared; empty where it can."""
    before, after = old.measures.get(metric.name), new.measures.get(metric.name)
    if before is None or after is None:
        return f"the {'accepted run' if before is None else 'run'} has no {metric.name}; accept a run that measured it"
    if {before.version, after.version} != {metric.version}:
        return f"versions {before.version} and {after.version}, here {metric.version}; measure both sides again"
    if before.judge != after.judge:
        return f"judged by {before.judge or 'nobody'}, now by {after.judge or 'nobody'}; ask the same judge"
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
    return numpy.stack([intervals.group_sums(part, groups.tolist()) for part in statistics])


def _swap(sides: Sequence[_Sides]) -> None:
    """Throw the coins once for all families that have the same groups, where one seed stands on either side."""
    waiting: dict[bytes, list[_Sides]] = {}
    for side in sides:
        if side.of_one_seed and side.counted.any():
            waiting.setdefault(side.counted.tobytes(), []).append(side)
    for alike in waiting.values():
        old, now = (numpy.hstack([side.sums[which][0] for side in alike]) for which in (0, 1))
        swapped = intervals.swapped_sums(old, now)
        ends = numpy.cumsum([side.sums[0].shape[-1] for side in alike])[:-1]
        for side, part in zip(alike, numpy.split(swapped, ends, axis=1)):
            side.swapped = part


def _compare(metric: Metric, side: _Sides, new: Scores, thresholds: int) -> Comparison:
    sign = 1 if metric.direction == "higher" else -1

    def function(sums: numpy.ndarray) -> numpy.ndarray:
        return sign * metric.value(sums)

    level = 1 - 0.1 / thresholds
    old, now = side.sums
    worse, better = _moved(metric, sign, side, numpy.asarray(new.ids)[side.counted])
    question: Question = "these adapters differ" if side.of_one_seed else "this recipe is worse"
    if not side.of_one_seed:
        loss = losses.recipes(old, now, function, level, metric.right_or_wrong)
    elif metric.right_or_wrong and len(set(side.groups)) == len(side.groups):
        loss = losses.flips(len(better), len(worse), len(side.groups), level)
    else:
        assert side.swapped is not None
        loss = losses.difference(old[0], now[0], function, level, metric.right_or_wrong)
        loss = replace(loss, p=losses.swap_p(old[0], now[0], side.swapped, function))
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
    if metric.sample == "nothing":
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


def differences(old: Scores, new: Scores) -> list[tuple[str, str, str]]:
    """How the training sides differ: (key, there, here)."""
    there, here = (
        dict(_flat({"seeds": side.seeds, **{key: side.training[key] for key in side.training if key != "adapters"}}))
        for side in (old, new)
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
