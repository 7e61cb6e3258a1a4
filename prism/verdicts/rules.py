"""Which 95 % interval a score, a gain or a lead gets: the data choose it, and the record names it.

| what is measured | interval |
|---|---|
| a score: right or wrong, independent samples, one seed | Clopper–Pearson, exact |
| a score: right or wrong, in groups or over seeds | Korn–Graubard: Clopper–Pearson at the effective n |
| a score: any other | Wilson at the effective n, on the metric's range |
| a gain or a loss: right or wrong, independent samples, one seed | Tango, and it holds 0 unless McNemar's exact test rejects it |
| a gain: any other | Tango at the effective n |
| a loss between two adapters: any other | the same, and it holds 0 where the sign flips of its groups do not reject it, and only there |

The effective n is that of independent answers, right or wrong, which would vary as much: it turns a variance into an
interval that is not symmetric near 0 and 1 and stays in the metric's range. The variance is the jackknife's over
groups (CR3), with the degrees of freedom of the effective groups; few groups, or few samples that tell, leave it in doubt
(`_of_score`, `_of_gain`). Equal models differ symmetrically, so that sign flips of a loss's groups are exact for them.
With fewer than `FEWEST_GROUPS` effective groups the interval is unknown (NaN); only independent answers, right or wrong, of one
seed need no variance and so no groups. benchmarks/simulation/RESULTS.md has the coverage.

Sources: Clopper & Pearson 1934; Korn & Graubard 1998, Confidence Intervals for Proportions with Small Expected Number of
Positive Counts Estimated from Survey Data; Dean & Pagano 2015 (Wilson's interval with the effective n); Tango 1998;
Carter, Schnepel & Steigerwald 2017 (effective groups); MacKinnon, Nielsen & Webb 2023 (the jackknife over groups);
Banerjee 1960 (a t quantile for each variance); Efron 1969 (sign flips).
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy

from prism.metrics import Metric
from prism.verdicts.intervals import (
    FEWEST_GROUPS,
    NORMAL,
    clopper_pearson,
    effective_groups,
    influence,
    quantile,
    wilson,
)
from prism.verdicts.losses import tango, tango_z, telling
from prism.verdicts.margins import signs
from prism.verdicts.record import Score

TAIL = 0.025
Z = NORMAL.inv_cdf(1 - TAIL)
NOTHING = 1e-12  # smaller influences are the rounding of 0
MOST_FLIPPED = 300  # groups, beyond which sign flips say what Tango's interval does
FLIPS = 2**12  # drawn sign flips
LEAST_ALIKE = 0.02  # correlation within the groups of a gain


@dataclass(frozen=True)
class Groups:
    """The groups of the samples that a metric scored."""

    of: numpy.ndarray  # each sample's group, by number
    sizes: numpy.ndarray
    effective: float  # n²/Σn_g²

    @classmethod
    def named(cls, names: Sequence[str]) -> Groups:
        _, of, sizes = numpy.unique(numpy.asarray(names), return_inverse=True, return_counts=True)
        return cls(of, sizes, effective_groups(sizes))

    @property
    def independent(self) -> bool:
        return len(self.sizes) == len(self.of)

    def sums(self, statistics: numpy.ndarray) -> numpy.ndarray:
        """The sums of (n, d) by group: (groups, d)."""
        if self.independent:
            return statistics[numpy.argsort(self.of)]
        sums = numpy.zeros((len(self.sizes), statistics.shape[1]))
        numpy.add.at(sums, self.of, statistics)
        return sums


@dataclass(frozen=True)
class Measured:
    """One metric of one set of answers a seed: its values, and how much each sample and each group moves them."""

    values: numpy.ndarray  # (seeds,)
    by_sample: numpy.ndarray  # (seeds, samples)
    by_group: numpy.ndarray  # (seeds, groups)

    @classmethod
    def of(cls, metric: Metric, answers: Sequence[numpy.ndarray], groups: Groups) -> Measured:
        """`answers` has the (samples, d) statistics of each seed, of the samples in `groups`."""
        sums = [groups.sums(statistics) for statistics in answers]
        values = numpy.array([float(metric.value(part.sum(0))) for part in sums])
        by_group = numpy.stack([_moves(part, metric) for part in sums])
        by_sample = by_group[:, groups.of]
        if not groups.independent:
            by_sample = numpy.stack([_moves(statistics, metric) for statistics in answers])
        return cls(values, by_sample, by_group)

    @property
    def value(self) -> float:
        return float(self.values.mean())

    def __sub__(self, other: Measured) -> Measured:
        """The differences, seed by seed; `other` may have one set of answers for all seeds."""
        return Measured(self.values - other.values, self.by_sample - other.by_sample, self.by_group - other.by_group)


def _moves(sums: numpy.ndarray, metric: Metric) -> numpy.ndarray:
    return influence(sums, metric.value) if len(sums) > 1 else numpy.zeros(1)


def interval(metric: Metric, measured: Measured, groups: Groups) -> Score:
    """A score with its 95 % interval."""
    seeds, n, value = len(measured.values), len(groups.of), measured.value
    if not math.isfinite(value):
        return Score(value, (math.nan, math.nan))
    if metric.right_or_wrong and groups.independent and seeds == 1:
        return Score(value, clopper_pearson(value * n, n), rule="Clopper–Pearson")
    if unknown := _unknown(groups):
        return Score(value, (math.nan, math.nan), rule=unknown)
    low, high = metric.range
    share = min(max((value - low) / (high - low), 0.0), 1.0)
    reach = _reach(measured, groups, _of_score) / (high - low)
    binomial = share * (1 - share) * Z * Z
    effective = binomial / reach**2 if reach and binomial else groups.effective
    by_sample = measured.by_sample.mean(0)
    if metric.right_or_wrong:
        effective = min(effective, n * seeds)
        ends, name = clopper_pearson(share * effective, effective), "Korn–Graubard"
    else:
        if effective > n and by_sample.any():
            # A variance that two or three samples make is as likely too small: no more is known than of right and wrong.
            doubt = 1 / telling(by_sample) ** 2
            effective = 1 / ((1 - doubt) / effective + doubt / n)
        ends, name = wilson(share * effective, effective), "Wilson"
    return Score(value, (low + ends[0] * (high - low), low + ends[1] * (high - low)), rule=_rule(name, groups, seeds))


def lead(metric: Metric, ours: Measured, other: Measured, groups: Groups) -> Score:
    """How far one set of answers is ahead of another on the same samples; p, one-sided, is that of no lead.

    `other` has as many seeds, each paired with its own, or one set of answers that is paired with all.
    """
    gap = ours - other
    seeds = len(gap.values)
    alone = metric.right_or_wrong and groups.independent and seeds == 1
    if not math.isfinite(gap.value):
        return Score(gap.value, (math.nan, math.nan))
    if not alone and (unknown := _unknown(groups)):
        return Score(gap.value, (math.nan, math.nan), rule=unknown)
    ends, tails = _tango(metric, gap, groups, TAIL)
    p = tails[0 if metric.direction == "higher" else 1]
    return Score(gap.value, ends, p, "Tango" if alone else _rule("Tango", groups, seeds))


def loss(metric: Metric, before: Measured, after: Measured, groups: Groups, level: float) -> tuple[float, float]:
    """The interval of a loss, positive if `after` is worse, between one adapter's answers and another's."""
    gap = before - after if metric.direction == "higher" else after - before
    tail = (1 - level) / 2
    (low, high), _ = _tango(metric, gap, groups, tail)
    if (metric.right_or_wrong and groups.independent) or len(groups.sizes) > MOST_FLIPPED:
        return low, high
    reach = _flipped_reach(gap, groups, level, quantile(tail, groups.effective - 1))
    if gap.value > 0:
        low = max(low, gap.value - reach) if gap.value > reach else min(low, 0.0)
    elif gap.value < 0:
        high = min(high, gap.value + reach) if -gap.value > reach else max(high, 0.0)
    return low, high


def _tango(
    metric: Metric, gap: Measured, groups: Groups, tail: float
) -> tuple[tuple[float, float], tuple[float, float]]:
    """Tango's interval of a difference at the effective n, and its tails: that of no gain, and that of no loss."""
    span, n = metric.range[1] - metric.range[0], float(len(groups.of))
    changes = (gap.by_sample + gap.values[:, None]) / span  # of a mean the samples' own, of any other pseudo-values
    value, up, down = gap.value / span, *(float(part.clip(0).sum(1).mean()) / n for part in (changes, -changes))
    effective = n
    if not (metric.right_or_wrong and groups.independent and len(gap.values) == 1):
        reach, flips = _reach(gap, groups, _of_gain, tail) / span, up + down - value**2
        varies = reach > 0 and flips > NOTHING
        effective = flips * (NORMAL.inv_cdf(1 - tail) / reach) ** 2 if varies else groups.effective
    if metric.right_or_wrong:
        effective = min(effective, n * len(gap.values))
    ends, tails = _paired(up * effective, down * effective, effective, tail, metric.right_or_wrong)
    return (max(ends[0], -1.0) * span, min(ends[1], 1.0) * span), tails


