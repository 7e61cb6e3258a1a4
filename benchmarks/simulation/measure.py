"""Simulate runs and evaluate them with the functions of prism.verdicts that decide `drop`."""

from __future__ import annotations

import math
import time
from collections.abc import Iterator
from dataclasses import astuple, dataclass
from typing import Any, Literal

import numpy

from prism.verdicts.intervals import Error, bca, over_seeds, resampled_sums, swapped_sums, wilson
from prism.verdicts.losses import detectable, difference, flips, mcnemar_midp, recipe_error, recipes, swap_p

SEED = 20261123
RUNS = {1: 10_000, 8: 10_000, 40: 2_000}  # equal models: simulated runs, by thresholds a profile
CASES = 2_000  # comparisons behind each coverage and each power
DROP = 0.01  # the threshold of the power columns; alarms are counted at drop = 0, which raises most
K_ACCEPTED = 5  # seeds of the accepted run
SEED_SPREAD = 0.01  # standard deviation of the true score between seeds of one recipe
COPIES = math.sqrt(0.3)  # chance that a sample copies its group: ICC .3
ACCURACY = 0.75
SCORE = 0.2  # mean of the continuous score, u⁴ of a uniform u: skewness 1.4, a third of all below .01
ANSWERS = 200_000  # simulated at a time, to fit a core's cache


@dataclass(frozen=True)
class Setting:
    n: int
    metric: Literal["right/wrong", "continuous"]
    size: int = 1  # samples a group
    seeds: int = 0  # of the new run, against K_ACCEPTED; 0: one adapter each, no spread between seeds
    shared: float = 0.8  # chance that an adapter gives a sample the answer that all adapters share
    unlike: bool = False  # equal means, different distributions

    @property
    def groups(self) -> int:
        return self.n // self.size

    @property
    def new(self) -> int:
        return max(self.seeds, 1)

    @property
    def adapters(self) -> int:
        return (K_ACCEPTED if self.seeds else 1) + self.new

    @property
    def mean(self) -> float:
        return ACCURACY if self.metric == "right/wrong" else SCORE

    @property
    def remark(self) -> str:
        return ", unlike answers" if self.unlike else ", near-identical answers" if self.shared > 0.9 else ""

    @property
    def binomial(self) -> bool:
        return self.metric == "right/wrong" and self.size == 1 and not self.seeds


@dataclass(frozen=True)
class Share:
    """The share of `cases` with one result, in percent."""

    percent: float
    cases: int

    @classmethod
    def of(cls, hits: Any) -> Share:
        return cls(100 * float(numpy.mean(hits)), len(hits))

    def beyond(self, low: float, high: float) -> str:
        """'' within [low, high]; '≈' outside, but by at most two standard errors of the simulation; else '✗'."""
        limit = min(max(self.percent, low), high)
        if limit == self.percent:
            return ""
        return "≈" if abs(self.percent - limit) <= 200 * math.sqrt(limit * (100 - limit) / 1e4 / self.cases) else "✗"


@dataclass(frozen=True)
class Outcome:
    setting: Setting
    covered: dict[str, Share]  # "score", "loss": 95 % intervals that contain the truth
    alarms: dict[int, Share]  # whole runs of equal models with an alarm, by thresholds a profile
    bootstrap: dict[int, Share]  # the same if a bootstrap decided; only where the swap test decides, up to 500 groups
    stated: dict[int, float]  # the detectable loss that these runs state
    power: dict[int, Share]  # true losses of that size that are detected
    seconds: float  # of one core


def settings() -> list[Setting]:
    """The settings that the design requires, and some that are harder."""
    grid = [
        Setting(n, metric, size, seeds)
        for seeds in (0, 1, 5)
        for metric in ("right/wrong", "continuous")
        for size in (1, 5)
        for n in (150, 500, 1_663, 10_000)
    ]
    near = [Setting(n, metric, shared=0.99) for metric in ("right/wrong", "continuous") for n in (150, 1_663)]
    unlike = [Setting(n, "continuous", unlike=True) for n in (150, 1_663)]
    return grid + near + unlike


# Simulated answers


