"""Intervals and tests, over groups, in vectorized numpy.

Samples of one group (one image, one context) stand or fall together, so groups are what is resampled, swapped and left
out. Every metric is a function of sums of per-sample statistics, and everything here takes it as such: `sums` is
(groups, d), or (seeds, groups, d), and `function` maps (..., d) to (...).

Two models are held against each other by one of two questions, and a verdict says which one it answers.

*These two adapters differ*: on other samples, would this one still be worse? `flips` where answers are right or wrong
and independent, else `difference` with `swap_p`. *This recipe is worse*: on other samples, and trained with other
seeds? `recipes`, which needs several seeds. Both speak of the loss, reference minus new: positive is worse.

Which method does what was settled by simulation (benchmarks/simulation/RESULTS.md). Between equal models a bootstrap's p
raises up to four times the alarms that it should, at the levels that many thresholds ask for: from few groups it draws
tails that are too short, and BCa's correction for skewness, estimated there, does more harm than good.

Sources: Efron & Tibshirani, An Introduction to the Bootstrap, ch. 11 (jackknife), 14 (BCa) and 15 (swapping);
Hesterberg 2015, What Teachers Should Know About the Bootstrap (expanded percentiles); Wilson 1927; Fagerland, Lydersen
& Laake 2013 (McNemar's mid-p); Tango 1998 (score interval of a paired difference); Banerjee 1960 (a t quantile for each
variance).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from statistics import NormalDist
from typing import Any

import numpy

RESAMPLES = 10_000
NORMAL = NormalDist()
CHUNK = 500  # resamples drawn at a time: 500 x 10,000 groups of float64 are 40 MB

Function = Callable[[numpy.ndarray], numpy.ndarray]


@dataclass(frozen=True)
class Error:
    """What a loss is uncertain by, as variances of it; numbers, or arrays of one shape.

    `samples` is how it varies with the samples, known to groups - 1 `freedom`. With several seeds it was seen to vary
    by `between` from seed to seed, known to `seed_freedom`, where samples alone let equal seeds vary by `within`, which
    is part of `samples` already. `growth` is what a true loss of 1 adds to `samples`: right answers cannot get lost
    without flips of their own.
    """

    samples: Any
    freedom: float = math.inf
    between: Any = 0.0
    within: Any = 0.0
    seed_freedom: float = math.inf
    growth: float = 0.0

    @property
    def standard(self) -> Any:
        """√(s²_samples + s²_seed (1/k_ref + 1/k_new)), s²_seed being what seeds vary beyond what samples explain."""
        return numpy.sqrt(self.samples + numpy.maximum(self.between - self.within, 0))

    def reach(self, tail: float) -> Any:
        """How far chance carries the loss with probability `tail`: c·SE, each part with the t quantile that it earns.

        One quantile for both parts, at Satterthwaite's mean of their degrees of freedom, raises up to 12 % false alarms
        over 40 thresholds and 5 seeds; with one each they stay under 5 %.
        """
        samples, seeds = quantile(tail, self.freedom) ** 2, quantile(tail, self.seed_freedom) ** 2
        varied = samples * (self.samples - self.within) + seeds * self.between
        return numpy.sqrt(numpy.maximum(varied, samples * self.samples))


@dataclass(frozen=True)
class Estimate:
    """A value with its interval; `p` is the one-sided p-value of a true value at or below 0."""

    value: float
    low: float
    high: float
    p: float
    standard_error: float
    error: Error | None = None  # of a loss: what `detectable` reads


# Sums, and what resampling makes of them


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
    for rows in _chunks(resamples):
        drawn = random.integers(0, groups, (rows.stop - rows.start, groups))
        counts = numpy.array([numpy.bincount(draw, minlength=groups) for draw in drawn], dtype=float)
        totals[rows] = counts @ sums
    return totals


def swapped_sums(
    reference: numpy.ndarray, new: numpy.ndarray, resamples: int = RESAMPLES, seed: int = 42
) -> numpy.ndarray:
    """Totals of `new` where each group swapped sides with `reference` or not, by a coin: (groups, d) to (resamples, d).

    What such a total leaves of the joint total is the other side's. Swap once for all columns of all metrics.
    """
    random = numpy.random.default_rng(seed)
    change = reference - new
    totals = numpy.empty((resamples, new.shape[1]))
    for rows in _chunks(resamples):
        coins = random.integers(0, 2, (rows.stop - rows.start, len(new)), dtype=numpy.int8)
        totals[rows] = coins.astype(float) @ change
    return totals + new.sum(0)


def _chunks(resamples: int) -> Iterator[slice]:
    for start in range(0, resamples, CHUNK):
        yield slice(start, min(start + CHUNK, resamples))


def influence(sums: numpy.ndarray, function: Function) -> numpy.ndarray:
    """How far each group moves `function(sums.sum(-2))`, by leaving it out: (..., groups, d) to (..., groups).

    Its mean is 0, and its variance over the number of groups is the jackknife's sampling variance of the value.
    """
    left_out = function(sums.sum(-2, keepdims=True) - sums)
    return (sums.shape[-2] - 1) * (left_out.mean(-1, keepdims=True) - left_out)


# One value


def bca(sums: numpy.ndarray, totals: numpy.ndarray, function: Function, level: float = 0.95) -> Estimate:
    """Bias-corrected and accelerated bootstrap interval of `function(sums.sum(0))`: for a score, which may be skewed.

    `sums` is (groups, d), `totals` what `resampled_sums` made of it. The tails are Student's (Hesterberg's expansion):
    a resample varies by 1 - 1/groups of what it should, and a spread known from few groups has tails of its own. Where
    nothing varies the interval is the value.
    """
    value = float(function(sums.sum(0)))
    draws = numpy.sort(function(totals))
    spread = float(draws.std(ddof=1))
    # Ties count half, so that a discrete metric gets no bias correction out of its own coarseness.
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
    """Wilson's score interval of a proportion: never empty at 0 or 1, never outside them."""
    z = NORMAL.inv_cdf((1 + level) / 2)
    share = right / n
    centre = (share + z * z / (2 * n)) / (1 + z * z / n)
    half = z / (1 + z * z / n) * math.sqrt(share * (1 - share) / n + z * z / (4 * n * n))
    return max(0.0, centre - half), min(1.0, centre + half)


