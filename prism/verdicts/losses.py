"""The loss from one set of answers to another on the same samples, with its interval, p-value and power.

A comparison answers one of two questions, and its verdict says which.

*These two adapters differ*: would this one still be worse on other samples? `flips` if answers are right or wrong and
independent, else `difference`. *This recipe is worse*: would it be worse on other samples, trained with other seeds?
`recipes`, which needs several seeds on one side. The loss is before minus after: positive is worse. Whether it is shown
to exceed a limit, prism.verdicts.margins tests.

Sources: Fagerland, Lydersen & Laake 2013 (McNemar's mid-p); Tango 1998 (score interval of a paired difference);
Banerjee 1960 (a t quantile for each variance, which keeps its level whatever their ratio).
"""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import numpy

from prism.verdicts.intervals import NORMAL, Error, Estimate, Function, effective_groups, influence

ASSUMED_SPREAD = 2.0  # a single seed's spread as a multiple of the other side's, so that up to twice alarms no more

# These two adapters differ


def difference(
    before: numpy.ndarray,
    after: numpy.ndarray,
    function: Function,
    level: float = 0.95,
    right_or_wrong: bool = False,
    sizes: numpy.ndarray | None = None,
) -> Estimate:
    """The loss from `before` to `after` on the same samples, with Student's interval over effective groups.

    Both are (groups, d), or (seeds, groups, d), averaged over the seeds: the loss of these adapters, not of others.
    `sizes` are the groups' numbers of samples, equal if None. With a single group the interval is infinite.
    """
    sides = [side if side.ndim == 3 else side[None] for side in (before, after)]
    before_values = function(sides[0].sum(-2))
    loss = float(before_values.mean() - function(sides[1].sum(-2)).mean())
    groups = before.shape[-2]
    if groups < 2:
        return _estimate(loss, Error(math.inf), level)
    of_before = influence(sides[0], function)
    moves = of_before.mean(0) - influence(sides[1], function).mean(0)
    growth, uneven = loss_growth(before_values, of_before, right_or_wrong)
    samples = float((moves**2).sum()) / (groups * (groups - 1))
    error = Error(samples, _freedom(groups, sizes), growth=growth, uneven=uneven, **_shape(moves, sizes))
    return _estimate(loss, error, level)


def _shape(moves: numpy.ndarray, sizes: numpy.ndarray | None) -> dict[str, Any]:
    """`Error.skew` and `Error.telling` of how much each group moves the loss.

    Only independent samples tell a skewness: that of groups is mostly that of the largest one.
    """
    squares = float((moves**2).sum())
    known = squares > 1e-24 and (sizes is None or sizes.max() == 1)
    return {"skew": float((moves**3).sum()) / squares**1.5 if known else 0.0, "telling": telling(moves)}


def _freedom(groups: int, sizes: numpy.ndarray | None) -> float:
    """Degrees of freedom: effective groups minus 1, at least 1."""
    return max(effective_groups(sizes) - 1, 1.0) if sizes is not None else groups - 1


def telling(moves: numpy.ndarray) -> float:
    """How many equal moves would make a variance as sure as these: all if they are equal, 1 if one has all."""
    squares = moves**2
    fourth = float((squares**2).sum())
    return float(squares.sum()) ** 2 / fourth if fourth else math.inf


def loss_growth(values: numpy.ndarray, moves: numpy.ndarray, right_or_wrong: bool) -> tuple[float, float]:
    """`Error.growth` and `Error.uneven`, from each seed's value and how much each group moves it, (seeds, groups).

    A right-or-wrong metric loses by flips: 1/n times the groups' design effect, of each loss. Any other loses in
    proportion to each score, so that the loss varies with the samples as the value does.
    """
    groups = moves.shape[1]
    variance = float((moves**2).mean()) / (groups - 1)
    if not right_or_wrong:
        square = float((values**2).mean())
        return 0.0, variance / square if square > 0 else 0.0
    chance = float((values * (1 - values)).mean())
    return (variance / chance if chance > 0 else 1 / groups), 0.0


def _estimate(loss: float, error: Error, level: float) -> Estimate:
    half = float(error.reach((1 - level) / 2))
    return Estimate(loss, loss - half, loss + half, p_value(loss, error), float(error.standard), error)


