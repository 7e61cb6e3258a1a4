"""What the rows, groups and seeds of an accepted run can show, and what a wanted loss or gain would take.

The variances are those of the accepted run: how far its score varies with the samples, how much of that its seeds share
(what they do not share is churn, the answers in which equal models differ), and how far apart its seeds are. Other rows
are assumed to vary as these do, in groups of the same size unless told otherwise, and samples of one group to be as
alike as these (an intraclass correlation: Kish 1965, Survey Sampling, design effect). The power is that of
`losses.detectable`, 80 %.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from pathlib import Path

import numpy

from prism.errors import ScoresError
from prism.metrics import Metric
from prism.spec import Spec
from prism.verdicts import losses, margins
from prism.verdicts.accepted import FOLDER, accepted_at
from prism.verdicts.intervals import FEWEST_GROUPS, Error, effective_groups, group_sums, influence
from prism.verdicts.scores import Measure, Scores, read_scores

MOST_ROWS = 10_000_000  # and no more are searched for
MOST_SEEDS = 20
GAIN_TAIL = 0.025  # a gain's 95 % interval must lie above 0


@dataclass(frozen=True)
class Plan:
    """Held-out rows, their effective groups, and the seeds of the accepted run and of a later one."""

    rows: int
    groups: float
    before: int
    after: int


@dataclass(frozen=True)
class Variances:
    """What an accepted run shows of one metric, in the metric's units, squared where they are variances.

    `own` is the variance of one seed's score due to the samples, `shared` the part that all seeds have in common,
    `between` the variance of the seeds' scores, NaN of one seed. `alike` is the correlation within a group. `room` is
    the largest possible loss and `span` the largest possible gain; `growth` and `uneven` are those of `Error`.
    """

    plan: Plan
    own: float
    shared: float
    between: float
    alike: float
    growth: float
    uneven: float
    room: float
    span: float
    independent: bool  # right-or-wrong answers, each a group of its own
    sizes: float  # groups over effective groups: 1 if all have one size

    def scaled(self, plan: Plan) -> Variances:
        """The variances of other rows and groups."""
        factor = self.plan.rows / plan.rows * self._effect(plan) / self._effect(self.plan)
        own, shared, growth, uneven = (factor * part for part in (self.own, self.shared, self.growth, self.uneven))
        # Seeds are no closer with more rows, but for what the samples alone drew apart.
        between = max(self.between - (self.own - self.shared), 0.0) + own - shared
        return replace(self, plan=plan, own=own, shared=shared, growth=growth, uneven=uneven, between=between)

    def _effect(self, plan: Plan) -> float:
        return 1 + (plan.rows / plan.groups - 1) * self.alike


def variances(metric: Metric, measure: Measure, groups: Iterable[str]) -> Variances:
    """Read a metric's variances off its accepted statistics. Raises ScoresError if fewer than two samples are scored."""
    scored = ~numpy.isnan(measure.statistics).any((0, 2))
    names = numpy.asarray(list(groups))[scored].tolist()
    statistics = measure.statistics[:, scored]
    n, seeds = len(names), len(statistics)
    if n < 2 or len(set(names)) < 2:
        raise ScoresError(f"{metric.name}: has fewer than two scored samples or groups; accept a run of more rows")
    sums = numpy.stack([group_sums(part, names) for part in statistics])
    values, moves = metric.value(sums.sum(-2)), influence(sums, metric.value)
    covariance = _covariance(moves)
    own = float(covariance.trace()) / seeds
    shared = float(covariance.sum() - covariance.trace()) / (seeds * (seeds - 1)) if seeds > 1 else 0.0
    effective = effective_groups(numpy.unique(names, return_counts=True)[1])
    # As if every sample were a group of its own.
    apart = float(_covariance(influence(statistics, metric.value)).trace()) / seeds
    extra = n / effective - 1
    alike = min(max((own / apart - 1) / extra, 0.0), 1.0) if extra > 1e-9 and apart else 0.0
    low, high = metric.range
    best = metric.direction == "higher"
    return Variances(
        Plan(n, effective, seeds, 1),
        own,
        min(shared, own),
        float(values.var(ddof=1)) if seeds > 1 else math.nan,
        alike,
        *losses.loss_growth(values, moves, metric.loses_by_flips),
        measure.value - low if best else high - measure.value,
        high - low,
        metric.right_or_wrong and len(set(names)) == n,
        len(set(names)) / effective,
    )


def _covariance(moves: numpy.ndarray) -> numpy.ndarray:
    """How the seeds' scores vary together with the samples, from how much each group moves them, (seeds, groups)."""
    groups = moves.shape[-1]
    return moves @ moves.T / (groups * (groups - 1))


def never(known: Variances, plan: Plan, limit: float, alpha: float) -> str:
    """Why a `drop` of `limit` can never fail, or nothing is known of its power; empty if neither."""
    if limit >= known.room:
        return f"can never fail: the whole score is {known.room:.3g} from the worst, no more than the limit"
    if known.independent and plan.before == plan.after == 1:
        least = margins.Pairs(0, plan.rows, plan.rows).least(limit)
    elif plan.groups < FEWEST_GROUPS:  # sign flips, of every group
        least = 2.0 ** -(plan.groups * known.sizes)
    else:
        least = 2.0**-plan.groups
    if least > alpha:
        return f"can never fail: {plan.groups:,.4g} groups give p = {least:.2g} at the least, over α = {alpha:.2g}"
    if plan.groups < FEWEST_GROUPS:
        return f"of unknown power: under {FEWEST_GROUPS} effective groups, no variance is trusted"
    if math.isnan(known.between) and plan.before + plan.after > 2:
        return "of unknown power: the accepted run has one seed, which shows no spread; accept several"
    return ""