def over_seeds(estimate: Estimate, values: Sequence[float], level: float = 0.95) -> Estimate:
    """Widen the interval of a mean over seeds by the spread between them: √(s²_samples + s²_seed / k), Student's t."""
    from scipy.special import stdtr

    k = len(values)
    if k < 2:
        return estimate
    seeds = float(numpy.var(values, ddof=1)) / k
    error = math.sqrt(estimate.standard_error**2 + seeds)
    if error == 0:
        return estimate
    # Welch and Satterthwaite: the sampling part has effectively unlimited degrees of freedom.
    freedom = (k - 1) * (error**2 / seeds) ** 2 if seeds else math.inf
    half = quantile((1 - level) / 2, freedom) * error
    p = float(stdtr(freedom, -estimate.value / error))
    return Estimate(estimate.value, estimate.value - half, estimate.value + half, p, error)


def quantile(tail: float, freedom: float) -> float:
    """Student's upper quantile."""
    from scipy.special import stdtrit

    return -float(stdtrit(freedom, tail)) if math.isfinite(freedom) else NORMAL.inv_cdf(1 - tail)


# These two adapters differ


def difference(
    reference: numpy.ndarray,
    new: numpy.ndarray,
    function: Function,
    level: float = 0.95,
    right_or_wrong: bool = False,
) -> Estimate:
    """The loss from `reference` to `new` on the same samples, with Student's interval over groups.

    Both are (groups, d), or (seeds, groups, d), of which the mean over the seeds is taken: these adapters, no others. A
    single group says nothing: the interval is infinite.
    """
    sides = [side if side.ndim == 3 else side[None] for side in (reference, new)]
    loss = float(function(sides[0].sum(-2)).mean() - function(sides[1].sum(-2)).mean())
    groups = reference.shape[-2]
    if groups < 2:
        return _estimate(loss, Error(math.inf), level)
    moves = influence(sides[0], function).mean(0) - influence(sides[1], function).mean(0)
    growth = loss_growth(sides[0], function) if right_or_wrong else 0.0
    return _estimate(loss, Error(float((moves**2).sum()) / (groups * (groups - 1)), groups - 1, growth=growth), level)


def loss_growth(reference: numpy.ndarray, function: Function) -> float:
    """`Error.growth` of a right-or-wrong metric, from (seeds, groups, d): 1/n times the groups' design effect."""
    groups = reference.shape[1]
    right = function(reference.sum(-2))
    chance = float((right * (1 - right)).mean())
    variance = float((influence(reference, function) ** 2).mean()) / (groups - 1)
    return variance / chance if chance > 0 else 1 / groups


def _estimate(loss: float, error: Error, level: float) -> Estimate:
    half = float(error.reach((1 - level) / 2))
    return Estimate(loss, loss - half, loss + half, _p(loss, error), float(error.standard), error)


