"""Simulated answers whose truth is known, as the statistics that a metric sums: what README.md here describes."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

import numpy

from prism.metrics import Metric, mean
from prism.metrics.classification import counted
from prism.verdicts.intervals import effective_groups

Kind = Literal["right/wrong", "continuous", "many zeros", "F1"]
Sizes = Literal["equal", "lognormal", "Zipf"]
COPIES = math.sqrt(0.3)  # chance that a sample copies its group: an intraclass correlation of .3
ZEROS = 0.8  # share of scores that are exactly 0, or exactly 1 where the mean is above .5
LABELS = ("a", "b", "c")
PREVALENCE = (0.5, 0.3, 0.2)
MACRO_F1 = next(m for m in counted(LABELS, lambda answer: answer) if m.name == "macro_f1")
CHURN = 0.36  # the default: models of accuracy .75 disagree on 13.5 % of the samples


@dataclass(frozen=True)
class Cell:
    """What is simulated: samples in groups, answered by models whose true means differ by what a caller says.

    `churn` is the chance that two models answer a sample independently of each other; else both give the same answer
    if their means are equal. `spreads` are the standard deviations of a recipe's true mean between its `seeds`, of the
    accepted side and of the new one.
    """

    n: int
    kind: Kind = "right/wrong"
    rate: float = 0.75  # true mean of the scores; for F1 the share of right answers
    groups: int = 0  # 0: each sample is its own
    sizes: Sizes = "equal"
    churn: float = CHURN
    seeds: tuple[int, int] = (1, 1)
    spreads: tuple[float, float] = (0.0, 0.0)
    unlike: bool = False  # the new side's scores are all or nothing, with the same mean

    @property
    def counts(self) -> numpy.ndarray:
        """Samples by group. Unequal sizes are fixed, so that the effective number of groups is too."""
        groups = self.groups or self.n
        rank = numpy.arange(groups) + 0.5
        if self.sizes == "Zipf":
            weights = 1 / (rank + 0.5)
        elif self.sizes == "lognormal":  # the quantiles of a lognormal whose logarithm has standard deviation 1
            from scipy.special import ndtri

            weights = numpy.exp(ndtri(rank / groups))
        else:
            weights = numpy.ones(groups)
        ends = numpy.rint((self.n - groups) * numpy.cumsum(weights) / weights.sum()).astype(int)
        return 1 + numpy.diff(ends, prepend=0)

    @property
    def names(self) -> tuple[str, ...]:
        """Each sample's group; its own id if it is independent."""
        if not self.groups:
            return self.ids
        return tuple(f"{group:x}" for group in numpy.repeat(numpy.arange(self.groups), self.counts))

    @property
    def ids(self) -> tuple[str, ...]:
        return tuple(f"{i:x}" for i in range(self.n))  # short ones compare faster

    @property
    def effective(self) -> float:
        return effective_groups(self.counts)

    @property
    def grouping(self) -> str:
        """In words, for a table."""
        if not self.groups:
            return "–"
        return f"{self.groups} {self.sizes}" + ("" if self.sizes == "equal" else f", {self.effective:.0f} effective")


def metric(kind: Kind, name: str = "") -> Metric:
    """The metric of such answers; whoever calls it replaces `statistics`, which read simulated answers."""
    if kind == "F1":
        return Metric(name, "tier1", MACRO_F1.statistics, MACRO_F1.value, sample="nothing")
    return Metric(
        name, "tier1", MACRO_F1.statistics, mean, sample="right or wrong" if kind == "right/wrong" else "score"
    )


def truth(kind: Kind, rate: float) -> float:
    """The metric's value of infinitely many answers."""
    if kind != "F1":
        return rate
    return _f1(rate)


def _f1(rate: float) -> float:
    hits = rate * numpy.array(PREVALENCE)
    wrong = (1 - rate) * numpy.array(PREVALENCE) / (len(LABELS) - 1)
    return float(MACRO_F1.value(numpy.hstack([hits, hits + wrong.sum() - wrong, PREVALENCE, [0.0]])))


