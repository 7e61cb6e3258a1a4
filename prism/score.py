"""Answers to scores: every metric of a task over the same samples, baseline, tuned and controls, in one resampling."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy

from prism.controls import question
from prism.data import Example
from prism.metrics import Metric
from prism.record import Control, Record, Score
from prism.spec import Spec
from prism.stats import Estimate, bca, group_sums, over_seeds, resampled_sums, wilson

Answers = Sequence[str]


@dataclass(frozen=True)
class _Columns:
    """Where one metric's statistics of one set of answers lie among the resampled columns."""

    metric: Metric
    place: slice

    def __call__(self, sums: numpy.ndarray) -> numpy.ndarray:
        return self.metric.value(sums[..., self.place])


def score(
    spec: Spec,
    examples: Sequence[Example],
    digest: str,
    baseline: Answers,
    tuned: Mapping[int, Answers],
    controls: Mapping[str, Answers],
) -> list[Record]:
    """One record a metric of the spec's task, without verdicts. `tuned` maps each training seed to its answers.

    All answers are in the order of `examples`. A sample that any of them leaves unscored is left out for all, so that
    every difference is of the same samples.
    """
    named: dict[str, Answers] = {"baseline": baseline, **controls}
    named |= {f"tuned {seed}": answers for seed, answers in tuned.items()}
    metrics = [metric for metric in spec.load_task().METRICS if metric.baseline in named]
    columns: dict[tuple[str, str], _Columns] = {}
    blocks: list[numpy.ndarray] = []
    scored: dict[str, numpy.ndarray] = {}
    width = 0
    for metric in metrics:
        block = {name: metric.statistics(examples, answers) for name, answers in named.items()}
        scored[metric.name] = ~numpy.any([numpy.isnan(part).any(1) for part in block.values()], axis=0)
        for name, part in block.items():
            columns[metric.name, name] = _Columns(metric, slice(width, width + part.shape[1]))
            width += part.shape[1]
            blocks.append(numpy.where(scored[metric.name][:, None], part, 0))
    groups = [example.group for example in examples]
    sums = group_sums(numpy.hstack(blocks), groups)
    totals = resampled_sums(sums)
    grouped = len(set(groups)) < len(groups)

    def estimate(function: Callable[[numpy.ndarray], numpy.ndarray]) -> Estimate:
        return bca(sums, totals, function)

    records = []
    for metric in metrics:
        n = int(scored[metric.name].sum())
        seeds = [columns[metric.name, f"tuned {seed}"] for seed in tuned]
        by_seed = {str(seed): float(column(sums.sum(0))) for seed, column in zip(tuned, seeds)}

        def mean(totals: numpy.ndarray, seeds: Sequence[_Columns] = seeds) -> numpy.ndarray:
            return sum(column(totals) for column in seeds) / len(seeds)  # type: ignore[return-value]

        def alone(function: Callable[[numpy.ndarray], numpy.ndarray], n: int = n, metric: Metric = metric) -> Score:
            found = estimate(function)
            if metric.right_or_wrong and not grouped and n:
                return Score(found.value, wilson(found.value * n, n))
            return Score(found.value, (found.low, found.high))

        def ahead(name: str, metric: Metric = metric, mean: Callable = mean, by_seed: dict = by_seed) -> Score:
            other = columns[metric.name, name]
            found = over_seeds(estimate(lambda totals: mean(totals) - other(totals)), list(by_seed.values()))
            p = found.p if metric.direction == "higher" else 1 - found.p
            return Score(found.value, (found.low, found.high), p)

        if len(tuned) == 1:
            own = alone(mean)
        else:
            spread = over_seeds(estimate(mean), list(by_seed.values()))
            own = Score(spread.value, (spread.low, spread.high))
        beside = {}
        for name in controls:
            found = alone(columns[metric.name, name])
            beside[name] = Control(found.value, found.ci, ahead(name))
        records.append(
            Record(
                phase=spec.phase,
                spec=spec.name,
                profile=spec.profile,
                data=spec.data.name or spec.data.path,
                evaluation_digest=digest,
                tier=metric.tier,
                metric=metric.name,
                direction=metric.direction,
                n=n,
                groups=len({group for group, kept in zip(groups, scored[metric.name]) if kept}),
                unscored=len(examples) - n,
                seeds=by_seed,
                baseline=alone(columns[metric.name, metric.baseline]),
                tuned=own,
                gain=ahead(metric.baseline),
                against=metric.baseline,
                controls={} if metric.baseline != "baseline" else beside,
            )
        )
    return records


def samples(spec: Spec, examples: Sequence[Example], before: Answers, after: Answers) -> list[dict[str, Any]]:
    """One dict a held-out sample: question, reference, both answers, and [before, after] of each right-or-wrong metric."""
    scores: dict[str, list[tuple[float, float]]] = {}
    for metric in spec.load_task().METRICS:
        if metric.right_or_wrong and metric.baseline == "baseline" and metric.direction == "higher":
            first, second = (metric.value(metric.statistics(examples, said)).tolist() for said in (before, after))
            scores[metric.name] = list(zip(first, second))
    return [
        {
            "id": example.id,
            "group": example.group,
            "question": question(example),
            "reference": example.reference,
            "baseline": before[i],
            "tuned": after[i],
            "scores": {name: list(values[i]) for name, values in scores.items()},
        }
        for i, example in enumerate(examples)
    ]


def worst(samples: Sequence[dict[str, Any]]) -> str:
    """One sample in words: one that was right before and is wrong now, else any that is wrong."""
    for before in (1, 0):
        for sample in samples:
            if any(score == [before, 0] for score in sample["scores"].values()):
                asked = " ".join(sample["question"].split())[:200]
                return f"{sample['id']}: {asked!r} → {sample['tuned'][:80]!r}, expected {sample['reference']!r}"
    return ""