def _p(loss: float, error: Error) -> float:
    """The tail whose reach is the loss; where nothing varies, 0 or 1."""
    from scipy.special import stdtr

    if loss < 0:
        return 1 - _p(-loss, error)
    if loss == 0:
        return 0.5 if error.standard else 1.0
    if not error.between:
        return float(stdtr(error.freedom, -loss / error.standard)) if error.standard else 0.0
    low, high = -200.0, math.log10(0.5)
    for _ in range(40):
        middle = (low + high) / 2
        low, high = (middle, high) if error.reach(10**middle) > loss else (low, middle)
    return 10**high


def swap_p(reference: numpy.ndarray, new: numpy.ndarray, swapped: numpy.ndarray, function: Function) -> float:
    """One-sided mid-p of no loss: how often coins that swap the two sides of each group make one at least as large.

    If the two models are equal, their answers to a group might as well have changed places: the paired randomization
    test is exact for any metric, any number of groups and however few answers differ. `reference` and `new` are
    (groups, d), `swapped` what `swapped_sums` made of them. Ties count half, so that on right and wrong answers this
    is McNemar's mid-p, which `flips` computes without coins.
    """
    before, after = reference.sum(0), new.sum(0)
    loss = function(before) - function(after)
    losses = function(before + after - swapped) - function(swapped)
    tie = 1e-9 * max(float(numpy.abs(losses).max()), abs(float(loss)))  # sums in another order differ in the last bits
    larger, smaller = int((losses > loss + tie).sum()), int((losses < loss - tie).sum())
    return (1 + larger + (len(losses) - larger - smaller) / 2) / (1 + len(losses))


def flips(better: int, worse: int, n: int, level: float = 0.95) -> Estimate:
    """The loss of a right-or-wrong metric over `n` independent samples: McNemar's mid-p, Tango's interval.

    `better` samples were wrong and are right now, `worse` were right and are wrong now.
    """
    loss = (worse - better) / n
    low, high = tango(better, worse, n, level)
    error = Error(((worse + better) / n - loss**2) / n, growth=1 / n)
    return Estimate(loss, float(low), float(high), float(mcnemar_midp(better, worse)[0]), float(error.standard), error)


def mcnemar_midp(better: Any, worse: Any) -> tuple[numpy.ndarray, numpy.ndarray]:
    """McNemar's mid-p of no change from counts of flips, any shape: (one-sided, for a loss; two-sided)."""
    from scipy.stats import binom

    better, worse = numpy.asarray(better), numpy.asarray(worse)
    at = binom.pmf(worse, better + worse, 0.5) / 2
    loss, gain = binom.sf(worse, better + worse, 0.5) + at, binom.sf(better, better + worse, 0.5) + at
    return loss, numpy.minimum(1, 2 * numpy.minimum(loss, gain))


def tango_z(better: Any, worse: Any, n: Any, margin: Any) -> numpy.ndarray:
    """Tango's score statistic of a loss of exactly `margin`, standard normal; at margin 0 it is McNemar's.

    1 - Φ(z) is the one-sided p-value of "the loss is at most `margin`".
    """
    better, worse, margin = numpy.asarray(better, float), numpy.asarray(worse, float), numpy.asarray(margin, float)
    # The most likely share of `better` flips, had the loss been `margin`: a root of 2n q² + b q - c.
    b = -better - worse + (2 * n - worse + better) * margin
    c = better * margin * (1 - margin)
    root = (numpy.sqrt(numpy.maximum(b * b + 8 * n * c, 0)) - b) / (4 * n)
    variance = n * (2 * root + margin * (1 - margin))
    gap = worse - better - n * margin
    with numpy.errstate(divide="ignore", invalid="ignore"):
        return numpy.where(gap == 0, 0.0, gap / numpy.sqrt(numpy.maximum(variance, 0)))


def tango(better: Any, worse: Any, n: Any, level: float = 0.95) -> tuple[numpy.ndarray, numpy.ndarray]:
    """Tango's score interval of the loss (worse - better) / n, any shape: the margins that his test does not reject."""
    loss = (numpy.asarray(worse, float) - better) / n
    z = NORMAL.inv_cdf((1 + level) / 2)
    ends = []
    for bound in (-1.0, 1.0):
        inside, outside = loss, numpy.full_like(loss, bound)
        for _ in range(40):  # bisection, to 1e-12
            middle = (inside + outside) / 2
            kept = numpy.abs(tango_z(better, worse, n, middle)) <= z
            inside, outside = numpy.where(kept, middle, inside), numpy.where(kept, outside, middle)
        ends.append(inside)
    return ends[0], ends[1]


