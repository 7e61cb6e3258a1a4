"""Two sets of scores of the same samples held against each other: how much was lost, and which samples flipped.

Two questions are told apart. With one seed on either side: do these two adapters differ? With several: is this recipe
worse, on other samples and with other seeds? A loss is positive where the new side is worse, whatever the metric's
direction.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy

from prism import stats
from prism.errors import ReferenceFault
from prism.metrics import Metric
from prism.reference import Reference

Question = Literal["these adapters differ", "this recipe is worse"]


@dataclass(frozen=True)
class Comparison:
    """One metric of two sides. `loss.p` is the chance of such a loss where there is none; `alpha` what it is held to."""

    metric: str
    question: Question
    n: int
    before: float
    after: float
    loss: stats.Estimate
    alpha: float
    better: tuple[str, ...] = ()  # ids that were wrong and are right, for metrics that are right or wrong
    worse: tuple[str, ...] = ()

    def is_worse(self, drop: float = 0.0) -> bool:
        return self.loss.value > drop and self.loss.p <= self.alpha

    def detectable(self, drop: float = 0.0) -> float:
        return stats.detectable(drop, self.loss.standard_error, self.alpha, freedom=self.loss.freedom)


def compare(reference: Reference, new: Reference, metric: Metric, thresholds: int = 1) -> Comparison:
    """Compare one metric of two measurements of the same evaluation.

    `thresholds` is how many drop thresholds the profile declares: each is tested at .05 divided by it, and intervals
    are widened alike. Raises ReferenceFault where the two share no question, lack samples of each other, or were scored
    by another metric.
    """
    if reference.evaluation_digest != new.evaluation_digest:
        raise ReferenceFault(
            f"{reference.id}: evaluation {reference.evaluation_digest[:8]} and {new.evaluation_digest[:8]} are other "
            f"questions, so their scores cannot be compared; accept a run of this evaluation"
        )
    place = {name: row for row, name in enumerate(reference.ids)}
    missing = [name for name in new.ids if name not in place]
    if missing or len(reference.ids) != len(new.ids):
        raise ReferenceFault(
            f"{reference.id}: {len(missing) or len(reference.ids) - len(new.ids)} of {len(new.ids)} samples have no "
            f"partner in the reference, {next(iter(missing), reference.ids[-1])} for one; restore it, or accept again"
        )
    try:
        old = numpy.stack(list(reference.tuned[metric.name].values()))[:, [place[name] for name in new.ids]]
        now = numpy.stack(list(new.tuned[metric.name].values()))
    except KeyError:
        raise ReferenceFault(f"{reference.id}: one side has no {metric.name}; accept a run that measured it") from None
    counted = ~(numpy.isnan(old).any((0, 2)) | numpy.isnan(now).any((0, 2)))
    if not counted.any():
        raise ReferenceFault(f"{reference.id}: no sample has a {metric.name} on both sides; nothing can be compared")
    return _compare(old[:, counted], now[:, counted], new, numpy.flatnonzero(counted), metric, thresholds)


def _compare(
    old: numpy.ndarray, now: numpy.ndarray, new: Reference, rows: numpy.ndarray, metric: Metric, thresholds: int
) -> Comparison:
    groups = [new.groups[row] for row in rows]
    ids = [new.ids[row] for row in rows]
    sign = 1 if metric.direction == "higher" else -1

    def function(sums: numpy.ndarray) -> numpy.ndarray:
        return sign * metric.value(sums)

    sides = [numpy.stack([stats.group_sums(part, groups) for part in side]) for side in (old, now)]
    level = 1 - 0.1 / thresholds
    question: Question = "these adapters differ"
    better, worse = _flipped(old, now, ids, metric)
    if len(old) + len(now) > 2:
        question = "this recipe is worse"
        loss = stats.recipes(sides[0], sides[1], function, level)
    elif metric.right_or_wrong and len(set(groups)) == len(groups):
        loss = stats.flips(len(better), len(worse), len(ids), level)
    else:
        found = stats.difference(sides[0], sides[1], function, level)
        swapped = stats.swapped_sums(sides[0][0], sides[1][0])
        p = stats.swap_p(sides[0][0], sides[1][0], swapped, function)
        loss = stats.Estimate(found.value, found.low, found.high, p, found.standard_error, found.freedom)
    before, after = (float(numpy.mean(metric.value(side.sum(1)))) for side in sides)
    return Comparison(metric.name, question, len(ids), before, after, loss, 0.05 / thresholds, better, worse)


def _flipped(
    old: numpy.ndarray, now: numpy.ndarray, ids: Sequence[str], metric: Metric
) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Ids that became right and that became wrong, by each side's first seed."""
    if not metric.right_or_wrong:
        return (), ()
    sign = 1 if metric.direction == "higher" else -1
    moved = sign * (metric.value(now[0]) - metric.value(old[0]))
    return tuple(numpy.array(ids)[moved > 0].tolist()), tuple(numpy.array(ids)[moved < 0].tolist())


def to_record(comparison: Comparison, reference: Reference) -> dict[str, Any]:
    """What a Record keeps of it: plain JSON types, for the gate and the reports."""
    return {
        "file": f"{reference.phase}/{reference.file_name}",
        "question": comparison.question,
        "value": comparison.before,
        "seeds": len(next(iter(reference.tuned.values()))),
        "n": comparison.n,
        "loss": comparison.loss.value,
        "ci": [comparison.loss.low, comparison.loss.high],
        "p": comparison.loss.p,
        "alpha": comparison.alpha,
        "standard_error": comparison.loss.standard_error,
        "freedom": comparison.loss.freedom if comparison.loss.freedom < 1e6 else None,
        "better": len(comparison.better),
        "worse": len(comparison.worse),
    }