def _unknown(groups: Groups) -> str:
    return "" if groups.effective >= FEWEST_GROUPS else f"unknown: {groups.effective:.3g} effective groups"


def _rule(name: str, groups: Groups, seeds: int) -> str:
    grouped = "" if groups.independent else f", {groups.effective:.3g} effective groups"
    effective = " at the effective n" if name in ("Wilson", "Tango") else ""
    return name + effective + grouped + (f", {seeds} seeds" if seeds > 1 else "")


def _paired(
    up: float, down: float, n: float, tail: float, exact: bool
) -> tuple[tuple[float, float], tuple[float, float]]:
    """Tango's interval of (up - down) / n; a tail is the chance of as many flips if nothing changed.

    `exact`, for answers right or wrong: it holds 0 unless McNemar's exact test, too, has a tail of at most `tail`.
    Tango's alone calls four flips of four a gain. The counts may be fractions.
    """
    low, high = (float(end) for end in tango(down, up, n, 1 - 2 * tail))
    gain, loss = (
        max(_exact(more, less) if exact else 0.0, NORMAL.cdf(-float(tango_z(less, more, n, 0.0))))
        for more, less in ((up, down), (down, up))
    )
    if exact:
        low, high = low if gain <= tail else min(low, 0.0), high if loss <= tail else max(high, 0.0)
    return (low, high), (gain, loss)


