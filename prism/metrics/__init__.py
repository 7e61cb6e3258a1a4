"""A metric is a function of the *sums* of per-sample statistics.

Accuracy sums (right, 1), F1 sums the cells of a confusion matrix, a mean sums (score, 1). Because every metric is
`value(statistics.sum(axis=0))`, leaving out a sample or a group is a subtraction, and a set metric such as F1 is
recomputed without it, as it must be. A row of NaN is an unscored sample: it is counted
separately and never averaged in as 0.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

import numpy

from prism.rows import Example

HARDEST = "hardest control"  # in `Metric.against`: whichever control scores best by the metric
Statistics = Callable[[Sequence[Example], Sequence[str]], numpy.ndarray]
ROUNDING = 1e-4  # of a range: files keep six decimals, and a ratio of rounded sums is off by more


def mean(sums: numpy.ndarray) -> numpy.ndarray:
    """The mean score from sums (..., 2) of [score, 1]; sums over no samples give 0, an unscored row stays NaN."""
    score, n = sums[..., 0], sums[..., -1]
    return numpy.divide(score, n, out=numpy.zeros_like(numpy.asarray(score, float)), where=n != 0)


def every_sample(example: Example) -> bool:
    return True


@dataclass(frozen=True)
class Metric:
    """`statistics` maps examples and raw answers to (n, d); `value` maps sums (..., d) to values (...).

    `sample` is what the metric gives one sample: right or wrong (0 or 1, so exact binomial methods apply), a score, a
    part of what another metric already lists by sample (0 or 1), or nothing, as for F1 of a set.
    """

    name: str
    tier: str
    statistics: Statistics
    value: Callable[[numpy.ndarray], numpy.ndarray] = mean
    direction: Literal["higher", "lower"] = "higher"
    range: tuple[float, float] = (0.0, 1.0)
    bounds: tuple[float, float] = (-math.inf, math.inf)  # of each statistic of a sample
    sample: Literal["right or wrong", "score", "part", "nothing"] = "score"
    beside: Literal["nothing", "controls", "controls and shuffled references"] = "controls"  # other answers to score
    # Whose answers the tuned ones are compared with: the untuned model's, a control's, HARDEST, or of several controls
    # whichever scores best.
    against: str | tuple[str, ...] = "baseline"
    applies: Callable[[Example], bool] = every_sample  # others are excluded, not counted as unscored
    version: int = 1  # raise it if the same answers get other scores

    @property
    def right_or_wrong(self) -> bool:
        return self.sample in ("right or wrong", "part")

    @property
    def loses_by_flips(self) -> bool:
        """Whether a loss takes flips of samples, of which its variance grows: also F1 of a set counts right and wrong."""
        return self.sample != "score"

    def impossible(self, statistics: numpy.ndarray) -> tuple[int, str] | None:
        """The first of some scored samples' statistics (n, d) that no answer can have, by number, and why; or None."""
        (low, high), (least, most) = self.range, self.bounds
        room = ROUNDING * (high - low)
        bad = ((statistics < least - room) | (statistics > most + room)).any(-1)
        if bad.any():
            return int(bad.argmax()), f"statistics outside [{least:g}, {most:g}]"
        if self.sample == "nothing" or not len(statistics):
            return None
        values = self.value(statistics)
        bad = (values < low - room) | (values > high + room)
        if bad.any():
            return int(bad.argmax()), f"a score of {values[bad.argmax()]:g}, outside its range [{low:g}, {high:g}]"
        bad = (values != 0) & (values != 1)
        if self.right_or_wrong and bad.any():
            return int(bad.argmax()), f"a score of {values[bad.argmax()]:g}, which is neither right (1) nor wrong (0)"
        return None

    @property
    def lists_samples(self) -> bool:
        """Whether the reports list this metric's score of each sample."""
        return self.sample in ("right or wrong", "score") and self.against == "baseline" and self.direction == "higher"


def per_sample(
    name: str,
    tier: str,
    score: Callable[[Example, str], float],
    *,
    applies: Callable[[Example], bool] = every_sample,
    **options: Any,
) -> Metric:
    """Make a metric that is the mean of `score(example, answer)`; NaN means unscored.

    `options` are further fields of `Metric`.
    """

    def statistics(examples: Sequence[Example], answers: Sequence[str]) -> numpy.ndarray:
        rows = numpy.full((len(examples), 2), numpy.nan)
        for row, (example, answer) in enumerate(zip(examples, answers)):
            if applies(example):
                rows[row] = score(example, answer), 1
        rows[numpy.isnan(rows[:, 0])] = numpy.nan
        return rows

    low, high = options.get("range", Metric.range)
    options = {"bounds": (min(low, 0.0), max(high, 1.0)), **options}  # a score and a count of 1
    return Metric(name, tier, statistics, applies=applies, **options)


def visual_gain(metric: Metric) -> Metric:
    """How far the tuned answers are ahead of the hardest control: what is left of a score that needs the picture."""
    return replace(metric, name="visual_gain", against=HARDEST)


def judged(
    name: str,
    grades: Mapping[tuple[str, str], float | None],
    applies: Callable[[Example], bool] = every_sample,
) -> Metric:
    """Make a tier-3 metric from a judge's grades of (sample id, answer); a missing grade is unscored."""

    def grade(example: Example, answer: str) -> float:
        score = grades.get((example.id, answer))
        return numpy.nan if score is None else score

    return per_sample(name, "tier3", grade, applies=applies, beside="nothing")
