"""Intervals and tests, over groups, in vectorized numpy.

Samples of one group (one image, one context) stand or fall together, so groups are what is resampled. Sources: Efron &
Tibshirani, An Introduction to the Bootstrap, ch. 14 (BCa); Wilson 1927; Student's t for the spread between seeds.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from statistics import NormalDist

import numpy

RESAMPLES = 10_000
NORMAL = NormalDist()
CHUNK = 500  # resamples drawn at a time: 500 x 10,000 groups of float64 are 40 MB


@dataclass(frozen=True)
class Estimate:
    """A value with its interval; `p` is the one-sided probability of a value at or below 0 under resampling."""

    value: float
    low: float
    high: float
    p: float
    standard_error: float


def group_sums(statistics: numpy.ndarray, groups: Sequence[str]) -> numpy.ndarray:
    """Sum (n, d) statistics within each group: (number of groups, d). NaN rows (unscored) add nothing."""
    _, index = numpy.unique(numpy.asarray(groups), return_inverse=True)
    sums = numpy.zeros((index.max() + 1, statistics.shape[1]))
    numpy.add.at(sums, index, numpy.nan_to_num(statistics))
    return sums


def resampled_sums(sums: numpy.ndarray, resamples: int = RESAMPLES, seed: int = 42) -> numpy.ndarray:
    """Totals of `resamples` draws of groups with replacement: (groups, d) to (resamples, d).

    Draw once for all columns: metrics that share the draws cost one matrix product, and their differences are paired.
    """
    groups = len(sums)
    random = numpy.random.default_rng(seed)
    totals = numpy.empty((resamples, sums.shape[1]))
    for start in range(0, resamples, CHUNK):
        rows = min(CHUNK, resamples - start)
        drawn = random.integers(0, groups, (rows, groups)) + numpy.arange(rows)[:, None] * groups
        counts = numpy.bincount(drawn.ravel(), minlength=rows * groups).reshape(rows, groups)
        totals[start : start + rows] = counts @ sums
    return totals


def bca(
    sums: numpy.ndarray,
    totals: numpy.ndarray,
    function: Callable[[numpy.ndarray], numpy.ndarray],
    level: float = 0.95,
) -> Estimate:
    """Bias-corrected and accelerated bootstrap interval of `function(sums.sum(0))`.

    `sums` is (groups, d), `totals` what `resampled_sums` made of it. Where nothing varies the interval is the value.
    """
    total = sums.sum(0)
    value = float(function(total))
    draws = numpy.sort(function(totals))
    spread = float(draws.std(ddof=1))
    # Ties count half, so that a discrete metric gets no bias correction out of its own coarseness.
    below = (numpy.searchsorted(draws, value, "left") + numpy.searchsorted(draws, value, "right")) / 2 / len(draws)
    p = (1 + numpy.searchsorted(draws, 0.0, "right")) / (1 + len(draws))
    if spread == 0 or len(sums) < 2:
        return Estimate(value, value, value, float(p), spread)
    left_out = function(total - sums)
    centred = left_out.mean() - left_out
    scale = float((centred**2).sum() ** 1.5)
    acceleration = float((centred**3).sum()) / (6 * scale) if scale else 0.0
    bias = NORMAL.inv_cdf(min(max(below, 1 / len(draws)), 1 - 1 / len(draws)))
    ends = []
    for tail in ((1 - level) / 2, (1 + level) / 2):
        z = bias + NORMAL.inv_cdf(tail)
        share = NORMAL.cdf(bias + z / (1 - acceleration * z))
        ends.append(float(numpy.quantile(draws, share)))
    return Estimate(value, ends[0], ends[1], float(p), spread)


def wilson(right: float, n: float, level: float = 0.95) -> tuple[float, float]:
    """Wilson's score interval of a proportion: never empty at 0 or 1, never outside them."""
    z = NORMAL.inv_cdf((1 + level) / 2)
    share = right / n
    centre = (share + z * z / (2 * n)) / (1 + z * z / n)
    half = z / (1 + z * z / n) * math.sqrt(share * (1 - share) / n + z * z / (4 * n * n))
    return max(0.0, centre - half), min(1.0, centre + half)


def over_seeds(estimate: Estimate, values: Sequence[float], level: float = 0.95) -> Estimate:
    """Widen the interval of a mean over seeds by the spread between them: √(s²_samples + s²_seed / k), Student's t."""
    from scipy.stats import t

    k = len(values)
    if k < 2:
        return estimate
    seeds = float(numpy.var(values, ddof=1)) / k
    error = math.sqrt(estimate.standard_error**2 + seeds)
    if error == 0:
        return estimate
    # Welch and Satterthwaite: the sampling part has effectively unlimited degrees of freedom.
    freedom = (k - 1) * (error**2 / seeds) ** 2 if seeds else math.inf
    half = float(t.ppf((1 + level) / 2, freedom)) * error
    p = float(t.cdf(-estimate.value / error, freedom))
    return Estimate(estimate.value, estimate.value - half, estimate.value + half, p, error)