# This recipe is worse


def recipes(
    reference: numpy.ndarray,
    new: numpy.ndarray,
    function: Function,
    level: float = 0.95,
    right_or_wrong: bool = False,
) -> Estimate:
    """The loss from one recipe, (k_ref, groups, d), to another, (k_new, groups, d), on other samples with other seeds."""
    groups = reference.shape[1]
    values = numpy.concatenate([function(reference.sum(-2)), function(new.sum(-2))])
    if groups < 2:
        return _estimate(
            float(values[: len(reference)].mean() - values[len(reference) :].mean()), Error(math.inf), level
        )
    moves = numpy.vstack([influence(reference, function), influence(new, function)])
    covariance = moves @ moves.T / (groups * (groups - 1))
    growth = loss_growth(reference, function) if right_or_wrong else 0.0
    return _estimate(*recipe_error(values, covariance, len(reference), groups, growth), level)


def recipe_error(
    values: numpy.ndarray, covariance: numpy.ndarray, k_ref: int, groups: int, growth: float = 0.0
) -> tuple[Any, Error]:
    """Loss and its error from each seed's score (..., k_ref + k_new), the reference's first, and their covariance.

    `covariance` (..., k, k) says how the scores vary with the samples. The spread between seeds is taken to be the same
    on both sides, and both sides' seeds estimate it.
    """
    k_new = values.shape[-1] - k_ref
    freedom = k_ref + k_new - 2
    if freedom < 1:
        raise ValueError(f"{k_ref} and {k_new} seeds: two of one side are needed to see a spread")
    shares = numpy.concatenate([numpy.full(k_ref, 1 / k_ref), numpy.full(k_new, -1 / k_new)])
    spread = (1 / k_ref + 1 / k_new) / freedom
    between: Any = 0.0
    within: Any = 0.0
    for side in (slice(0, k_ref), slice(k_ref, None)):
        mine, part = values[..., side], covariance[..., side, side]
        between = between + spread * ((mine - mine.mean(-1, keepdims=True)) ** 2).sum(-1)
        within = within + spread * (numpy.einsum("...ii", part) - part.sum((-2, -1)) / mine.shape[-1])
    # The same seeds on both sides cancel out but for the last bits, whose sign is anybody's.
    samples = _or_nothing(
        numpy.einsum("...ij,i,j", covariance, shares, shares),
        numpy.einsum("...ij,i,j", numpy.abs(covariance), numpy.abs(shares), numpy.abs(shares)),
    )
    loss = _or_nothing(values @ shares, numpy.abs(values) @ numpy.abs(shares))
    return loss, Error(samples, groups - 1, between, within, freedom, growth)


def _or_nothing(found: Any, terms: Any) -> Any:
    """A sum, or 0 where it is no more than what rounding leaves of its terms."""
    return numpy.where(numpy.abs(found) > 1e-12 * terms, found, 0.0)[()]


# What could have been seen


def detectable(drop: float, error: Error, alpha: float, power: float = 0.8) -> float:
    """The smallest true loss that a `drop` threshold at one-sided `alpha` catches with this power.

    It fails where the loss found exceeds both `drop` and c·SE, c the critical value: max(drop, c·SE) + .84·SE, if SE is
    known. It is estimated, so `c·SE` is averaged over what the estimate might have been; and where a true loss brings
    flips of its own, SE is that of such a loss. NaN where no sample differs, infinite where chance cannot be told.
    """
    from scipy.special import chdtri, ndtr

    if not math.isfinite(error.standard):
        return math.inf
    if not error.standard and not error.growth:  # not one sample differs: nothing tells how much they might
        return math.nan
    ranks = (numpy.arange(40) + 0.5) / 40

    def might_be(freedom: float) -> numpy.ndarray:  # an estimated variance over the true one
        return chdtri(freedom, ranks) / freedom if math.isfinite(freedom) else numpy.ones(1)

    seen, seeds_seen = might_be(error.freedom)[:, None], might_be(error.seed_freedom)

    def caught(loss: float) -> float:
        true = replace(error, samples=error.samples + error.growth * loss)
        found = replace(true, samples=true.samples * seen, within=true.within * seen, between=true.between * seeds_seen)
        beyond = loss - numpy.maximum(drop, found.reach(alpha))
        return float(ndtr(beyond / max(float(true.standard), 1e-12)).mean())

    low, high = 0.0, max(drop, 1e-6)
    while caught(high) < power:
        low, high = high, 2 * high
    for _ in range(40):
        middle = (low + high) / 2
        low, high = (middle, high) if caught(middle) < power else (low, middle)
    return high
