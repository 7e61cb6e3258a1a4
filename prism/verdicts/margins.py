"""Is a loss shown to exceed a limit, or shown not to? Three tests at the limit itself; the data choose which.

`exceeds(limit)` is the one-sided p of "the loss is at most the limit", `within(limit)` that of "it is at least the
limit"; a test of a loss of 0 would answer neither. `rule` names the test in words.

- `Pairs`: independent right-or-wrong answers of one adapter a side. Tango's score statistic; if few samples differ its
  normal tail is too light (a loss of exactly .01 without a single gain fails 2.8 times too often at n = 1,000 and
  α = .05/40), so its exact distribution decides.
- `Student`: everything else with at least `FEWEST_GROUPS` effective groups.
- `SignFlips`: fewer groups, from which no variance can be trusted. It can show a loss, and never that there is none.

Sources: Tango 1998; Hsueh, Liu & Chen 2001, Unconditional Exact Tests for Equivalence or Noninferiority for Paired
Binary Endpoints; Berger & Boos 1994 (p-values over a confidence set of a nuisance parameter); Banerjee 1960; Efron
1969, Student's t-Test under Symmetry Conditions (sign flips); Hall 1992, On the Removal of Skewness by Transformation; Carter, Schnepel & Steigerwald 2017 (effective groups).
"""

from __future__ import annotations

import itertools
import math
from dataclasses import dataclass, replace

import numpy

from prism.verdicts.intervals import NORMAL, Error, Function
from prism.verdicts.losses import p_value, tango_z

FEW = 50  # samples, below which the exact distribution decides
FEW_DIFFER = 200  # samples that differ, the same
FEW_CHANGED = 10  # groups that differ, below which their spread says little of those that were not drawn
OUTSIDE = 1e-5  # chance that the nuisance parameter lies outside its confidence set; it is added to p
ENUMERATED = 12  # groups, up to which every sign flip is counted
FLIPS = 2**14  # drawn sign flips of more groups, that of none among them


@dataclass(frozen=True)
class Pairs:
    """`better` samples of `n` were wrong and are now right, `worse` were right and are now wrong."""

    better: int
    worse: int
    n: int

    @property
    def rule(self) -> str:
        if not self._exact:
            return "Tango at the margin"
        differing = "" if self.n < FEW else f", {self.better + self.worse} of them differ"
        return f"exact at the margin, n = {self.n:,}{differing}"

    @property
    def _exact(self) -> bool:
        return self.n < FEW or self.better + self.worse < FEW_DIFFER

    def exceeds(self, limit: float) -> float:
        if self._exact:
            return exact_p(self.better, self.worse, self.n, limit)
        return 1 - NORMAL.cdf(float(tango_z(self.better, self.worse, self.n, limit)))

    def within(self, limit: float) -> float:
        return replace(self, better=self.worse, worse=self.better).exceeds(-limit)

    def least(self, limit: float) -> float:
        """The smallest `exceeds` of any answers to these samples: that of losing every one."""
        return replace(self, better=0, worse=self.n).exceeds(limit)


def exact_p(better: int, worse: int, n: int, limit: float) -> float:
    """The exact one-sided p of "the loss is at most `limit`", in Tango's order of the outcomes.

    The largest over the share of `better` flips that its Clopper-Pearson set allows, plus the chance that it lies
    outside. The chance of an outcome (b, c) is that of b `better` flips, and of c `worse` ones among the others.
    """
    from scipy.stats import beta, binom

    low = beta.ppf(OUTSIDE / 2, better, n - better + 1) if better else 0.0
    high = beta.ppf(1 - OUTSIDE / 2, better + 1, n - better) if better < n else 1.0
    low, high = max(low, 0.0, -limit), min(high, (1 - limit) / 2)
    if low > high:
        return OUTSIDE
    shares = low + (high - low) * (numpy.arange(61) / 60) ** 2  # closer where the probabilities change faster
    found = tango_z(better, worse, n, limit)
    b = numpy.arange(int(binom.ppf(OUTSIDE / 10, n, low)), int(binom.isf(OUTSIDE / 10, n, high)) + 1)
    # The fewest `worse` flips beside each b that are as extreme; n - b + 1 if none are.
    least, most = numpy.zeros(len(b), int), n - b + 1
    while (least < most).any():
        middle = (least + most) // 2
        extreme = tango_z(b, middle, n, limit) >= found - 1e-9
        least, most = numpy.where(extreme | (least >= most), least, middle + 1), numpy.where(extreme, middle, most)
    of_b = binom.pmf(b, n, shares[:, None])
    rate = numpy.clip((shares + limit) / numpy.maximum(1 - shares, 1e-12), 0, 1)[:, None]
    return min(1.0, float((of_b * binom.sf(least - 1, n - b, rate)).sum(1).max()) + OUTSIDE)


