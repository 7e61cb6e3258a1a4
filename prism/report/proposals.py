"""Propose thresholds from measured seeds: each number with its reason, as TOML to paste into the spec.

A floor is measured on the same held-out rows each time, so only the seed changes it. A gain must hold on other samples,
too. A drop is the smallest loss that these samples and seeds can distinguish from chance; if that is as large as the
whole gain, no drop is proposed.
"""

from __future__ import annotations

import json
import math
import re
import statistics
from collections.abc import Iterator, Sequence
from dataclasses import replace

import numpy

from prism.metrics import Metric
from prism.report.words import number, signed
from prism.spec import Spec
from prism.verdicts.compare import compare
from prism.verdicts.intervals import quantile
from prism.verdicts.record import Record
from prism.verdicts.scores import Scores

ROUNDING = 1e-9  # what rounding leaves of an end that is 0
TAIL = 0.01  # the chance that the next seed misses a floor
NOTHING = "these seeds support no floor or ceiling within the metric's range, and show no gain"
FEWEST = 3  # seeds of a recipe: two show a spread, and one is compared with them

Number = tuple[str, float, str]  # key, value, reason


def propose(spec: Spec, records: Sequence[Record], scores: Scores, metrics: Sequence[Metric], other_drops: int) -> str:
    """The TOML. `metrics` are those of `scores`; `other_drops` thresholds share its false alarms."""
    by_name = {metric.name: metric for metric in metrics}
    known = [r for r in records if r.tier != "cost" and r.metric in scores.measures and math.isfinite(r.tuned.value)]
    headlines = set(_headlines(spec, known))
    tiers: dict[str, list[str]] = {}
    for record in known:
        metric, notes = by_name[record.metric], list[str]()
        numbers = [*_level(record, *metric.range), *_gain(record)]
        if record.metric in headlines:
            drop, why_not = _drop(record, metric, scores, other_drops + len(headlines))
            numbers += drop
            notes += [f"# {record.metric} drop: {why_not}\n"] if why_not else []
        table = ", ".join(f"{key} = {value:g}" for key, value, _ in numbers)
        reasons = [f"# {record.metric} {key}: {reason}\n" for key, _, reason in numbers]
        line = f"{_key(record.metric)} = {{ {table} }}\n" if numbers else f"# {record.metric}: {NOTHING}\n"
        tiers.setdefault(record.tier, []).append("".join([*reasons, *notes]) + line)
    evaluation = scores.evaluation_digest[:8]
    base = scores.training.get("base", {})
    weights = (base.get("bytes") or base.get("revision", ""))[:8]
    head = (
        f'# {spec.id}: {_measured(scores)}. In [data]: measured_on = "{evaluation}"; in [model]: measured_with = '
        f'"{weights}"\n'
    )
    return head + "".join(f"\n[gate.{tier}]\n{''.join(lines)}" for tier, lines in tiers.items())


def _measured(scores: Scores) -> str:
    return f"seeds {', '.join(scores.seeds)}" if len(scores.seeds) > 1 else "one adapter"


def _headlines(spec: Spec, records: Sequence[Record]) -> Iterator[str]:
    """One metric per tier for a drop: the first that the spec gates, else the first. Every further one costs power."""
    fit = [record for record in records if record.direction == "higher" and record.against == "baseline"]
    for tier in dict.fromkeys(record.tier for record in fit):
        names = [record.metric for record in fit if record.tier == tier]
        gated = spec.gate.get(tier, {})  # type: ignore[call-overload]
        yield next((name for name in names if name in gated), names[0])


