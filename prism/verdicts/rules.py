"""Which 95 % interval a score, a gain or a lead gets: the data choose it, and the record names it.

| what is measured | interval |
|---|---|
| a score: right or wrong, independent samples, one seed | Clopper–Pearson, exact |
| a score: right or wrong, in groups or over seeds | Korn–Graubard: Clopper–Pearson at the effective n |
| a score: any other, independent samples of which few stand out | the same |
| a score: any other | Wilson at the effective n, on the metric's range |
| a gain: right or wrong, independent samples, one seed | Tango, and it holds 0 unless McNemar's exact test rejects it |
| a gain: right or wrong, in groups or over seeds | the same at the effective n |
| a gain: any other | Student's t |

The effective n is that of independent answers, right or wrong, which would vary as much: it turns a variance into an
interval that is not symmetric near 0 and 1 and stays in the metric's range. The variance is the jackknife's over
groups (CR3), its degrees of freedom those of the effective groups, or fewer if few groups make most of the variance.
With fewer than `FEWEST_GROUPS` effective groups the interval is unknown (NaN); only independent answers, right or wrong, of one
seed need no variance and so no groups. benchmarks/simulation/RESULTS.md has the coverage.

Sources: Clopper & Pearson 1934; Korn & Graubard 1998, Confidence Intervals for Proportions with Small Expected Number of
Positive Counts Estimated from Survey Data; Dean & Pagano 2015 (Wilson's interval with the effective n); Tango 1998;
Carter, Schnepel & Steigerwald 2017 (effective groups); MacKinnon, Nielsen & Webb 2023 (the jackknife over groups);
Banerjee 1960 (a t quantile for each variance).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
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
from prism.verdicts.losses import tango, tango_z
from prism.verdicts.record import Score

TAIL = 0.025
Z = NORMAL.inv_cdf(1 - TAIL)
NOTHING = 1e-12  # smaller influences are the rounding of 0


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
    right: numpy.ndarray | None = None  # (seeds, samples), 0 or 1, if the metric is right or wrong

    @classmethod
    def of(cls, metric: Metric, answers: Sequence[numpy.ndarray], groups: Groups) -> Measured:
        """`answers` has the (samples, d) statistics of each seed, of the samples in `groups`."""
        sums = [groups.sums(statistics) for statistics in answers]
        values = numpy.array([float(metric.value(part.sum(0))) for part in sums])
        by_group = numpy.stack([_moves(part, metric) for part in sums])
        by_sample = by_group[:, groups.of]
        if not groups.independent:
            by_sample = numpy.stack([_moves(statistics, metric) for statistics in answers])
        right = numpy.stack([metric.value(statistics) for statistics in answers]) if metric.right_or_wrong else None
        return cls(values, by_sample, by_group, right)

    @property
    def value(self) -> float:
        return float(self.values.mean())

    def __sub__(self, other: Measured) -> Measured:
        """The differences, seed by seed; `other` may have one set of answers for all seeds."""
        return Measured(self.values - other.values, self.by_sample - other.by_sample, self.by_group - other.by_group)


def _moves(sums: numpy.ndarray, metric: Metric) -> numpy.ndarray:
    return influence(sums, metric.value) if len(sums) > 1 else numpy.zeros(1)


@dataclass(frozen=True)
class _Chance:
    """`reach` is half of the symmetric 95 % interval of a value; `freedom` is that of the samples' part."""

    reach: float
    freedom: float


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
    reach = _chance(measured, groups).reach / (high - low)
    binomial = share * (1 - share) * Z * Z
    effective = binomial / reach**2 if reach and binomial else groups.effective
    by_sample = measured.by_sample.mean(0)
    exact = metric.right_or_wrong or (groups.independent and _few_stand_out(by_sample))
    if metric.right_or_wrong:
        effective = min(effective, n * seeds)
    elif exact and effective > n and by_sample.any():
        # A variance that two or three samples make is as likely too small: no more is known than of right and wrong.
        doubt = 1 / _telling(by_sample) ** 2 / 2
        effective = 1 / ((1 - doubt) / effective + doubt / n)
    if exact:
        ends, name = clopper_pearson(share * effective, effective), "Korn–Graubard"
    else:
        ends, name = wilson(share * effective, effective), "Wilson"
    return Score(value, (low + ends[0] * (high - low), low + ends[1] * (high - low)), rule=_rule(name, groups, seeds))