def _exact(more: float, less: float) -> float:
    """McNemar's exact one-sided p: at least `more` of the flips by chance 1/2."""
    from scipy.special import betainc

    return float(betainc(more, less + 1, 0.5)) if more > 0 else 1.0


@functools.lru_cache(4)
def _signs(groups: int) -> numpy.ndarray:
    """Every metric of a comparison has the same groups."""
    return signs(groups, FLIPS)


def _flipped_reach(gap: Measured, groups: Groups, level: float, most: float) -> float:
    """Which loss is shown not to be 0: the standard error times the quantile of Student's t over all sign flips.

    At most `most` standard errors. If equal models' groups differ by chance, each is as likely to have the other sign.
    """
    shares, others = groups.sizes / groups.sizes.sum(), len(groups.sizes) - 1
    moves = gap.by_group.mean(0) / others  # of leaving a group out: its residual / (1 - its share), less their mean
    parts = (1 - shares) * (moves - (1 - shares) @ moves / others) + gap.value * shares
    flips = _signs(len(shares))
    weights = (1 - shares) ** -2
    sums, along = (flips @ numpy.stack([parts, parts * shares * weights], 1)).T
    squares = (parts**2 * weights).sum() - 2 * sums * along + sums**2 * (shares**2 * weights).sum()
    errors = numpy.sqrt(numpy.maximum(squares * others / len(shares), 0))
    with numpy.errstate(divide="ignore", invalid="ignore"):
        found = numpy.where(sums == 0, 0.0, numpy.abs(sums) / errors)
    return float(
        min(numpy.quantile(found, level, method="higher") * (1 + 1e-9), most) * errors[0]
    )  # ties are no larger


# The variance of a value


Variance = Callable[[numpy.ndarray, numpy.ndarray, Groups], float]


