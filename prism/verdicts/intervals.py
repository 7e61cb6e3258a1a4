"""Confidence intervals of one value over groups, in vectorized numpy.

Samples of one group (one image, one context) are dependent, so whole groups are resampled and left out. Every
metric is a function of sums of per-sample statistics: `sums` is (groups, d), or (seeds, groups, d), and `function` maps
(..., d) to (...).

Sources: Efron & Tibshirani, An Introduction to the Bootstrap, ch. 11 (jackknife) and 14 (BCa); Hesterberg 2015, What
Teachers Should Know About the Bootstrap (expanded percentiles); Wilson 1927.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from statistics import NormalDist
from typing import Any

import numpy

FEWEST_GROUPS = 10  # effective ones: with fewer, no interval covers 93 % and Student's t is not trusted (simulation)
RESAMPLES = 10_000
NORMAL = NormalDist()
CHUNK = 500  # resamples drawn at a time: 500 x 10,000 groups of float64 are 40 MB

Function = Callable[[numpy.ndarray], numpy.ndarray]


@dataclass(frozen=True)
class Error:
    """The variances of an estimated loss; `samples` and `within` are numbers, or arrays of one shape.

    `samples` is the variance due to the samples, with `freedom` degrees of freedom. With several seeds, `between` is
    each side's observed variance between seeds, with `seed_freedom`; `within` is the variance that samples alone cause
    between equal seeds, and `samples` already includes it. A true loss adds to `samples`: `growth` times
    the loss, as right answers cannot be lost without flips, and `uneven` times its square, as a score loses more where it
    is high. `skew` is that of the mean of the groups' parts in the loss: their skewness over √groups; `telling` is
    how many of them make the variance.
    """

    samples: Any
    freedom: float = math.inf
    between: tuple[Any, ...] = ()
    within: Any = 0.0
    seed_freedom: tuple[float, ...] = ()
    growth: float = 0.0
    uneven: float = 0.0
    skew: float = 0.0
    telling: float = math.inf

    def of_loss(self, loss: float) -> Error:
        """The same where the true loss is `loss`."""
        return replace(self, samples=self.samples + self.growth * loss + self.uneven * loss**2)

    @property
    def standard(self) -> Any:
        """√(s²_samples + s²_old/k_old + s²_new/k_new); s² is the variance of a side's seeds beyond what samples explain."""
        return numpy.sqrt(self.samples + numpy.maximum(sum(self.between) - self.within, 0))

    def reach(self, tail: float) -> Any:
        """The loss that chance exceeds with probability `tail`: c·SE, each part with its own t quantile.

        One quantile for all parts, at Welch and Satterthwaite's mean of their degrees of freedom, raises up to 34 %
        false alarms over 40 thresholds if the side of two seeds has the larger spread; with one each they stay under 5 %.
        """
        samples = quantile(tail, self.freedom) ** 2
        variance = samples * (self.samples - self.within)
        for between, freedom in zip(self.between, self.seed_freedom):
            variance = variance + quantile(tail, freedom) ** 2 * between
        return numpy.sqrt(numpy.maximum(variance, samples * self.samples))


@dataclass(frozen=True)
class Estimate:
    """A value with its interval; `p` is the one-sided p-value of a true value at or below 0."""

    value: float
    low: float
    high: float
    p: float
    standard_error: float
    error: Error | None = None  # of a loss; `detectable` reads it


# Sums and resampling


def group_sums(statistics: numpy.ndarray, groups: Sequence[str]) -> numpy.ndarray:
    """Sum (n, d) statistics within each group: (number of groups, d). NaN rows (unscored) add nothing."""
    _, index = numpy.unique(numpy.asarray(groups), return_inverse=True)
    sums = numpy.zeros((index.max() + 1, statistics.shape[1]))
    numpy.add.at(sums, index, numpy.nan_to_num(statistics))
    return sums


def effective_groups(sizes: numpy.ndarray) -> float:
    """n²/Σn_g² of the groups' sizes, how many groups of equal size tell as much as these: G if all are equal, about 1 if one has nearly all.

    Source: Carter, Schnepel & Steigerwald 2017, Asymptotic Behavior of a t-Test Robust to Cluster Heterogeneity.
    """
    return float(sizes.sum() ** 2 / (sizes.astype(float) ** 2).sum()) if len(sizes) else 0.0