def _level(record: Record, low: float, high: float) -> Iterator[Number]:
    """A floor, or a ceiling if lower is better, that the next seed meets with 99 % probability.

    With one adapter, or if no seed differs, it is the end of the value's own interval.
    """
    if record.against != "baseline":  # it has the same value as the metric that it repeats
        return
    mean, values = record.tuned.value, list(record.seeds.values())
    key, sign = ("floor", 1) if record.direction == "higher" else ("ceiling", -1)
    spread = statistics.stdev(values) if len(values) > 1 else 0.0
    if spread:
        bound = mean - sign * _reach(values)
        share = f"99 of 100 next seeds {'reach' if sign > 0 else 'stay under'} {number(bound)}"
        reason = f"mean {number(mean)}, sd {number(spread)} of {len(values)} seeds; {share}"
    elif len(values) > 1:
        bound = record.tuned.ci[0 if sign > 0 else 1]
        end = f"the 95 % interval of n = {record.n:,} ends at {number(bound)}"
        reason = f"mean {number(mean)}, sd {number(spread)} of {len(values)} seeds; no seed differs; {end}"
    else:
        bound = record.tuned.ci[0 if sign > 0 else 1]
        reason = f"{number(mean)} of one adapter; its 95 % interval, n = {record.n:,}, ends at {number(bound)}"
    if low + ROUNDING < bound < high - ROUNDING:
        yield key, _rounded(bound, -sign), reason


def _gain(record: Record) -> Iterator[Number]:
    """The lower end of the gain's interval, or the gain that the next seed reaches with 99 % probability, if lower."""
    if record.direction == "lower":  # its ceiling covers it
        return
    gain, values = record.gain, list(record.seeds.values())
    bounds = {"the lower end of its interval": gain.ci[0]}
    if len(values) > 1:
        bounds["the gain of 99 of 100 next seeds"] = gain.value - _reach(values)
    why = min(bounds, key=lambda name: bounds[name])
    if bounds[why] > 0:
        interval = f"{signed(gain.value)} [{signed(gain.ci[0])}, {signed(gain.ci[1])}]"
        yield "gain", _rounded(bounds[why], -1), f"{interval} over {record.against.replace('_', ' ')}; {why}"


def _reach(values: Sequence[float]) -> float:
    """How far below the mean of these seeds the next one may fall: Student's prediction interval."""
    k = len(values)
    return quantile(TAIL, k - 1) * statistics.stdev(values) * math.sqrt(1 + 1 / k)


def _drop(record: Record, metric: Metric, scores: Scores, thresholds: int) -> tuple[list[Number], str]:
    """The loss caught with 80 % power if one new seed is compared with the others, or why there is no drop.

    One adapter is compared with itself: the result is the smallest change that would be detected.
    """
    seeds, detectable = scores.seeds, list[float]()
    for seed in seeds:
        others = [other for other in seeds if other != seed] or seeds
        sides = _only(scores, metric.name, others), _only(scores, metric.name, [seed])
        comparisons, _ = compare(*sides, [metric], thresholds)
        detectable += [comparison.detectable() for comparison in comparisons.values()]
    least = float(numpy.mean(detectable)) if detectable else math.inf
    against = f"one seed against {len(seeds) - 1}" if len(seeds) > 1 else "this adapter against itself"
    at = f"p ≤ .05/{thresholds}, {len(scores.ids):,} samples"
    if not math.isfinite(least):
        return [], f"no loss can be distinguished from chance ({at}); hold out more rows"
    if least >= record.gain.value:
        found = f"{against} shows losses from {number(least)} with 80 % power ({at}), and the whole gain is"
        return [], f"these rows are too few for one: {found} {signed(record.gain.value)}; hold out more rows"
    return [("drop", _rounded(least, 1), f"the loss that {against} shows with 80 % power ({at})")], ""


def _only(scores: Scores, metric: str, seeds: Sequence[str]) -> Scores:
    measure = scores.measures[metric]
    places = [list(measure.seeds).index(seed) for seed in seeds]
    part = replace(measure, seeds={seed: measure.seeds[seed] for seed in seeds}, statistics=measure.statistics[places])
    return replace(scores, measures={metric: part})


def _rounded(value: float, direction: int) -> float:
    """Round to three decimals, down or up."""
    return (math.ceil if direction > 0 else math.floor)(round(value * 1000, 6)) / 1000


def _key(name: str) -> str:
    return name if re.fullmatch(r"[A-Za-z0-9_-]+", name) else json.dumps(name, ensure_ascii=False)
