"""The loss from one set of answers to another on the same samples, with its interval, p-value and power.

A comparison answers one of two questions, and its verdict says which.

*These two adapters differ*: would this one still be worse on other samples? `flips` if answers are right or wrong and
independent, else `difference` with `swap_p`. *This recipe is worse*: would it be worse on other samples, trained with
other seeds? `recipes`, which needs several seeds. The loss is before minus after: positive is worse.

A simulation selected these methods (benchmarks/simulation/RESULTS.md). Between equal models a bootstrap's p raises up
to four times the alarms that it should, at the levels that many thresholds need: with few groups its tails are too
short, and BCa's correction for skewness, estimated from so few, does more harm than good.

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

    Both are (groups, d), or (seeds, groups, d), averaged over the seeds: the loss of these adapters, not of others.
    With a single group the interval is infinite.
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
    return Estimate(loss, loss - half, loss + half, _p_value(loss, error), float(error.standard), error)


def _p_value(loss: float, error: Error) -> float:
    """The tail probability whose reach is the loss; 0 or 1 if nothing varies."""
    from scipy.special import stdtr

    if loss < 0:
        return 1 - _p_value(-loss, error)
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
    """One-sided mid-p of no loss: how often random swaps of each group's two sides give at least this loss.

    If the two models are equal, swapping their answers to a group changes nothing: this paired randomization test is
    exact for any metric, any number of groups and any number of differing answers. `before` and `after` are
    (groups, d), `swapped` their `swapped_sums`. Ties count half, so that on right and wrong answers this is McNemar's
    mid-p, which `flips` computes without random swaps.
    """
    old, new = before.sum(0), after.sum(0)
    loss = function(old) - function(new)
    losses = function(old + new - swapped) - function(swapped)
    tie = 1e-9 * max(float(numpy.abs(losses).max()), abs(float(loss)))  # sums in another order differ by rounding
    larger, smaller = int((losses > loss + tie).sum()), int((losses < loss - tie).sum())
    return (1 + larger + (len(losses) - larger - smaller) / 2) / (1 + len(losses))


def flips(better: int, worse: int, n: int, level: float = 0.95) -> Estimate:
    """The loss of a right-or-wrong metric over `n` independent samples: McNemar's mid-p, Tango's interval.

    `better` samples were wrong and are now right, `worse` were right and are now wrong.
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
    # The maximum-likelihood share of `better` flips if the loss is `margin`: a root of 2n q² + b q - c.
    b = -better - worse + (2 * n - worse + better) * margin
    c = better * margin * (1 - margin)
    root = (numpy.sqrt(numpy.maximum(b * b + 8 * n * c, 0)) - b) / (4 * n)
    variance = n * (2 * root + margin * (1 - margin))
    gap = worse - better - n * margin
    with numpy.errstate(divide="ignore", invalid="ignore"):
        return numpy.where(gap == 0, 0.0, gap / numpy.sqrt(numpy.maximum(variance, 0)))


def tango(better: Any, worse: Any, n: Any, level: float = 0.95) -> tuple[numpy.ndarray, numpy.ndarray]:
    """Tango's score interval of the loss (worse - better) / n, any shape: margins that Tango's test does not reject."""
    loss = (numpy.asarray(worse, float) - better) / n
    z = NORMAL.inv_cdf((1 + level) / 2)
    ends = []
    for bound in (-1.0, 1.0):
        inside, outside = loss, numpy.full_like(loss, bound)
        for _ in range(40):  # bisection, to 1e-12
            middle = (inside + outside) / 2
            not_rejected = numpy.abs(tango_z(better, worse, n, middle)) <= z
            inside, outside = numpy.where(not_rejected, middle, inside), numpy.where(not_rejected, outside, middle)
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
    """The loss between recipes, (k_before, groups, d) and (k_after, groups, d), for other samples and seeds."""
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
    """The loss and its error from each seed's score (..., k_before + k_after), `before` first, and their covariance.

    `covariance` (..., k, k) is how the scores vary with the samples. The spread between seeds is assumed equal on both
    sides, and the seeds of both sides estimate it.
    """
    k_after = values.shape[-1] - k_before
    freedom = k_before + k_after - 2
    if freedom < 1:
        raise ValueError(f"{k_before} and {k_after} seeds: one side needs two to estimate their spread")
    shares = numpy.concatenate([numpy.full(k_before, 1 / k_before), numpy.full(k_after, -1 / k_after)])
    spread = (1 / k_before + 1 / k_after) / freedom
    between: Any = 0.0
    within: Any = 0.0
    for side in (slice(0, k_before), slice(k_before, None)):
        scores, block = values[..., side], covariance[..., side, side]
        between = between + spread * ((scores - scores.mean(-1, keepdims=True)) ** 2).sum(-1)
        within = within + spread * (numpy.einsum("...ii", block) - block.sum((-2, -1)) / scores.shape[-1])
    # The same seeds on both sides cancel out except for rounding, whose sign is arbitrary.
    samples = _zero_if_rounding(
        numpy.einsum("...ij,i,j", covariance, shares, shares),
        numpy.einsum("...ij,i,j", numpy.abs(covariance), numpy.abs(shares), numpy.abs(shares)),
    )
    loss = _zero_if_rounding(values @ shares, numpy.abs(values) @ numpy.abs(shares))
    return loss, Error(samples, groups - 1, between, within, freedom, growth)


def _zero_if_rounding(total: Any, terms: Any) -> Any:
    """The sum, or 0 if it is within the rounding error of its terms."""
    return numpy.where(numpy.abs(total) > 1e-12 * terms, total, 0.0)[()]


# Power


def detectable(drop: float, error: Error, alpha: float, power: float = 0.8) -> float:
    """The smallest true loss that a `drop` threshold at one-sided `alpha` detects with this power.

    The threshold fails if the estimated loss exceeds both `drop` and c·SE, c being the critical value. With a known SE
    the result is max(drop, c·SE) + .84·SE. SE is estimated, so `c·SE` is averaged over its possible estimates; and if
    a true loss causes flips, SE is that of such a loss. NaN if no sample differs, infinite if SE cannot be estimated.
    """
    from scipy.special import chdtri, ndtr

    if not math.isfinite(error.standard):
        return math.inf
    if not error.standard and not error.growth:  # no sample differs, so their variance is unknown
        return math.nan
    ranks = (numpy.arange(40) + 0.5) / 40

    def variance_ratios(freedom: float) -> numpy.ndarray:  # an estimated variance over the true one
        return chdtri(freedom, ranks) / freedom if math.isfinite(freedom) else numpy.ones(1)

    of_samples, of_seeds = variance_ratios(error.freedom)[:, None], variance_ratios(error.seed_freedom)

    def power_at(loss: float) -> float:
        true = replace(error, samples=error.samples + error.growth * loss)
        estimated = replace(
            true, samples=true.samples * of_samples, within=true.within * of_samples, between=true.between * of_seeds
        )
        margin = loss - numpy.maximum(drop, estimated.reach(alpha))
        return float(ndtr(margin / max(float(true.standard), 1e-12)).mean())

    low, high = 0.0, max(drop, 1e-6)
    while power_at(high) < power:
        low, high = high, 2 * high
    for _ in range(40):
        middle = (low + high) / 2
        low, high = (middle, high) if power_at(middle) < power else (low, middle)
    return high
