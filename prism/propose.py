"""Thresholds from measured seeds: each number with the reason for it, as TOML to paste into the spec.

A floor is read on the same held-out rows each time, so that only the seed moves it. A gain must hold on other samples,
too. A drop is the smallest loss that these samples and seeds tell from chance: a smaller one would be a wish.
"""

from __future__ import annotations

import json
import math
import re
import statistics
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy

from prism import stats
from prism.compare import compare, metrics
from prism.reference import Reference
from prism.report.words import number, signed
from prism.spec import Spec

TAIL = 0.01  # one next seed in a hundred may miss a floor by chance
NOTHING = "these seeds bear no floor or ceiling within its range, and show no gain"
FEWEST = 3  # seeds: two to see a spread in, one to hold against them

Record = Mapping[str, Any]  # of results.json
Number = tuple[str, float, str]  # key, value, reason


def propose(spec: Spec, records: Sequence[Record], scores: Reference, other_drops: int) -> str:
    """The TOML. `other_drops` is what the profile's other specs declare: it shares the false alarms with these."""
    bounds = {metric.name: (metric.low, metric.high) for metric in metrics(scores)}
    known = [
        r for r in records if r["tier"] != "cost" and r["metric"] in scores.measures and r["tuned"]["value"] is not None
    ]
    headlines = set(_headlines(spec, known))
    tiers: dict[str, list[str]] = {}
    for record in known:
        numbers = [*_level(record, *bounds[record["metric"]]), *_gain(record)]
        if record["metric"] in headlines:
            numbers += _drop(record["metric"], scores, other_drops + len(headlines))
        table = ", ".join(f"{key} = {value:g}" for key, value, _ in numbers)
        reasons = (f"# {record['metric']} {key}: {reason}\n" for key, _, reason in numbers)
        line = f"{_key(record['metric'])} = {{ {table} }}\n" if numbers else f"# {record['metric']}: {NOTHING}\n"
        tiers.setdefault(record["tier"], []).append("".join(reasons) + line)
    evaluation = scores.evaluation_digest[:8]
    head = f'# {spec.id}: seeds {", ".join(scores.seeds)}. In [data]: measured_on = "{evaluation}"\n'
    return head + "".join(f"\n[gate.{tier}]\n{''.join(lines)}" for tier, lines in tiers.items())


def _headlines(spec: Spec, records: Sequence[Record]) -> Iterator[str]:
    """The one metric of each tier that gets a drop: the first that the spec gates, else the first. Each more costs all power."""
    fit = [record for record in records if record["direction"] == "higher" and record["against"] == "baseline"]
    for tier in dict.fromkeys(record["tier"] for record in fit):
        names = [record["metric"] for record in fit if record["tier"] == tier]
        gated = spec.gate.get(tier, {})
        yield next((name for name in names if name in gated), names[0])


def _level(record: Record, low: float, high: float) -> Iterator[Number]:
    """A floor, or a ceiling where lower is better, that the next seed keeps with 99 % chance."""
    if record["against"] != "baseline":  # the same value as of the metric that it repeats
        return
    mean, values = record["tuned"]["value"], list(record["seeds"].values())
    key, sign = ("floor", 1) if record["direction"] == "higher" else ("ceiling", -1)
    spread = statistics.stdev(values)
    if spread:
        bound = mean - sign * _reach(values)
        reason = f"99 of 100 next seeds {'reach' if sign > 0 else 'stay under'} {number(bound)}"
    else:
        bound = stats.wilson(mean * record["n"], record["n"])[0 if sign > 0 else 1]
        reason = f"no seed differs; the 95 % interval of n = {record['n']:,} ends at {number(bound)}"
    if low < bound < high:
        yield key, _rounded(bound, -sign), f"mean {number(mean)}, sd {number(spread)} of {len(values)} seeds; {reason}"


def _gain(record: Record) -> Iterator[Number]:
    """The lower end of the gain's interval, or what the next seed gains with 99 % chance, whichever is less."""
    if record["direction"] == "lower":  # its ceiling says it
        return
    gain, values = record["gain"], list(record["seeds"].values())
    bounds = {
        "the lower end of its interval": gain["ci"][0],
        "what 99 of 100 next seeds gain": gain["value"] - _reach(values),
    }
    why = min(bounds, key=lambda name: bounds[name])
    if bounds[why] > 0:
        interval = f"{signed(gain['value'])} [{signed(gain['ci'][0])}, {signed(gain['ci'][1])}]"
        yield "gain", _rounded(bounds[why], -1), f"{interval} over {record['against'].replace('_', ' ')}; {why}"


def _reach(values: Sequence[float]) -> float:
    """How far below the mean of these seeds the next one may fall: Student's prediction interval."""
    k = len(values)
    return stats.quantile(TAIL, k - 1) * statistics.stdev(values) * math.sqrt(1 + 1 / k)


def _drop(metric: str, scores: Reference, thresholds: int) -> Iterator[Number]:
    """The loss caught with 80 % power where one new seed meets an accepted reference: each seed against the others."""
    seen = []
    for seed in scores.seeds:
        others = [other for other in scores.seeds if other != seed]
        measure = [known for known in metrics(scores) if known.name == metric]
        comparisons, _ = compare(_only(scores, metric, others), _only(scores, metric, [seed]), measure, thresholds)
        seen += [comparison.detectable() for comparison in comparisons.values()]
    least = float(numpy.mean(seen)) if seen else math.inf
    if math.isfinite(least):
        at = f"p ≤ .05/{thresholds}, {len(scores.ids):,} samples"
        yield (
            "drop",
            _rounded(least, 1),
            f"the loss that one seed against {len(scores.seeds) - 1} shows with 80 % power ({at})",
        )


def _only(scores: Reference, metric: str, seeds: Sequence[str]) -> Reference:
    measure = scores.measures[metric]
    places = [list(measure.seeds).index(seed) for seed in seeds]
    part = replace(measure, seeds={seed: measure.seeds[seed] for seed in seeds}, statistics=measure.statistics[places])
    return replace(scores, measures={metric: part})


def _rounded(value: float, direction: int) -> float:
    """To three decimals, down or up."""
    return (math.ceil if direction > 0 else math.floor)(round(value * 1000, 6)) / 1000


def _key(name: str) -> str:
    return name if re.fullmatch(r"[A-Za-z0-9_-]+", name) else json.dumps(name, ensure_ascii=False)