def lead(metric: Metric, ours: Measured, other: Measured, groups: Groups) -> Score:
    """How far one set of answers is ahead of another on the same samples; p, one-sided, is that of no lead.

    `other` has as many seeds, each paired with its own, or one set of answers that is paired with all.
    """
    gap = ours - other
    seeds, n = len(gap.values), len(groups.of)
    alone = metric.right_or_wrong and groups.independent and seeds == 1
    if not math.isfinite(gap.value):
        return Score(gap.value, (math.nan, math.nan))
    if not alone and (unknown := _unknown(groups)):
        return Score(gap.value, (math.nan, math.nan), rule=unknown)
    chance = _chance(gap, groups)
    if ours.right is not None and other.right is not None:
        change = ours.right - other.right
        up, down, effective = float((change > 0).mean()), float((change < 0).mean()), float(n)
        if not alone:
            flips = (up + down - gap.value**2) * Z * Z
            effective = min(flips / chance.reach**2, n * seeds) if chance.reach and flips else groups.effective
        ends, tails = _paired(up * effective, down * effective, effective)
        rule = "Tango" if alone else _rule("Tango", groups, seeds)
    elif chance.reach:
        ends = gap.value - chance.reach, gap.value + chance.reach
        tails = _t_tails(gap.value, chance)
        rule = _rule(f"t with {chance.freedom:.3g} degrees of freedom", groups, seeds)
    else:
        # Nothing varies in these groups; others may, in as large a share of them as Tango's interval of no flips says.
        span = metric.range[1] - metric.range[0]
        half = span * Z * Z / (groups.effective + Z * Z)
        ends = gap.value - half, gap.value + half
        share = min(abs(gap.value) / span, 1 - 1e-12)
        tail = NORMAL.cdf(-math.sqrt(groups.effective * share / (1 - share)))
        tails = (tail, 1 - tail) if gap.value > 0 else (1 - tail, tail)
        rule = _rule("Tango, as nothing varies", groups, seeds)
    span = metric.range[1] - metric.range[0]
    p = tails[0 if metric.direction == "higher" else 1]
    return Score(gap.value, (max(ends[0], -span), min(ends[1], span)), p, rule)


def _unknown(groups: Groups) -> str:
    return "" if groups.effective >= FEWEST_GROUPS else f"unknown: {groups.effective:.3g} effective groups"


def _rule(name: str, groups: Groups, seeds: int) -> str:
    grouped = "" if groups.independent else f", {groups.effective:.3g} effective groups"
    effective = " at the effective n" if name in ("Wilson", "Tango") else ""
    return name + effective + grouped + (f", {seeds} seeds" if seeds > 1 else "")


def _paired(up: float, down: float, n: float) -> tuple[tuple[float, float], tuple[float, float]]:
    """Tango's interval of (up - down) / n, which holds 0 unless the tail of its side is at most 2.5 %.

    A tail is the larger of Tango's and of McNemar's exact test: Tango's alone calls four flips of four a gain.
    The counts may be fractions.
    """
    low, high = (float(end) for end in tango(down, up, n))
    gain, loss = (
        max(_exact(more, less), NORMAL.cdf(-float(tango_z(less, more, n, 0.0))))
        for more, less in ((up, down), (down, up))
    )
    return (low if gain <= TAIL else min(low, 0.0), high if loss <= TAIL else max(high, 0.0)), (gain, loss)


def _exact(more: float, less: float) -> float:
    """McNemar's exact one-sided p: at least `more` of the flips by chance 1/2."""
    from scipy.special import betainc

    return float(betainc(more, less + 1, 0.5)) if more > 0 else 1.0


