"""Compare two sets of scores of the same samples: how much was lost, and which samples flipped.

There are two questions. With one seed on each side: do these two adapters differ? With several: is this recipe worse,
on other samples and with other seeds? A loss is positive if the new side is worse, whatever the metric's direction.
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
    """One metric of two sides. `loss.p` is the probability of such a loss if there is none; `alpha` is its limit."""

    metric: Metric
    question: Question
    n: int
    seeds: tuple[int, int]
    before: float
    after: float
    loss: intervals.Estimate
    level: float  # of the loss's interval
    alpha: float
    # Ids of samples, by their mean over seeds; for a right-or-wrong metric, of those that flipped.
    worse: tuple[str, ...]
    better: tuple[str, ...]

    def is_worse(self, drop: float = 0.0) -> bool:
        return self.loss.value > drop and self.loss.p <= self.alpha

    def detectable(self, drop: float = 0.0) -> float:
        """The smallest true loss that this comparison detects with 80 % power."""
        if self.loss.error is None:
            return numpy.inf
        return losses.detectable(drop, self.loss.error, self.alpha)


def compare(
    old: Scores, new: Scores, metrics: Sequence[Metric], thresholds: int = 1
) -> tuple[dict[str, Comparison], dict[str, str]]:
    """Compare every metric of two measurements of one evaluation; also return why some metrics have no comparison.

    `thresholds` is how many drop thresholds the profile declares: each is tested at .05 divided by it, and intervals
    widen to match. Raises ScoresError if the evaluations differ or a side lacks samples of the other.
    """
    _check(old, new)
    rows = {name: row for row, name in enumerate(old.ids)}
    order = [rows[name] for name in new.ids]
    without = {metric.name: why for metric in metrics if (why := _why_incomparable(metric, old, new))}
    comparable = [metric for metric in metrics if metric.name not in without]
    sides: dict[tuple[int, int], _Sides] = {}  # metrics of one family share their sums and swaps
    for metric in comparable:
        before, after = old.measures[metric.name].statistics, new.measures[metric.name].statistics
        if (id(before), id(after)) not in sides:
            sides[id(before), id(after)] = _Sides.of(before[:, order], after, new.groups)
    _swap(list(sides.values()))
    comparisons = {}
    for metric in comparable:
        side = sides[id(old.measures[metric.name].statistics), id(new.measures[metric.name].statistics)]
        if side.scored.any():
            comparisons[metric.name] = _compare(metric, side, new, thresholds)
        else:
            without[metric.name] = "no sample is scored on both sides"
    return comparisons, without


def _check(old: Scores, new: Scores) -> None:
    shared = len(set(old.ids) & set(new.ids))
    if old.evaluation_digest != new.evaluation_digest:
        raise ScoresError(
            f"{old.name} and {new.name}: different evaluations, with {shared:,} of {len(new.ids):,} samples in "
            f"common, so a difference means nothing; compare runs of the same rows, prompts, metrics and [generate]"
        )
    for side, lacking, other in (("accepted run", old, new), ("run", new, old)):
        known = set(lacking.ids)
        missing = [name for name in other.ids if name not in known]
        if missing:
            raise ScoresError(
                f"{lacking.name}: the {side} lacks {len(missing):,} of {len(other.ids):,} samples, first {missing[0]}; "
                f"restore it, or `prism accept` a complete run"
            )


def _why_incomparable(metric: Metric, old: Scores, new: Scores) -> str:
    """Why one metric of two runs of one evaluation cannot be compared; empty if it can."""
    before, after = old.measures.get(metric.name), new.measures.get(metric.name)
    if before is None or after is None:
        return f"the {'accepted run' if before is None else 'run'} has no {metric.name}; accept a run that measured it"
    if {before.version, after.version} != {metric.version}:
        return f"versions {before.version} and {after.version}, now {metric.version}; measure both sides again"
    if before.judge != after.judge:
        return f"judged by {before.judge or 'nobody'}, now by {after.judge or 'nobody'}; use the same judge"
    return ""


@dataclass
class _Sides:
    """The statistics of one family of metrics on both sides, (seeds, samples, d), and their sums by group."""

    old: numpy.ndarray
    new: numpy.ndarray
    scored: numpy.ndarray  # which samples every seed of both sides scored; the other fields have only these
    groups: numpy.ndarray
    sums: tuple[numpy.ndarray, numpy.ndarray]
    swapped: numpy.ndarray | None = None

    @classmethod
    def of(cls, old: numpy.ndarray, new: numpy.ndarray, groups: Sequence[str]) -> _Sides:
        scored = ~(numpy.isnan(old).any((0, 2)) | numpy.isnan(new).any((0, 2)))
        scored_groups = numpy.asarray(groups)[scored]
        old, new = old[:, scored], new[:, scored]
        sums = (numpy.empty(0), numpy.empty(0))
        if len(scored_groups):
            sums = (_sums(old, scored_groups), _sums(new, scored_groups))
        return cls(old, new, scored, scored_groups, sums)

    @property
    def of_one_seed(self) -> bool:
        return len(self.old) == len(self.new) == 1


def _sums(statistics: numpy.ndarray, groups: numpy.ndarray) -> numpy.ndarray:
    return numpy.stack([intervals.group_sums(part, groups.tolist()) for part in statistics])


def _swap(sides: Sequence[_Sides]) -> None:
    """Draw the swaps once for all families with the same scored samples, if each side has one seed."""
    by_samples: dict[bytes, list[_Sides]] = {}
    for side in sides:
        if side.of_one_seed and side.scored.any():
            by_samples.setdefault(side.scored.tobytes(), []).append(side)
    for same in by_samples.values():
        old, new = (numpy.hstack([side.sums[which][0] for side in same]) for which in (0, 1))
        swapped = intervals.swapped_sums(old, new)
        ends = numpy.cumsum([side.sums[0].shape[-1] for side in same])[:-1]
        for side, part in zip(same, numpy.split(swapped, ends, axis=1)):
            side.swapped = part


def _compare(metric: Metric, side: _Sides, scores: Scores, thresholds: int) -> Comparison:
    sign = 1 if metric.direction == "higher" else -1

    def function(sums: numpy.ndarray) -> numpy.ndarray:
        return sign * metric.value(sums)

    level = 1 - 0.1 / thresholds
    old, new = side.sums
    worse, better = _changed(metric, sign, side, numpy.asarray(scores.ids)[side.scored])
    question: Question = "these adapters differ" if side.of_one_seed else "this recipe is worse"
    if not side.of_one_seed:
        loss = losses.recipes(old, new, function, level, metric.right_or_wrong)
    elif metric.right_or_wrong and len(set(side.groups)) == len(side.groups):
        loss = losses.flips(len(better), len(worse), len(side.groups), level)
    else:
        assert side.swapped is not None
        loss = losses.difference(old[0], new[0], function, level, metric.right_or_wrong)
        loss = replace(loss, p=losses.swap_p(old[0], new[0], side.swapped, function))
    before, after = (float(metric.value(sums.sum(-2)).mean()) for sums in (old, new))
    return Comparison(
        metric=metric,
        question=question,
        n=len(side.groups),
        seeds=(len(old), len(new)),
        before=before,
        after=after,
        loss=loss,
        level=level,
        alpha=0.05 / thresholds,
        worse=worse,
        better=better,
    )


def _changed(metric: Metric, sign: int, side: _Sides, ids: numpy.ndarray) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Ids of the samples that became worse and better, largest change first; by majority if right or wrong."""
    if metric.sample == "nothing":
        return (), ()
    before, after = (sign * metric.value(part).mean(0) for part in (side.old, side.new))
    if metric.right_or_wrong:
        changed = (before - sign * 0.5) * (after - sign * 0.5) < 0
    else:
        changed = numpy.abs(after - before) > 1e-9
    change = numpy.where(changed, after - before, 0)
    order = numpy.argsort(change, kind="stable")
    return (
        tuple(ids[order[change[order] < 0]].tolist()),
        tuple(ids[order[::-1][change[order[::-1]] > 0]].tolist()),
    )


def first_flipped(comparisons: Iterable[Comparison]) -> Comparison | None:
    """The first comparison with flipped samples: a report lists those."""
    return next((comparison for comparison in comparisons if comparison.worse or comparison.better), None)


def differences(old: Scores, new: Scores) -> list[tuple[str, str, str]]:
    """How the training sides differ: (key, old value, new value)."""
    before, after = (
        dict(_flat({"seeds": side.seeds, **{key: side.training[key] for key in side.training if key != "adapters"}}))
        for side in (old, new)
    )
    keys = [*before, *(key for key in after if key not in before)]
    return [(key, before.get(key, ""), after.get(key, "")) for key in keys if before.get(key) != after.get(key)]


def _flat(table: Any, prefix: str = "") -> Iterator[tuple[str, str]]:
    if isinstance(table, Mapping):
        for key, value in table.items():
            yield from _flat(value, f"{prefix}.{key}" if prefix else str(key))
    else:
        values = table if isinstance(table, list | tuple) else [table]
        yield prefix, ", ".join(str(value)[: 12 if len(str(value)) == 64 else None] for value in values)  # 64: a digest
