"""Score answers: every metric of a task over the same samples, for baseline, tuned and controls, in one resampling."""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy

from prism.errors import MetricError
from prism.metrics import HARDEST, Metric
from prism.metrics.overlap import shuffle_references
from prism.models import cost
from prism.rows import Example
from prism.spec import Spec
from prism.verdicts.intervals import bca, group_sums, over_seeds, resampled_sums, wilson
from prism.verdicts.record import Control, Record, Score, empty_record

Answers = Sequence[str]
SHUFFLED = "shuffled_references"


@dataclass(frozen=True)
class _Value:
    """One metric of one set of answers, as a function of sums (..., d) over all columns."""

    metric: Metric
    columns: slice

    def __call__(self, sums: numpy.ndarray) -> numpy.ndarray:
        return self.metric.value(sums[..., self.columns])


@dataclass(frozen=True)
class _Mean:
    """The mean of one metric over training seeds."""

    seeds: Sequence[_Value]

    def __call__(self, sums: numpy.ndarray) -> numpy.ndarray:
        return sum(value(sums) for value in self.seeds) / len(self.seeds)  # type: ignore[return-value]


@dataclass(frozen=True)
class _Table:
    """The statistics of every metric and every set of answers side by side, summed by group and resampled once."""

    sums: numpy.ndarray  # (groups, d)
    totals: numpy.ndarray  # (resamples, d)
    values: Mapping[tuple[str, str], _Mean]
    scored: Mapping[str, numpy.ndarray]  # metric: which samples count, the same for all answers
    groups: Sequence[str]

    def alone(self, metric: Metric, value: _Mean) -> Score:
        """A value with its interval: Wilson's for a proportion of independent samples, else the bootstrap's."""
        if len(value.seeds) > 1:
            return self.over_seeds(value)
        n = int(self.scored[metric.name].sum())
        estimate = bca(self.sums, self.totals, value)
        if metric.right_or_wrong and len(set(self.groups)) == len(self.groups):
            return Score(estimate.value, wilson(estimate.value * n, n))
        return Score(estimate.value, (estimate.low, estimate.high))

    def over_seeds(self, mean: _Mean) -> Score:
        estimate, metric = over_seeds(bca(self.sums, self.totals, mean), self.by_seed(mean)), mean.seeds[0].metric
        return Score(estimate.value, (max(estimate.low, metric.range[0]), min(estimate.high, metric.range[1])))

    def ahead(self, mean: _Mean, other: _Mean) -> Score:
        """How far the tuned answers are ahead of `other`, paired; p is the probability of such a lead without a gain.

        `other` has one set of answers per seed, each paired with its own, or one set that is paired with all.
        """
        metric = mean.seeds[0].metric
        sign = 1 if metric.direction == "higher" else -1
        difference = bca(self.sums, self.totals, lambda sums: sign * (mean(sums) - other(sums)))
        others = self.by_seed(other) * (len(mean.seeds) // len(other.seeds))
        estimate = over_seeds(difference, [sign * (ours - theirs) for ours, theirs in zip(self.by_seed(mean), others)])
        span = metric.range[1] - metric.range[0]
        ends = sorted(sign * min(max(end, -span), span) for end in (estimate.low, estimate.high))
        return Score(sign * estimate.value, (ends[0], ends[1]), estimate.p)

    def hardest(self, metric: Metric, rivals: Collection[str]) -> str:
        """Whose answers score best, by the mean over seeds."""
        sign = 1 if metric.direction == "higher" else -1
        return max(rivals, key=lambda name: sign * float(self.values[metric.name, name](self.sums.sum(0))))

    def by_seed(self, mean: _Mean) -> list[float]:
        return [float(value(self.sums.sum(0))) for value in mean.seeds]


def score(
    spec: Spec,
    metrics: Sequence[Metric],
    examples: Sequence[Example],
    digest: str,
    baseline: Answers,
    tuned: Mapping[int, Answers],
    controls: Mapping[str, Answers | Mapping[int, Answers]],
) -> list[Record]:
    """Make one record per metric, without verdicts. `digest` is the evaluation's.

    `tuned` maps seeds to answers, and so does a control that the tuned model itself answered. All answers are in the
    order of `examples`. A sample that is unscored for any of them is left out for all, so that every difference is of
    the same samples.
    """
    answers: dict[str, Sequence[Answers]] = {"baseline": [baseline], "tuned": list(tuned.values())}
    answers |= {name: list(a.values()) if isinstance(a, Mapping) else [a] for name, a in controls.items()}
    measured = [metric for metric in metrics if _rivals(metric, answers)]
    table = _table(measured, examples, answers)
    records = []
    for metric in measured:
        counted = table.scored[metric.name]
        applicable = numpy.array([metric.applies(example) for example in examples], bool)
        record = empty_record(
            spec,
            digest,
            metric.tier,
            metric.name,
            int((applicable & ~counted).sum()),
            direction=metric.direction,
            n=int(counted.sum()),
            groups=len({group for group, counts in zip(table.groups, counted) if counts}),
            against=_rivals(metric, answers)[0],
        )
        records.append(_scored(record, metric, table, tuned, controls) if record.n else record)
    return records


def _rivals(metric: Metric, answers: Collection[str]) -> list[str]:
    """Whose answers a metric may compare the tuned ones with, of those that there are."""
    if metric.against == HARDEST:
        return [name for name in answers if name not in ("baseline", "tuned")]
    named = (metric.against,) if isinstance(metric.against, str) else metric.against
    return [name for name in named if name in answers]


def score_without(
    left_out: Collection[int],
    spec: Spec,
    metrics: Sequence[Metric],
    examples: Sequence[Example],
    digest: str,
    baseline: Answers,
    tuned: Mapping[int, Answers],
) -> list[Record]:
    """Score without the samples at the indices `left_out` and without controls; no records if no sample is left."""
    rest = [i for i in range(len(examples)) if i not in left_out]
    if not rest:
        return []
    before, after = [baseline[i] for i in rest], {seed: [answers[i] for i in rest] for seed, answers in tuned.items()}
    return score(spec, metrics, [examples[i] for i in rest], digest, before, after, {})


def unjudged(spec: Spec, digest: str, n: int, measured: Collection[str]) -> list[Record]:
    """Make an empty record for each gated metric that no judge graded, so that its verdict has a record."""
    missing = {
        limit.metric: limit.tier for limit in spec.limits() if limit.tier == "tier3" and limit.metric not in measured
    }
    return [empty_record(spec, digest, tier, metric, n) for metric, tier in missing.items()]


def cost_records(spec: Spec, digest: str, n: int, spent: dict[str, Any]) -> list[Record]:
    """Make one record per cost that the spec limits. A cost is a single measurement, so its interval is its value."""
    records = []
    for name in spec.gate.get("cost", {}):
        value = cost.gate_value(spent, name)
        exact, measured = Score(value, (value, value)), 0 if math.isnan(value) else n
        known = {"n": measured, "groups": measured, "direction": cost.COSTS[name], "baseline": exact, "tuned": exact}
        records.append(empty_record(spec, digest, "cost", name, n - measured, **known, gain=Score(0.0, (0.0, 0.0))))
    return records


def _scored(
    record: Record,
    metric: Metric,
    table: _Table,
    tuned: Collection[int],
    controls: Collection[str],
) -> Record:
    mean = table.values[metric.name, "tuned"]
    name = table.hardest(metric, _rivals(metric, ["baseline", *controls]))
    against = table.values[metric.name, name]
    shown: list[str] = []
    if metric.against == "baseline" and metric.beside != "nothing":
        shown = [*controls, *([SHUFFLED] if _is_shuffled(metric) else [])]
    return replace(
        record,
        seeds={str(seed): value for seed, value in zip(tuned, table.by_seed(mean))},
        baseline=table.alone(metric, against),
        tuned=table.alone(metric, mean),
        gain=table.ahead(mean, against),
        controls={control: _control(table, metric, mean, control) for control in shown},
        against=name,
    )


def _is_shuffled(metric: Metric) -> bool:
    return metric.beside == "controls and shuffled references"


def _control(table: _Table, metric: Metric, mean: _Mean, name: str) -> Control:
    value = table.values[metric.name, name]
    alone = table.alone(metric, value)
    return Control(alone.value, alone.ci, table.ahead(mean, value))


def _table(metrics: Sequence[Metric], examples: Sequence[Example], answers: Mapping[str, Sequence[Answers]]) -> _Table:
    """`answers` maps the baseline, the tuned model and each control to one set of answers, or to one per seed."""
    blocks: list[numpy.ndarray] = []
    values: dict[tuple[str, str], _Mean] = {}
    scored: dict[str, numpy.ndarray] = {}
    width = 0
    for metric in metrics:
        measured = {
            name: given
            for name, given in answers.items()
            if metric.beside != "nothing" or name in ("baseline", "tuned", *_rivals(metric, answers))
        }
        block = {name: [metric.statistics(examples, one) for one in given] for name, given in measured.items()}
        for name, parts in block.items():
            for part in parts:
                if numpy.isinf(part).any():
                    sample = examples[int(numpy.isinf(part).any(1).argmax())].id
                    raise MetricError(
                        f"{metric.name}: gives sample {sample} ({name}) an infinite score; fix the metric"
                    )
        counts = ~numpy.any([numpy.isnan(part).any(1) for parts in block.values() for part in parts], axis=0)
        if _is_shuffled(metric):
            # The tuned answers are scored against other rows' references, which they can match only in style.
            others = shuffle_references(examples, counts.tolist())
            block[SHUFFLED] = [metric.statistics(others, given) for given in answers["tuned"]]
            counts &= ~numpy.any([numpy.isnan(part).any(1) for part in block[SHUFFLED]], axis=0)
        scored[metric.name] = counts
        for name, parts in block.items():
            seeds = []
            for part in parts:
                seeds.append(_Value(metric, slice(width, width + part.shape[1])))
                width += part.shape[1]
                blocks.append(numpy.where(counts[:, None], part, 0))
            values[metric.name, name] = _Mean(seeds)
    groups = [example.group for example in examples]
    sums = group_sums(numpy.hstack(blocks), groups)
    return _Table(sums, resampled_sums(sums), values, scored, groups)


def samples(
    metrics: Sequence[Metric], examples: Sequence[Example], before: Answers, after: Answers
) -> list[dict[str, Any]]:
    """One dict per held-out sample: question, reference, answers, and [before, after] by metric that lists samples.

    null means unscored.
    """
    scores: dict[str, list[tuple[float | None, float | None]]] = {}
    for metric in metrics:
        if metric.lists_samples:
            both = (metric.value(metric.statistics(examples, given)).tolist() for given in (before, after))
            first, second = ([None if math.isnan(value) else value for value in values] for values in both)
            scores[metric.name] = list(zip(first, second))
    return [
        {
            "id": example.id,
            "group": example.group,
            "question": example.question,
            "reference": example.reference,
            "baseline": before[i],
            "tuned": after[i],
            "scores": {name: list(values[i]) for name, values in scores.items()},
        }
        for i, example in enumerate(examples)
    ]


def worst(samples: Sequence[dict[str, Any]]) -> str:
    """Describe one sample: one that was right before and is now wrong, else any that is wrong."""
    for before in (1, 0):
        for sample in samples:
            if any(score == [before, 0] for score in sample["scores"].values()):
                question = " ".join(sample["question"].split())[:200]
                return f"{sample['id']}: {question!r} → {sample['tuned'][:80]!r}, expected {sample['reference']!r}"
    return ""