def simulate(
    setting: Setting, comparisons: int, loss: float, random: numpy.random.Generator
) -> Iterator[numpy.ndarray]:
    """Sums of scores (comparisons, adapters, groups), in batches; the last adapters, the new run's, lose `loss`.

    An answer is a uniform 16-bit number, shared by all adapters or the adapter's own. It is right if it is below the
    adapter's accuracy; the continuous score is its fourth power, scaled to the adapter's mean.
    """
    k = setting.adapters
    new = numpy.arange(k) >= k - setting.new

    def scores(samples: int, means: numpy.ndarray) -> numpy.ndarray:
        shared = _uniform(random, (len(means), 1, samples))
        own, coin = _uniform(random, (2, len(means), k, samples))
        answer = numpy.where(coin < int(setting.shared * 2**16), shared, own)
        if setting.metric == "right/wrong":
            return (answer < numpy.rint(means * 2**16).astype(numpy.uint16)[..., None]).astype(numpy.float32)
        score = (answer / numpy.float32(2**16)) ** 2
        score *= score
        if setting.unlike:
            score[:, new] = answer[:, new] < int(SCORE * 2**16)
        score *= (means / SCORE).astype(numpy.float32)[..., None]
        return score

    batch = max(1, ANSWERS // (k * setting.n))
    for start in range(0, comparisons, batch):
        rows = min(batch, comparisons - start)
        means = setting.mean - loss * new + (random.normal(0, SEED_SPREAD, (rows, k)) if setting.seeds else 0)
        means = numpy.broadcast_to(means, (rows, k))
        samples = scores(setting.groups * setting.size, means)
        if setting.size == 1:
            yield samples
            continue
        copied = random.random((rows, 1, setting.groups, setting.size), dtype=numpy.float32) < COPIES
        of_group = scores(setting.groups, means)[..., None]
        yield numpy.where(copied, of_group, samples.reshape(rows, k, setting.groups, setting.size)).sum(-1)


def _uniform(random: numpy.random.Generator, shape: tuple[int, ...]) -> numpy.ndarray:
    """Uniform 16-bit numbers, four per draw."""
    count = math.prod(shape)
    drawn = random.integers(0, 2**64, -(-count // 4), dtype=numpy.uint64)
    return drawn.view(numpy.uint16)[:count].reshape(shape)


# Evaluation by PRISM


def mean(sums: numpy.ndarray) -> numpy.ndarray:
    return sums[..., 0] / sums[..., 1]


def coverage(setting: Setting, cases: int, random: numpy.random.Generator) -> tuple[dict[str, Share], Error]:
    """How often 95 % intervals of equal models contain the new run's score and its loss, 0; and the mean error."""
    right_or_wrong = setting.metric == "right/wrong"
    scores: list[tuple[numpy.ndarray, list[float]]] = []
    losses, errors = [], []
    for batch in simulate(setting, cases, 0.0, random):
        for sums in numpy.stack([batch, numpy.full_like(batch, setting.size)], -1).astype(float):
            accepted, new = sums[: -setting.new], sums[-setting.new :]
            if setting.seeds:
                loss = recipes(accepted, new, mean, right_or_wrong=right_or_wrong)
            elif setting.binomial:
                change = new[0, :, 0] - accepted[0, :, 0]
                loss = flips(int((change > 0).sum()), int((change < 0).sum()), setting.n)
            else:
                loss = difference(accepted, new, mean, right_or_wrong=right_or_wrong)
            assert loss.error
            losses.append(loss.low <= 0 <= loss.high)
            errors.append(astuple(loss.error))
            scores.append((new[..., 0].mean(0), mean(new.sum(-2)).tolist()))
    covered = {"loss": Share.of(losses)}
    if setting.seeds != 1:  # a single seed gives no interval of its recipe's score
        covered["score"] = Share.of([low <= setting.mean <= high for low, high in _score_intervals(setting, scores)])
    return covered, Error(*(float(part) for part in numpy.mean(errors, axis=0)))


def _score_intervals(
    setting: Setting, scores: list[tuple[numpy.ndarray, list[float]]]
) -> Iterator[tuple[float, float]]:
    """Intervals of single scores, from sums over groups and the score of each seed.

    The bootstrap uses 2,000 resamples, plenty for tails of 2.5 %.
    """
    if setting.binomial:
        yield from (wilson(sums.sum(), setting.n) for sums, _ in scores)
        return
    sizes = numpy.full(setting.groups, setting.size)
    resampled = resampled_sums(numpy.stack([*(sums for sums, _ in scores), sizes], 1), 2_000)
    for i, (sums, values) in enumerate(scores):
        estimate = over_seeds(bca(numpy.stack([sums, sizes], 1), resampled[:, [i, -1]], mean), values)
        yield estimate.low, estimate.high


@dataclass(frozen=True)
class Compared:
    """Estimated losses, and the p that decides each, or with seeds the error."""

    loss: numpy.ndarray
    p: numpy.ndarray
    error: Error | None = None
    bootstrap: numpy.ndarray | None = None  # p as the share of resamples without a loss, instead of the swap test's

    def fails(self, drop: float, alpha: float) -> numpy.ndarray:
        if self.error:  # the loss exceeds its reach exactly if p is below alpha
            return (self.loss > drop) & (self.loss > self.error.reach(alpha))
        return (self.loss > drop) & (self.p <= alpha)


def compare(
    setting: Setting, cases: int, true_loss: float, random: numpy.random.Generator, single: int = 0
) -> Compared:
    """Simulate comparisons and test them, all at once.

    The swap test runs only if its p may be small enough to matter: t above 1.2 in the first `single` comparisons,
    whose level is .05, above 1.9 in the others, whose level is at most .05/8. Otherwise p stays 1.
    """
    losses, ps, values, products, tested = [], [], [], [], []
    simulated = 0
    for sums in simulate(setting, cases, true_loss, random):
        value = sums.sum(-1, dtype=float) / (setting.groups * setting.size)
        if setting.seeds:
            values.append(value)
            products.append(sums @ sums.swapaxes(-1, -2) / (setting.groups * setting.size**2))
            continue
        change = sums[:, 0] - sums[:, 1]
        loss = value[:, 0] - value[:, 1]
        if setting.binomial:
            p = mcnemar_midp((change < 0).sum(-1), (change > 0).sum(-1))[0]
        else:
            t = loss / (change.std(-1, ddof=1) / setting.size / math.sqrt(setting.groups))
            p = numpy.where(t > numpy.where(simulated + numpy.arange(len(t)) < single, 1.2, 1.9), numpy.nan, 1.0)
            tested.append(sums[numpy.isnan(p)])
        losses.append(loss)
        ps.append(p)
        simulated += len(loss)
    if setting.seeds:
        all_values = numpy.concatenate(values)
        covariance = numpy.concatenate(products) - all_values[..., None] * all_values[..., None, :]
        loss, error = recipe_error(all_values, covariance / (setting.groups - 1), K_ACCEPTED, setting.groups)
        return Compared(loss, numpy.empty(0), error)
    loss, p = numpy.concatenate(losses), numpy.concatenate(ps)
    if setting.binomial:
        return Compared(loss, p)
    undecided, pairs = numpy.isnan(p), numpy.concatenate(tested)
    bootstrap = None
    if true_loss == 0 and setting.groups <= 500:
        bootstrap = p.copy()
        resampled = resampled_sums((pairs[:, 0] - pairs[:, 1]).T.astype(float))
        bootstrap[undecided] = (1 + (resampled <= 0).sum(0)) / (1 + len(resampled))
    p[undecided] = swap(setting, pairs)
    return Compared(loss, p, bootstrap=bootstrap)


def swap(setting: Setting, pairs: numpy.ndarray, at_once: int = 1_000) -> numpy.ndarray:
    """The swap test's p of (comparisons, 2, groups); they share their swaps, as all of PRISM's runs do."""
    ps = []
    for start in range(0, len(pairs), at_once):
        accepted, new = pairs[start : start + at_once].astype(float).transpose(1, 2, 0)
        swapped = swapped_sums(accepted, new)
        for i in range(accepted.shape[1]):
            one = slice(i, i + 1)
            ps.append(swap_p(accepted[:, one], new[:, one], swapped[:, one], lambda sums: sums[..., 0] / setting.n))
    return numpy.array(ps)


def measure(setting: Setting, number: int, scale: float) -> Outcome:
    """All figures of one setting. `number` seeds it, so that they do not depend on the process or the order."""
    start = time.process_time()
    random = numpy.random.default_rng([SEED, number])
    runs = {m: int(count * scale) for m, count in RUNS.items()}
    cases = int(CASES * scale)
    covered, error = coverage(setting, cases, random)
    equal = compare(setting, max(m * count for m, count in runs.items()), 0.0, random, single=runs[1])
    alarms, bootstrap, stated, power = {}, {}, {}, {}
    for m, count in runs.items():
        alarms[m] = Share.of(equal.fails(0.0, 0.05 / m)[: m * count].reshape(count, m).any(1))
        if equal.bootstrap is not None:
            bootstrap[m] = Share.of((equal.bootstrap <= 0.05 / m)[: m * count].reshape(count, m).any(1))
        stated[m] = detectable(DROP, error, 0.05 / m)
        power[m] = Share.of(compare(setting, cases, stated[m], random, single=cases).fails(DROP, 0.05 / m))
    return Outcome(setting, covered, alarms, bootstrap, stated, power, time.process_time() - start)
