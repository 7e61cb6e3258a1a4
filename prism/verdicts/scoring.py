"""Score answers: every metric of a task over the same samples, for baseline, tuned and controls."""

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
from prism.verdicts.record import Control, Record, Score, empty_record
from prism.verdicts.rules import Groups, Measured, interval, lead

Answers = Sequence[str]
SHUFFLED = "shuffled_references"


@dataclass(frozen=True)
class _Table:
    """Every metric of every set of answers, measured on the samples that all of them score."""

    measured: Mapping[tuple[str, str], Measured]  # by metric and by whose answers they are
    scored: Mapping[str, numpy.ndarray]  # metric: which samples count, the same for all answers
    groups: Mapping[str, Groups]  # metric: the groups of these samples

    def hardest(self, metric: Metric, rivals: Collection[str]) -> str:
        """Whose answers score best, by the mean over seeds."""
        sign = 1 if metric.direction == "higher" else -1
        return max(rivals, key=lambda name: sign * self.measured[metric.name, name].value)


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
    measured = [metric for metric in metrics if rivals_of(metric, answers)]
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
            groups=len(table.groups[metric.name].sizes),
            against=rivals_of(metric, answers)[0],
        )
        records.append(_scored(record, metric, table, tuned, controls) if record.n else record)
    return records


def rivals_of(metric: Metric, answers: Collection[str]) -> list[str]:
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
    mean, groups = table.measured[metric.name, "tuned"], table.groups[metric.name]
    name = table.hardest(metric, rivals_of(metric, ["baseline", *controls]))
    against = table.measured[metric.name, name]
    shown: list[str] = []
    if metric.against == "baseline" and metric.beside != "nothing":
        shown = [*controls, *([SHUFFLED] if _is_shuffled(metric) else [])]
    beside = {}
    for control in shown:
        other = table.measured[metric.name, control]
        alone = interval(metric, other, groups)
        beside[control] = Control(alone.value, alone.ci, lead(metric, mean, other, groups), alone.rule)
    return replace(
        record,
        seeds={str(seed): float(value) for seed, value in zip(tuned, mean.values)},
        baseline=interval(metric, against, groups),
        tuned=interval(metric, mean, groups),
        gain=lead(metric, mean, against, groups),
        controls=beside,
        against=name,
    )


def _is_shuffled(metric: Metric) -> bool:
    return metric.beside == "controls and shuffled references"


def _table(metrics: Sequence[Metric], examples: Sequence[Example], answers: Mapping[str, Sequence[Answers]]) -> _Table:
    """`answers` maps the baseline, the tuned model and each control to one set of answers, or to one per seed."""
    measured: dict[tuple[str, str], Measured] = {}
    scored: dict[str, numpy.ndarray] = {}
    groups: dict[str, Groups] = {}
    names = numpy.array([example.group for example in examples])
    for metric in metrics:
        asked = {
            name: given
            for name, given in answers.items()
            if metric.beside != "nothing" or name in ("baseline", "tuned", *rivals_of(metric, answers))
        }
        block = {name: [metric.statistics(examples, one) for one in given] for name, given in asked.items()}
        for name, parts in block.items():
            for part in parts:
                if numpy.isinf(part).any():
                    sample = examples[int(numpy.isinf(part).any(1).argmax())].id
                    raise MetricError(
                        f"{metric.name}: gives sample {sample} ({name}) an infinite score; fix the metric"
                    )
                scored_by = ~numpy.isnan(part).any(1)
                if found := metric.impossible(part[scored_by]):
                    sample = numpy.array([example.id for example in examples])[scored_by][found[0]]
                    raise MetricError(
                        f"{metric.name}: gives sample {sample} ({name}) {found[1]}; fix the metric, or what it declares"
                    )
        counts = ~numpy.any([numpy.isnan(part).any(1) for parts in block.values() for part in parts], axis=0)
        if _is_shuffled(metric):
            # The tuned answers are scored against other rows' references, which they can match only in style.
            others = shuffle_references(examples, counts.tolist())
            block[SHUFFLED] = [metric.statistics(others, given) for given in answers["tuned"]]
            counts &= ~numpy.any([numpy.isnan(part).any(1) for part in block[SHUFFLED]], axis=0)
        scored[metric.name], groups[metric.name] = counts, Groups.named(names[counts])
        if counts.any():
            for name, parts in block.items():
                rows = [part[counts] for part in parts]
                measured[metric.name, name] = Measured.of(metric, rows, groups[metric.name])
    return _Table(measured, scored, groups)


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
