"""The loss from one set of answers to another on the same samples, with its interval, its p-value and its power.

Two sides are held against each other by one of two questions, and a verdict says which one it answers.

*These two adapters differ*: on other samples, would this one still be worse? `flips` where answers are right or wrong
and independent, else `difference` with `swap_p`. *This recipe is worse*: on other samples, and trained with other
seeds? `recipes`, which needs several seeds. Both speak of the loss, before minus after: positive is worse.

Which method does what was settled by simulation (benchmarks/simulation/RESULTS.md). Between equal models a bootstrap's p
raises up to four times the alarms that it should, at the levels that many thresholds ask for: from few groups it draws
tails that are too short, and BCa's correction for skewness, estimated there, does more harm than good.

Sources: Efron & Tibshirani, An Introduction to the Bootstrap, ch. 15 (swapping); Fagerland, Lydersen & Laake 2013
(McNemar's mid-p); Tango 1998 (score interval of a paired difference); Banerjee 1960 (a t quantile for each variance).
"""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import numpy

from prism.verdicts.intervals import NORMAL, Error, Estimate, Function, influence

# These two adapters differ


def difference(
    before: numpy.ndarray,
    after: numpy.ndarray,
    function: Function,
    level: float = 0.95,
    right_or_wrong: bool = False,
) -> Estimate:
    """The loss from `before` to `after` on the same samples, with Student's interval over groups.

    Both are (groups, d), or (seeds, groups, d), of which the mean over the seeds is taken: these adapters, no others. A
    single group says nothing: the interval is infinite.
    """
    sides = [side if side.ndim == 3 else side[None] for side in (before, after)]
    loss = float(function(sides[0].sum(-2)).mean() - function(sides[1].sum(-2)).mean())
    groups = before.shape[-2]
    if groups < 2:
        return _estimate(loss, Error(math.inf), level)
    moves = influence(sides[0], function).mean(0) - influence(sides[1], function).mean(0)
    growth = loss_growth(sides[0], function) if right_or_wrong else 0.0
    return _estimate(loss, Error(float((moves**2).sum()) / (groups * (groups - 1)), groups - 1, growth=growth), level)


def loss_growth(before: numpy.ndarray, function: Function) -> float:
    """`Error.growth` of a right-or-wrong metric, from (seeds, groups, d): 1/n times the groups' design effect."""
    groups = before.shape[1]
    right = function(before.sum(-2))
    chance = float((right * (1 - right)).mean())
    variance = float((influence(before, function) ** 2).mean()) / (groups - 1)
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


def swap_p(before: numpy.ndarray, after: numpy.ndarray, swapped: numpy.ndarray, function: Function) -> float:
    """One-sided mid-p of no loss: how often coins that swap the two sides of each group make one at least as large.

    If the two models are equal, their answers to a group might as well have changed places: the paired randomization
    test is exact for any metric, any number of groups and however few answers differ. `before` and `after` are
    (groups, d), `swapped` what `swapped_sums` made of them. Ties count half, so that on right and wrong answers this
    is McNemar's mid-p, which `flips` computes without coins.
    """
    old, new = before.sum(0), after.sum(0)
    loss = function(old) - function(new)
    losses = function(old + new - swapped) - function(swapped)
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
    before: numpy.ndarray,
    after: numpy.ndarray,
    function: Function,
    level: float = 0.95,
    right_or_wrong: bool = False,
) -> Estimate:
    """The loss from one recipe, (k_before, groups, d), to another, (k_after, groups, d), on other samples with other seeds."""
    groups = before.shape[1]
    values = numpy.concatenate([function(before.sum(-2)), function(after.sum(-2))])
    if groups < 2:
        return _estimate(float(values[: len(before)].mean() - values[len(before) :].mean()), Error(math.inf), level)
    moves = numpy.vstack([influence(before, function), influence(after, function)])
    covariance = moves @ moves.T / (groups * (groups - 1))
    growth = loss_growth(before, function) if right_or_wrong else 0.0
    return _estimate(*recipe_error(values, covariance, len(before), groups, growth), level)


def recipe_error(
    values: numpy.ndarray, covariance: numpy.ndarray, k_before: int, groups: int, growth: float = 0.0
) -> tuple[Any, Error]:
    """Loss and its error from each seed's score (..., k_before + k_after), those of the side before first, and their covariance.

    `covariance` (..., k, k) says how the scores vary with the samples. The spread between seeds is taken to be the same
    on both sides, and both sides' seeds estimate it.
    """
    k_after = values.shape[-1] - k_before
    freedom = k_before + k_after - 2
    if freedom < 1:
        raise ValueError(f"{k_before} and {k_after} seeds: two of one side are needed to see a spread")
    shares = numpy.concatenate([numpy.full(k_before, 1 / k_before), numpy.full(k_after, -1 / k_after)])
    spread = (1 / k_before + 1 / k_after) / freedom
    between: Any = 0.0
    within: Any = 0.0
    for side in (slice(0, k_before), slice(k_before, None)):
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
