"""What a metric is: a function of the *sums* of per-sample statistics.

Accuracy sums (right, 1), F1 sums the cells of a confusion matrix, a mean sums (score, 1). Because every metric is
`value(statistics.sum(axis=0))`, one resampling of the sums serves all metrics, paired differences included, and a set
metric such as F1 is recomputed on each resample as it must be. A row of NaN is an unscored sample: counted apart, never
averaged in as 0.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy

from prism.data import Example


def everything(example: Example) -> bool:
    return True


@dataclass(frozen=True)
class Metric:
    """`statistics` maps examples and raw answers to (n, d); `value` maps sums (..., d) to values (...)."""

    name: str
    tier: str
    statistics: Callable[[Sequence[Example], Sequence[str]], numpy.ndarray]
    value: Callable[[numpy.ndarray], numpy.ndarray]
    direction: Literal["higher", "lower"] = "higher"
    low: float = 0.0
    high: float = 1.0
    controlled: bool = True  # also scored for the controls' answers, which a judge is not paid to read
    shuffled: bool = False  # also shown against other rows' references: what style alone would score
    right_or_wrong: bool = False  # each sample counts 0 or 1, so exact binomial methods apply
    of: Callable[[Example], bool] = everything  # the samples that it is about; others are none of it, not unscored
    baseline: str = "baseline"  # whose answers the tuned ones are held against: the untuned model's, or a control's
    of_one_sample: bool = True  # False for what exists only over a set, such as F1
    lacking: Callable[[Sequence[Example], Sequence[str]], list[list[str]]] | None = None  # per answer, for the reports
    version: int = 1  # raise it when the same answers get other scores


def mean(sums: numpy.ndarray) -> numpy.ndarray:
    """Sums (..., 2) of [score, 1] to the mean score; the sums of no sample give 0, an unscored row stays NaN."""
    score, n = sums[..., 0], sums[..., -1]
    return numpy.divide(score, n, out=numpy.zeros_like(numpy.asarray(score, float)), where=n != 0)


def judged(name: str, grades: Mapping[tuple[str, str], float | None]) -> Metric:
    """A tier-3 metric from a judge's grades of (sample id, answer); what was not graded is unscored."""

    def statistics(examples: Sequence[Example], answers: Sequence[str]) -> numpy.ndarray:
        found = [grades.get((example.id, answer)) for example, answer in zip(examples, answers)]
        return numpy.array([[numpy.nan, numpy.nan] if score is None else [score, 1.0] for score in found]).reshape(
            -1, 2
        )

    return Metric(name, "tier3", statistics, mean, controlled=False)