def resampled_sums(sums: numpy.ndarray, resamples: int = RESAMPLES, seed: int = 42) -> numpy.ndarray:
    """Totals of `resamples` draws of groups with replacement: (groups, d) to (resamples, d).

    Draw once for all columns: shared draws cost one matrix product, and differences of metrics are paired.
    """
    groups = len(sums)
    random = numpy.random.default_rng(seed)
    totals = numpy.empty((resamples, sums.shape[1]))
    for rows in _chunks(resamples):
        drawn = random.integers(0, groups, (rows.stop - rows.start, groups))
        counts = numpy.array([numpy.bincount(draw, minlength=groups) for draw in drawn], dtype=float)
        totals[rows] = counts @ sums
    return totals


def _chunks(resamples: int) -> Iterator[slice]:
    for start in range(0, resamples, CHUNK):
        yield slice(start, min(start + CHUNK, resamples))


def influence(sums: numpy.ndarray, function: Function) -> numpy.ndarray:
    """How much leaving out each group changes `function(sums.sum(-2))`: (..., groups, d) to (..., groups).

    Its mean is 0, and its variance divided by the number of groups is the jackknife's sampling variance of the value.
    """
    left_out = function(sums.sum(-2, keepdims=True) - sums)
    return (sums.shape[-2] - 1) * (left_out.mean(-1, keepdims=True) - left_out)


# One value


def bca(sums: numpy.ndarray, totals: numpy.ndarray, function: Function, level: float = 0.95) -> Estimate:
    """Bias-corrected and accelerated bootstrap interval of `function(sums.sum(0))`, for a score, which may be skewed.

    `sums` is (groups, d), `totals` its `resampled_sums`. The tails are Student's (Hesterberg's expansion), because a
    resample's variance is 1 - 1/groups of the true one, and a spread estimated from few groups needs wider tails. If
    nothing varies, the interval is the value.
    """
    value = float(function(sums.sum(0)))
    draws = numpy.sort(function(totals))
    spread = float(draws.std(ddof=1))
    # Ties count half, so that a discrete metric gets no bias correction from its coarseness alone.
    below = (numpy.searchsorted(draws, value, "left") + numpy.searchsorted(draws, value, "right")) / 2 / len(draws)
    p = (1 + numpy.searchsorted(draws, 0.0, "right")) / (1 + len(draws))
    if spread == 0 or len(sums) < 2:
        return Estimate(value, value, value, float(p), spread)
    moves = influence(sums, function)
    scale = float((moves**2).sum() ** 1.5)
    acceleration = float((moves**3).sum()) / (6 * scale) if scale else 0.0
    bias = NORMAL.inv_cdf(min(max(below, 1 / len(draws)), 1 - 1 / len(draws)))
    reach = quantile((1 - level) / 2, len(sums) - 1) * math.sqrt(len(sums) / (len(sums) - 1))
    ends = []
    for tail in (-reach, reach):
        z = bias + tail
        share = NORMAL.cdf(bias + z / (1 - acceleration * z))
        ends.append(float(numpy.quantile(draws, share)))
    return Estimate(value, ends[0], ends[1], float(p), spread)


def wilson(right: float, n: float, level: float = 0.95) -> tuple[float, float]:
    """Wilson's score interval of a proportion: not empty at 0 or 1, and never outside [0, 1]."""
    z = NORMAL.inv_cdf((1 + level) / 2)
    share = right / n
    centre = (share + z * z / (2 * n)) / (1 + z * z / n)
    half = z / (1 + z * z / n) * math.sqrt(share * (1 - share) / n + z * z / (4 * n * n))
    return max(0.0, centre - half), min(1.0, centre + half)


def clopper_pearson(right: float, n: float, level: float = 0.95) -> tuple[float, float]:
    """The exact interval of a proportion; both counts may be fractions, as an effective n is."""
    from scipy.special import betaincinv

    tail = (1 - level) / 2
    low = float(betaincinv(right, n - right + 1, tail)) if right > 0 else 0.0
    return low, float(betaincinv(right + 1, n - right, 1 - tail)) if n - right > 1e-9 else 1.0


def quantile(tail: float, freedom: float) -> float:
    """The upper quantile of Student's t distribution."""
    from scipy.special import stdtrit

    return -float(stdtrit(freedom, tail)) if math.isfinite(freedom) else NORMAL.inv_cdf(1 - tail)
