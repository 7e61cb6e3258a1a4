"""Compare two sets of scores of the same samples: how much was lost, and which samples flipped.

There are two questions. With one seed on each side: do these two adapters differ? With several: is this recipe worse,
on other samples and with other seeds? A loss is positive if the new side is worse, whatever the metric's direction. A limit
on it is decided in three ways: the loss is shown to exceed it, shown not to, or neither.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

import numpy

from prism.errors import ScoresError
from prism.metrics import Metric
from prism.verdicts import intervals, losses, margins, rules
from prism.verdicts.scores import Scores

Question = Literal["these adapters differ", "this recipe is worse"]
HOLDS = 0.05  # one-sided p, at or below which a loss is shown not to exceed its limit
SAME = "the same adapters, and the same score of every sample"


@dataclass(frozen=True)
class Comparison:
    """One metric of two sides. `loss.p` is the one-sided p of no loss, by `test` at a limit of 0.

    `alpha` is the level at which a loss is shown, `churn` the least variance between samples that power assumes, `room`
    the largest loss that the metric's range leaves. `same`: both sides are one training, seed by seed, and every sample
    has the same score, so that there is nothing to test.
    """

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

    test: margins.Test
    churn: float = 0.0
    room: float = numpy.inf
    same: bool = False

    @property
    def rule(self) -> str:
        """Which test decides, in words."""
        return SAME if self.same else self.test.rule

    def exceeds(self, limit: float) -> float:
        """The one-sided p of "the loss is at most `limit`"."""
        return 1.0 if self.same else self.test.exceeds(limit)

    def within(self, limit: float) -> float:
        """The one-sided p of "the loss is at least `limit`"; if nothing differs, there is no loss to exceed it."""
        return 0.0 if self.same else self.test.within(limit)

    def state(self, limit: float = 0.0) -> Literal["fails", "holds", "inconclusive"]:
        """Whether the loss is shown to exceed the limit, shown not to exceed it, or neither."""
        if self.is_worse(limit):
            return "fails"
        return "holds" if self.within(limit) <= HOLDS else "inconclusive"

    def is_worse(self, limit: float = 0.0) -> bool:
        return self.exceeds(limit) <= self.alpha

    def can_fail(self, limit: float = 0.0) -> bool:
        """Whether any answers to these samples could show a loss above the limit."""
        return self.test.least(limit) <= self.alpha

    def detectable(self, limit: float = 0.0) -> float:
        """The smallest true loss that is shown to exceed the limit with 80 % power; infinite if the range ends first.

        Also infinite with too few groups for Student's t, whose error is not known.
        """
        error = self.loss.error
        if error is None or isinstance(self.test, margins.SignFlips) or not self.can_fail(limit):
            return numpy.inf
        error = replace(error, samples=max(error.samples, self.churn))
        loss = losses.detectable(limit, error, self.alpha)
        return numpy.inf if loss > self.room else loss


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
    same = old.training == new.training and old.seeds == new.seeds
    sides: dict[tuple[int, int], _Sides] = {}  # metrics of one family share their sums
    for metric in comparable:
        before, after = old.measures[metric.name].statistics, new.measures[metric.name].statistics
        if (id(before), id(after)) not in sides:
            sides[id(before), id(after)] = _Sides.of(before[:, order], after, new.groups)
    comparisons = {}
    for metric in comparable:
        side = sides[id(old.measures[metric.name].statistics), id(new.measures[metric.name].statistics)]
        if side.scored.any():
            comparisons[metric.name] = _compare(metric, side, new, thresholds, same)
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
    groups: rules.Groups
    sums: tuple[numpy.ndarray, numpy.ndarray]

    @classmethod
    def of(cls, old: numpy.ndarray, new: numpy.ndarray, groups: Sequence[str]) -> _Sides:
        scored = ~(numpy.isnan(old).any((0, 2)) | numpy.isnan(new).any((0, 2)))
        old, new, named = old[:, scored], new[:, scored], rules.Groups.named(numpy.asarray(groups)[scored])
        before, after = (numpy.stack([named.sums(part) for part in side]) for side in (old, new))
        return cls(old, new, scored, named, (before, after))

    @property
    def of_one_seed(self) -> bool:
        return len(self.old) == len(self.new) == 1


def _compare(metric: Metric, side: _Sides, scores: Scores, thresholds: int, same_adapters: bool) -> Comparison:
    sign = 1 if metric.direction == "higher" else -1

    def function(sums: numpy.ndarray) -> numpy.ndarray:
        return sign * metric.value(sums)

    level = 1 - 0.1 / thresholds
    old, new = side.sums
    worse, better = _changed(metric, sign, side, numpy.asarray(scores.ids)[side.scored])
    question: Question = "these adapters differ" if side.of_one_seed else "this recipe is worse"
    loss, test = _tested(metric, function, side, level, len(better), len(worse))
    before, after = (float(metric.value(sums.sum(-2)).mean()) for sums in (old, new))
    return Comparison(
        metric=metric,
        question=question,
        n=len(side.groups.of),
        seeds=(len(old), len(new)),
        before=before,
        after=after,
        loss=replace(loss, p=test.exceeds(0.0) if numpy.isfinite(loss.value) else numpy.nan),
        level=level,
        alpha=0.05 / thresholds,
        worse=worse,
        better=better,
        test=test,
        churn=losses.churn(old, new, function),
        room=before - metric.range[0] if sign > 0 else metric.range[1] - before,
        same=same_adapters and numpy.array_equal(side.old, side.new),
    )


def _tested(
    metric: Metric, function: intervals.Function, side: _Sides, level: float, better: int, worse: int
) -> tuple[intervals.Estimate, margins.Test]:
    """The loss with its interval, and the test of its limits that the data allow."""
    groups, (old, new) = side.groups, side.sums
    alone = side.of_one_seed and metric.right_or_wrong and groups.independent
    test: margins.Test
    if alone:
        loss: intervals.Estimate = losses.flips(better, worse, len(groups.of), level)
        test = margins.Pairs(better, worse, len(groups.of))
    else:
        estimate = losses.difference if side.of_one_seed else losses.recipes
        loss = estimate(old, new, function, level, metric.loses_by_flips, groups.sizes)
        error, seeds = loss.error, "" if side.of_one_seed else _of_seeds(side)
        assert error
        if groups.effective < intervals.FEWEST_GROUPS:  # no interval is trusted
            unknown = replace(loss, low=-numpy.inf, high=numpy.inf)
            known = None if side.of_one_seed else error
            return unknown, margins.SignFlips.of(loss.value, side.sums, function, groups.sizes, known, seeds)
        changed = int((old.mean(0) != new.mean(0)).any(-1).sum())
        span = metric.range[1] - metric.range[0]
        test = margins.Student(loss.value, error, groups.effective, changed, span, seeds)
    if side.of_one_seed and numpy.isfinite(loss.value):
        before, after = (rules.Measured.of(metric, list(part), groups) for part in (side.old, side.new))
        low, high = rules.loss(metric, before, after, groups, level)
        loss = replace(loss, low=low, high=high)
    return loss, test


def _of_seeds(side: _Sides) -> str:
    """What the rule says of the spread between seeds: whose it is, and whether one side's is assumed."""
    old, new = len(side.old), len(side.new)
    if min(old, new) > 1:
        return f", {old} and {new} seeds, each side with its own spread"
    one, several = ("new", "accepted") if new == 1 else ("accepted", "new")
    assumed = f"assumed to be {losses.ASSUMED_SPREAD:g} times that of the {max(old, new)} {several} ones"
    return f", the spread of the one {one} seed {assumed}"


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