def p_value(loss: float, error: Error) -> float:
    """The tail probability whose reach is the loss; 0 or 1 if nothing varies."""
    from scipy.special import stdtr

    if loss < 0:
        return 1 - p_value(-loss, error)
    if loss == 0:
        return 0.5 if error.standard else 1.0
    if not sum(error.between):
        return float(stdtr(error.freedom, -loss / error.standard)) if error.standard else 0.0
    low, high = -100.0, math.log10(0.5)  # the square of a t quantile with one degree of freedom stays finite
    for _ in range(40):
        middle = (low + high) / 2
        low, high = (middle, high) if error.reach(10**middle) > loss else (low, middle)
    return 10**high


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
    inside = numpy.stack([loss, loss])
    outside = numpy.stack([numpy.full_like(loss, -1.0), numpy.full_like(loss, 1.0)])
    for _ in range(40):  # bisection, to 1e-12
        middle = (inside + outside) / 2
        not_rejected = numpy.abs(tango_z(better, worse, n, middle)) <= z
        inside, outside = numpy.where(not_rejected, middle, inside), numpy.where(not_rejected, outside, middle)
    return inside[0], inside[1]


# This recipe is worse


def recipes(
    before: numpy.ndarray,
    after: numpy.ndarray,
    function: Function,
    level: float = 0.95,
    right_or_wrong: bool = False,
    sizes: numpy.ndarray | None = None,
) -> Estimate:
    """The loss between recipes, (k_before, groups, d) and (k_after, groups, d), for other samples and seeds."""
    groups = before.shape[1]
    values = numpy.concatenate([function(before.sum(-2)), function(after.sum(-2))])
    if groups < 2:
        return _estimate(float(values[: len(before)].mean() - values[len(before) :].mean()), Error(math.inf), level)
    moves = numpy.vstack([influence(before, function), influence(after, function)])
    covariance = moves @ moves.T / (groups * (groups - 1))
    k = len(before)
    added = loss_growth(values[:k], moves[:k], right_or_wrong)
    loss, error = recipe_error(values, covariance, k, _freedom(groups, sizes), *added)
    shape = _shape(moves[:k].mean(0) - moves[k:].mean(0), sizes)
    return _estimate(loss, replace(error, **shape), level)


def recipe_error(
    values: numpy.ndarray,
    covariance: numpy.ndarray,
    k_before: int,
    freedom: float,
    growth: float = 0.0,
    uneven: float = 0.0,
) -> tuple[float, Error]:
    """The loss and its error from each seed's score (k_before + k_after), `before` first, and their covariance.

    `covariance` (k, k) is how the scores vary with the samples, with `freedom` degrees of freedom. Each side has its
    own spread between seeds. A side of one seed shows none: it is assumed to be `ASSUMED_SPREAD` times the other side's.
    """
    sides = slice(0, k_before), slice(k_before, None)
    counts = [len(values[side]) for side in sides]
    if max(counts) < 2:
        raise ValueError(f"{counts[0]} and {counts[1]} seeds: one side needs two to estimate their spread")
    observed, explained = zip(*(_spread(values[side], covariance[side, side]) for side in sides))
    between: tuple[float, ...]
    if min(counts) > 1:
        between = tuple(variance / k for variance, k in zip(observed, counts))
        within = sum(variance / k for variance, k in zip(explained, counts))
        seed_freedom = tuple(k - 1.0 for k in counts)
    else:
        k = max(counts)
        between = (max(observed) * (1 / k + ASSUMED_SPREAD**2),)
        within = max(explained) * (1 / k + 1)
        seed_freedom = (k - 1.0,)
    shares = numpy.concatenate([numpy.full(counts[0], 1 / counts[0]), numpy.full(counts[1], -1 / counts[1])])
    # The same seeds on both sides cancel out except for rounding, whose sign is arbitrary.
    samples = _zero_if_rounding(float(shares @ covariance @ shares), float(abs(shares) @ abs(covariance) @ abs(shares)))
    loss = _zero_if_rounding(float(values @ shares), float(abs(values) @ abs(shares)))
    return loss, Error(samples, freedom, between, within, seed_freedom, growth, uneven)