def rate_of(kind: Kind, value: float) -> float:
    """The inverse of `truth`."""
    if kind != "F1":
        return value
    from scipy.optimize import brentq

    return float(brentq(lambda rate: _f1(rate) - value, 0, 1))


def simulate(
    cell: Cell, count: int, random: numpy.random.Generator, loss: float = 0.0, offset: bool = False
) -> tuple[numpy.ndarray, numpy.ndarray]:
    """Answers of `count` independent metrics on both sides: (count, seeds, n, d) of the accepted side and the new one.

    The accepted side is at `cell.rate` and the new one's true value lies `loss` below it; with `offset` the new side is
    at `cell.rate` and the accepted one's true value lies `loss` above. An answer is a uniform number, shared by all
    models or the model's own; it is right if it lies below the model's mean.
    """
    k_old, k_new = cell.seeds
    k = k_old + k_new
    value = truth(cell.kind, cell.rate)
    means = numpy.full((count, k), rate_of(cell.kind, value + loss) if offset else cell.rate)
    means[:, k_old:] = cell.rate if offset else rate_of(cell.kind, value - loss)
    for side, spread in ((slice(0, k_old), cell.spreads[0]), (slice(k_old, k), cell.spreads[1])):
        if spread:
            means[:, side] += random.normal(0, spread, means[:, side].shape)

    def draw(width: int) -> numpy.ndarray:
        shared = random.random((count, 1, width), numpy.float32)
        own = random.random((count, k, width), numpy.float32)
        # Two models that keep to the shared answer with chance √(1 - churn) each both do with chance 1 - churn.
        return numpy.where(random.random((count, k, width), numpy.float32) < math.sqrt(1 - cell.churn), shared, own)

    answers = draw(cell.n)
    if cell.groups:
        copied = random.random((count, 1, cell.n), numpy.float32) < COPIES
        of_group = draw(cell.groups)[..., numpy.repeat(numpy.arange(cell.groups), cell.counts)]
        answers = numpy.where(copied, of_group, answers)
    if cell.kind == "F1":
        statistics = _confusion(answers, means[..., None], random.choice(len(LABELS), (count, 1, cell.n), p=PREVALENCE))
    else:
        scores = _scores(cell.kind, answers, means[..., None])
        if cell.unlike:
            scores[:, k_old:] = _scores("right/wrong", answers, means[..., None])[:, k_old:]
        statistics = numpy.stack([scores, numpy.ones_like(scores)], -1)
    return statistics[:, :k_old], statistics[:, k_old:]


def _scores(kind: Kind, answers: numpy.ndarray, means: numpy.ndarray) -> numpy.ndarray:
    """Scores whose mean over uniform answers is exactly `means`, and which are higher where the mean is."""
    if kind == "right/wrong":
        return (answers < means).astype(float)
    rest = 1 - answers.astype(float)
    if kind == "continuous":  # u^a has the mean 1 / (1 + a)
        return rest ** (1 / means - 1)
    mirrored = means > 0.5
    low = numpy.where(mirrored, 1 - means, means)
    uniform = numpy.where(mirrored, 1 - rest, rest)
    part = numpy.maximum(uniform - ZEROS, 0) / (1 - ZEROS)
    scores = part ** ((1 - ZEROS) / low - 1)
    return numpy.where(mirrored, 1 - scores, scores)


def _confusion(answers: numpy.ndarray, means: numpy.ndarray, labels: numpy.ndarray) -> numpy.ndarray:
    """The statistics of macro F1: hits, predictions and samples by label. A wrong answer is any other label."""
    right = answers < means
    others = len(LABELS) - 1
    wrong = (numpy.minimum((answers - means) / (1 - means), 0.999999) * others).astype(int)
    predicted = numpy.where(right, labels, (labels + 1 + wrong) % len(LABELS))
    one = numpy.eye(len(LABELS))
    present = numpy.broadcast_to(one[labels], (*answers.shape, len(LABELS)))
    parts = [present * right[..., None], one[predicted], present, numpy.zeros((*answers.shape, 1))]
    return numpy.concatenate(parts, axis=-1)