def _t_tails(gap: float, chance: _Chance) -> tuple[float, float]:
    from scipy.special import stdtr

    tail = float(stdtr(chance.freedom, -gap * quantile(TAIL, chance.freedom) / chance.reach))
    return tail, 1 - tail


def _chance(measured: Measured, groups: Groups) -> _Chance:
    """The reach of a mean over seeds, for other samples and, with several seeds, for other seeds.

    What the samples alone cause between equal seeds is in the observed spread between them, so it is counted there and
    not a second time. Each part has its own t quantile: two seeds estimate their spread with one degree of freedom.
    """
    variance, freedom = _sampling(measured.by_sample.mean(0), measured.by_group.mean(0), groups)
    of_samples = quantile(TAIL, freedom) ** 2
    squared, k = of_samples * variance, len(measured.values)
    if k > 1:
        many = len(groups.sizes)
        single, joint = (measured.by_group**2).sum(1).mean(), (measured.by_group.mean(0) ** 2).sum()
        within = float(single - joint) / (many * (many - 1)) / (k - 1)
        between = quantile(TAIL, k - 1) ** 2 * float(measured.values.var(ddof=1)) / k
        squared = max(squared, of_samples * (variance - within) + between)
    return _Chance(math.sqrt(squared), freedom)


def _few_stand_out(by_sample: numpy.ndarray) -> bool:
    """Whether most samples have one value, or the kurtosis of all is well above a normal distribution's 3."""
    most = numpy.unique(by_sample.round(9), return_counts=True)[1].max() > len(by_sample) / 2
    return bool(most or len(by_sample) > 4 * _telling(by_sample))


def _telling(influences: numpy.ndarray) -> float:
    """How many equal influences, not all 0, would make a variance as sure as these: all if they are equal, 1 if one has all."""
    squares = influences**2
    return float(squares.sum() ** 2 / (squares**2).sum())


def _sampling(by_sample: numpy.ndarray, by_group: numpy.ndarray, groups: Groups) -> tuple[float, float]:
    """The variance due to the samples, and its degrees of freedom, from the influence of each sample and group.

    The jackknife's variance misses groups whose samples stand or fall together if few samples stand out at all (rates
    near 0 and 1, many zeros, long tails). Then it is that of a correlation within groups which is estimated from pairs
    of samples and pulled to 1 by the fewer samples make the variance; a larger jackknife raises it, weighed by its
    degrees of freedom against those of the pairs. The degrees of freedom are Satterthwaite's for the kurtosis of the
    groups' influences, and at most those of the effective groups.
    """
    many = len(groups.sizes)
    moves = numpy.where(numpy.abs(by_group) > NOTHING, by_group, 0.0)
    squares = float((moves**2).sum())
    if not squares:
        return 0.0, groups.effective - 1
    variance = squares / (many * (many - 1))
    telling = _telling(moves)
    kurtosis = math.inf if telling >= many else 2 * telling / (1 - telling / many)
    freedom = min(groups.effective - 1, kurtosis)
    if not groups.independent and _few_stand_out(by_sample):
        n = len(groups.of)
        totals = numpy.bincount(groups.of, by_sample)
        of_samples = float((by_sample**2).sum())
        pairs = float((groups.sizes * (groups.sizes - 1)).sum())
        within = float((groups.sizes * numpy.bincount(groups.of, by_sample**2) - totals**2).sum()) / pairs
        single = of_samples / (n - 1)
        alike = min(max(1 - within / single, 0.0), 1.0) if single else 1.0
        outstanding = _telling(by_sample)
        alike += (1 - alike) * min(1.0, (2 + (FEWEST_GROUPS / groups.effective) ** 2) / outstanding)
        of_pairs = single * (alike / groups.effective + (1 - alike) / n)
        weight = freedom / (freedom + min(outstanding, 2 * groups.effective))
        variance = of_pairs + weight * max(variance - of_pairs, 0.0)
    return variance, freedom