def smallest_loss(known: Variances, plan: Plan, limit: float, alpha: float) -> float:
    """The smallest true loss that 80 % of later runs show to exceed `limit` at one-sided `alpha`, in the metric's units.

    Infinite if there is none, NaN if no sample differs, so that no variance is known.
    """
    if never(known, plan, limit, alpha):
        return math.inf
    loss = losses.detectable(limit, _error(known.scaled(plan)), alpha)
    return math.inf if loss > known.room else loss


def _error(known: Variances) -> Error:
    """The error of a loss between equal recipes."""
    plan, churn = known.plan, known.own - known.shared  # of one seed, answers count as independent: `losses.churn`
    freedom = max(plan.groups - 1, 1.0)
    if plan.before == plan.after == 1:
        return Error(2 * churn, freedom, growth=known.growth, uneven=known.uneven)
    values = numpy.concatenate([_spread(k, known.between) for k in (plan.before, plan.after)])
    covariance = numpy.full((len(values), len(values)), known.shared) + churn * numpy.eye(len(values))
    return losses.recipe_error(values, covariance, plan.before, freedom, known.growth, known.uneven)[1]


def _spread(seeds: int, variance: float) -> numpy.ndarray:
    """Scores of as many seeds with this variance."""
    places = numpy.arange(seeds) - (seeds - 1) / 2
    return places * math.sqrt(variance / places.var(ddof=1)) if seeds > 1 else places


def smallest_gain(known: Variances, plan: Plan) -> float:
    """The smallest true gain over the baseline that 80 % of runs show to be above 0, in the metric's units.

    Infinite if there is none, NaN if no sample differs.
    An accepted file has no answers of the baseline: they count as independent of the tuned ones and as variable, which
    is more than they are.
    """
    k = plan.after
    if plan.groups < FEWEST_GROUPS or (k > 1 and math.isnan(known.between)):
        return math.inf
    there = known.scaled(plan)
    samples, freedom = 2 * there.own, max(plan.groups - 1, 1.0)
    if k > 1:  # the spread between seeds besides, both parts with one t quantile
        seeds = there.between / k
        samples = there.own + there.shared + (there.own - there.shared) / k + seeds
        freedom = min(freedom, (k - 1) * (samples / seeds) ** 2) if seeds else freedom
    gain = losses.detectable(0.0, Error(samples, freedom), GAIN_TAIL)
    return math.inf if gain > known.span else gain


# What a wanted loss or gain takes


@dataclass(frozen=True)
class Takes:
    """The fewest of each, the others being as planned; None if none of them is enough."""

    rows: int | None  # in groups of the same size
    groups: int | None  # of the same rows
    seeds: int | None  # of a run, and of its accepted run if that has fewer


def takes(plan: Plan, wanted: float, smallest: Callable[[Plan], float]) -> Takes:
    """What it takes until `smallest` of a plan is at most `wanted`."""
    size = plan.rows / plan.groups
    return Takes(
        _fewest(lambda n: smallest(replace(plan, rows=n, groups=n / size)) <= wanted, MOST_ROWS),
        _fewest(lambda n: smallest(replace(plan, groups=n)) <= wanted, plan.rows) if size > 1.001 else None,
        next(
            (k for k in range(1, MOST_SEEDS + 1) if smallest(_with_seeds(plan, k)) <= wanted),
            None,
        ),
    )


def _with_seeds(plan: Plan, seeds: int) -> Plan:
    return replace(plan, before=max(plan.before, seeds), after=seeds)


def _fewest(is_enough: Callable[[int], bool], most: int) -> int | None:
    """The smallest count that is enough, by bisection."""
    low, high = 1, most
    if not is_enough(high):
        return None
    while low < high:
        middle = (low + high) // 2
        low, high = (low, middle) if is_enough(middle) else (middle + 1, high)
    return high


def planned(plan: Plan, rows: int | None, groups: int | None, seeds: int) -> Plan:
    """The plan with other rows and groups, of the same size unless both are given, and this many seeds a run.

    Raises ScoresError if there are more groups than rows.
    """
    size = plan.rows / plan.groups
    if rows is None:
        rows = math.ceil(groups * size) if groups else plan.rows
    found = replace(plan, rows=rows, groups=float(groups) if groups else rows / size)
    if found.groups > found.rows:
        raise ScoresError(f"--groups {groups}: are more than the {rows:,} rows; a group has at least one row")
    return _with_seeds(found, seeds)


# The accepted run


def accepted_of(spec: Spec, root: Path) -> Scores:
    """The accepted scores of a spec: of the evaluation that its thresholds were measured on, else the latest.

    Raises ScoresError if there are none.
    """
    files = sorted((root / FOLDER / spec.phase).glob(f"{spec.name}@*.json"))
    if not files:
        raise ScoresError(f"{spec.id}: has no accepted run to read variances off; `prism accept` a run of it")
    measured_on = (spec.data.measured_on or "")[:8]
    named = [file for file in files if measured_on and file.stem.endswith(f"@{measured_on}")]
    return max((read_scores(file) for file in named or files), key=accepted_at)


def limits_of(spec: Spec, scores: Scores) -> dict[str, float]:
    """The `drop` of each gated metric that was measured; if the spec gates none so, 0 of every metric."""
    gated = [limit for limit in spec.limits() if limit.key == "drop" and limit.metric in scores.measures]
    return {limit.metric: limit.value for limit in gated} or dict.fromkeys(scores.measures, 0.0)