def _reach(measured: Measured, groups: Groups, variance: Variance, tail: float = TAIL) -> float:
    """Half of the symmetric interval of a mean over seeds, for other samples and, with several seeds, for other seeds.

    What the samples alone cause between equal seeds is in the observed spread between them, so it is counted there and
    not a second time. Each part has its own t quantile: two seeds estimate their spread with one degree of freedom.
    """
    by_group = numpy.where(numpy.abs(measured.by_group) > NOTHING, measured.by_group, 0.0)
    of_samples = quantile(tail, groups.effective - 1) ** 2
    sampling, k = variance(measured.by_sample.mean(0), by_group.mean(0), groups), len(measured.values)
    squared = of_samples * sampling
    if k > 1:
        many = len(groups.sizes)
        single, joint = (by_group**2).sum(1).mean(), (by_group.mean(0) ** 2).sum()
        within = float(single - joint) / (many * (many - 1)) / (k - 1)
        between = quantile(tail, k - 1) ** 2 * float(measured.values.var(ddof=1)) / k
        squared = max(squared, of_samples * (sampling - within) + between)
    return math.sqrt(squared)


def _jackknife(by_group: numpy.ndarray) -> float:
    many = len(by_group)
    return float((by_group**2).sum()) / (many * (many - 1))


def _of_score(by_sample: numpy.ndarray, by_group: numpy.ndarray, groups: Groups) -> float:
    """The sampling variance of a score.

    The jackknife misses groups whose samples stand or fall together if few samples stand out at all (rates near 0 and
    1, many zeros, long tails). So it is that of a correlation within groups which is estimated from pairs of
    samples and pulled to 1 by the fewer samples and groups make the variance; a larger jackknife raises it, weighed by its
    degrees of freedom against those of the pairs.
    """
    jackknife = _jackknife(by_group)
    if groups.independent or not jackknife:
        return jackknife
    alike = _likeness(by_sample, groups)
    outstanding = telling(by_sample)
    alike += (1 - alike) * min(1.0, (1 + 1.5 * (FEWEST_GROUPS / groups.effective) ** 2) / outstanding)
    of_pairs = _of_pairs(by_sample, alike, groups)
    freedom = groups.effective - 1
    weight = freedom / (freedom + min(outstanding, 2 * groups.effective))
    return of_pairs + weight * max(jackknife - of_pairs, 0.0)


def _of_gain(by_sample: numpy.ndarray, by_group: numpy.ndarray, groups: Groups) -> float:
    """The sampling variance of a difference: the jackknife's, which few groups leave in doubt.

    Tango's interval already knows that few samples changed. Of ten groups none may have changed as a whole that others
    would: the variance rises two thirds of the way to that of the correlation within groups, which is taken to be
    at least `LEAST_ALIKE`, and by less the more groups there are.
    """
    jackknife = _jackknife(by_group)
    if groups.independent or not jackknife:
        return jackknife
    of_pairs = _of_pairs(by_sample, max(_likeness(by_sample, groups), LEAST_ALIKE), groups)
    return jackknife + min(1.0, FEWEST_GROUPS / groups.effective) ** 6 * 2 / 3 * max(of_pairs - jackknife, 0.0)


def _likeness(by_sample: numpy.ndarray, groups: Groups) -> float:
    """The correlation of two samples of one group, from 0 to 1."""
    totals = numpy.bincount(groups.of, by_sample)
    pairs = float((groups.sizes * (groups.sizes - 1)).sum())
    within = float((groups.sizes * numpy.bincount(groups.of, by_sample**2) - totals**2).sum()) / pairs
    single = _single(by_sample)
    return min(max(1 - within / single, 0.0), 1.0) if single else 1.0


def _of_pairs(by_sample: numpy.ndarray, alike: float, groups: Groups) -> float:
    """The variance of a mean over samples that are so much alike within groups."""
    return _single(by_sample) * (alike / groups.effective + (1 - alike) / len(by_sample))


def _single(by_sample: numpy.ndarray) -> float:
    return float((by_sample**2).sum()) / (len(by_sample) - 1)