@dataclass(frozen=True)
class Student:
    """The loss and its error; `changed` groups of `groups` effective ones differ.

    `span` is the metric's range, infinite if it has none; `seeds` is a clause on their spread, empty without any.
    """

    loss: float
    error: Error
    groups: float
    changed: int
    span: float
    seeds: str = ""

    @property
    def rule(self) -> str:
        return f"t over {self.groups:,.1f} effective groups{self.seeds}"

    def exceeds(self, limit: float) -> float:
        """At least 2^-groups, the smallest p of a sign flip: equal changes have no spread, and prove no more."""
        return max(_p(self.loss - limit, self.error), 2.0**-self.groups)

    def within(self, limit: float) -> float:
        """The spread is that of a loss of `limit`, which brings flips; of few changes, also how likely none were."""
        further = max(limit - self.loss, 0.0)
        p = max(_p(limit - self.loss, replace(self.error.of_loss(further), skew=-self.error.skew)), 2.0**-self.groups)
        if self.changed < FEW_CHANGED:
            p = max(p, (1 - min(max(limit, 0.0) / self.span, 1.0)) ** self.groups)
        return p

    def least(self, limit: float) -> float:
        return 2.0**-self.groups


def _p(beyond: float, error: Error) -> float:
    """The larger p of Student's test and of Hall's, which knows that the mean of skewed parts is skewed."""
    p = p_value(beyond, error)
    if not (error.skew and error.samples and math.isfinite(error.samples)):
        return p
    t = beyond / math.sqrt(error.samples)
    hall = t + error.skew * t**2 / 3 + error.skew**2 * t**3 / 27 + error.skew / 6
    few = replace(error, freedom=min(error.freedom, error.telling))  # as sure as the variance is
    return max(p, p_value(hall * math.sqrt(error.samples), few))


@dataclass(frozen=True)
class SignFlips:
    """The loss, how each group moves it, and the groups' sizes divided by their mean.

    If the loss were `limit` and symmetric, each group's excess would be as likely with the other sign. `error` is that
    of recipes, whose seeds must show the loss as well; None if each side is one adapter.
    """

    loss: float
    moves: tuple[float, ...]
    weights: tuple[float, ...]
    error: Error | None = None
    seeds: str = ""

    @classmethod
    def of(
        cls,
        loss: float,
        sides: tuple[numpy.ndarray, numpy.ndarray],
        function: Function,
        sizes: numpy.ndarray,
        error: Error | None = None,
        seeds: str = "",
    ) -> SignFlips:
        """From the sums of both sides, (seeds, groups, d)."""
        before, after = (_weighted(side, function).mean(0) for side in sides)
        return cls(loss, tuple((before - after).tolist()), tuple((sizes / sizes.mean()).tolist()), error, seeds)

    @property
    def rule(self) -> str:
        groups = len(self.moves)
        return f"sign flips of {groups} {'group' if groups == 1 else 'groups'}{self.seeds}"

    def exceeds(self, limit: float) -> float:
        excess = numpy.array(self.weights) * (self.loss - limit) + numpy.array(self.moves)
        groups = len(excess)
        flips = signs(groups)
        tie = 1e-7 * float(numpy.abs(excess).sum())  # what the step of `_weighted` and rounding leave of equal sums
        p = float((flips @ excess >= excess.sum() - tie).mean())
        return max(p, p_value(self.loss - limit, self.error)) if self.error else p

    def within(self, limit: float) -> float:
        return 1.0

    def least(self, limit: float) -> float:
        return 2.0 ** -len(self.moves)


def signs(groups: int, drawn: int = FLIPS) -> numpy.ndarray:
    """Sign flips of so many groups, 1 or -1, (flips, groups), no flip first: all of few groups, else `drawn` ones."""
    if groups <= ENUMERATED:
        return numpy.array(list(itertools.product((1.0, -1.0), repeat=groups)))
    flips = numpy.random.default_rng(42).choice((1.0, -1.0), (drawn, groups))
    flips[0] = 1.0
    return flips


def _weighted(sums: numpy.ndarray, function: Function, step: float = 1e-5) -> numpy.ndarray:
    """How much a little more weight of each group moves the value: (seeds, groups, d) to (seeds, groups).

    Of a mean this is the group's own part exactly, however large the group. The jackknife's is larger where one group
    has half of the samples, and 12 such groups then raise 6 times the alarms that they should.
    """
    total = sums.sum(-2, keepdims=True)
    return sums.shape[-2] * (function(total + step * sums) - function(total - step * sums)) / (2 * step)


Test = Pairs | Student | SignFlips