def _spread(scores: numpy.ndarray, covariance: numpy.ndarray) -> tuple[float, float]:
    """The variance between the seeds of one side, and how much of it the samples explain; 0 if there is one seed."""
    k = len(scores)
    if k < 2:
        return 0.0, 0.0
    return float(scores.var(ddof=1)), float((covariance.trace() - covariance.sum() / k) / (k - 1))


def _zero_if_rounding(total: float, terms: float) -> float:
    """The sum, or 0 if it is within the rounding error of its terms."""
    return total if abs(total) > 1e-12 * terms else 0.0


# Power


def churn(before: numpy.ndarray, after: numpy.ndarray, function: Function) -> float:
    """The least variance of a loss that power assumes, from both sides' sums, (seeds, groups, d).

    A worse model wins somewhere too. How often equal models disagree, a side's own seeds show; if there is one seed a
    side, the two sides. If none of them differ, nothing is known, and the answers count as independent.
    """
    groups = before.shape[1]
    if groups < 2:
        return math.inf
    moves = [influence(side, function) for side in (before, after)]
    covariances = [part @ part.T / (groups * (groups - 1)) for part in moves]
    shown = [_spread(numpy.zeros(len(part)), part)[1] for part in covariances if len(part) > 1]
    between_seeds = float(numpy.mean(shown)) * (1 / len(before) + 1 / len(after)) if shown else 0.0
    if between_seeds > 0:
        return between_seeds
    if len(before) == len(after) == 1 and not numpy.array_equal(before, after):
        return 0.0
    return sum(float(part.trace()) / len(part) ** 2 for part in covariances)


def detectable(drop: float, error: Error, alpha: float, power: float = 0.8) -> float:
    """The smallest true loss that a `drop` threshold detects with this power, in the metric's units.

    `drop` is the threshold, in the same units; `error` has the variances of an estimated loss, in squared units, churn
    between equal models included; `alpha` is the one-sided level of this threshold, .05/m.

    The threshold fails if the estimated loss exceeds `drop` by c·SE, c being the critical value. With a known SE the
    result is drop + c·SE + .84·SE. SE is estimated, so c·SE is averaged over the estimates that so
    few telling groups leave, and the spread between seeds also over the true spreads that a few seeds leave possible; if a
    true loss causes flips, SE is that of such a loss. NaN if no variance is known, infinite if SE cannot be estimated or no loss is caught so often.
    """
    from scipy.special import chdtri, ndtr

    if not math.isfinite(error.standard):
        return math.inf
    if not error.standard and not error.growth:  # no sample differs, so their variance is unknown
        return math.nan

    def variance_ratios(freedom: float, n: int = 40) -> numpy.ndarray:  # an estimated variance over the true one
        return chdtri(freedom, (numpy.arange(n) + 0.5) / n) / freedom if math.isfinite(freedom) else numpy.ones(n)

    of_samples = variance_ratios(min(error.freedom, error.telling))[:, None]
    order = numpy.random.default_rng(42)  # true spreads, their estimates, and the two sides are independent
    # Of the true spread the observed one says more than its degrees of freedom: two more, in the simulation.
    sides = [
        (
            variance / order.permutation(variance_ratios(freedom + 2, 200)),
            order.permutation(variance_ratios(freedom, 200)),
        )
        for variance, freedom in zip(error.between, error.seed_freedom)
    ]
    between = tuple(spread * ratio for spread, ratio in sides)

    def power_at(loss: float) -> float:
        true = replace(error.of_loss(loss), between=tuple(spread for spread, _ in sides))
        estimated = replace(true, samples=true.samples * of_samples, within=true.within * of_samples, between=between)
        beyond = loss - drop - estimated.reach(alpha)
        return float(ndtr(beyond / numpy.maximum(true.standard, 1e-12)).mean())

    low, high = 0.0, max(drop, 1e-6)
    while power_at(high) < power:
        if high > 1e6 * max(drop, 1.0):  # a loss that varies as it grows may never be caught so often
            return math.inf
        low, high = high, 2 * high
    for _ in range(40):
        middle = (low + high) / 2
        low, high = (middle, high) if power_at(middle) < power else (low, middle)
    return high
