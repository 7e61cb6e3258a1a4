"""Whether scores can be what a run measured: each value against the samples' statistics that it is computed from.

A checksum says that a file is as it was written. It does not say that what was written can be: a reference with
statistics that no answer has would make every later run better, or worse.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy

from prism.errors import ScoresError
from prism.metrics import ROUNDING, Metric
from prism.verdicts.scores import Measure, Scores


@dataclass(frozen=True)
class _Family:
    """What metrics of the same statistics share."""

    scored: numpy.ndarray  # which samples every seed scored
    places: numpy.ndarray  # (seeds × samples): of one each of their distinct statistics
    statistics: numpy.ndarray  # these, (distinct, d)
    sums: numpy.ndarray  # (seeds, d)

    @classmethod
    def of(cls, statistics: numpy.ndarray) -> _Family:
        scored = ~numpy.isnan(statistics).any((0, 2))
        part = statistics if scored.all() else statistics[:, scored]
        flat = part.reshape(-1, part.shape[-1])
        # Rows that differ have sums that differ, by weights that nobody's statistics have: one column is sorted faster.
        _, places = numpy.unique(flat @ numpy.random.default_rng(0).random(flat.shape[1]), return_index=True)
        return cls(scored, places, flat[places], part.sum(1))


def require_possible(scores: Scores, metrics: Sequence[Metric]) -> None:
    """Raise ScoresError for the first metric whose value, interval or statistics cannot be measured."""
    families: dict[int, _Family] = {}
    for metric in metrics:
        measure = scores.measures.get(metric.name)
        if measure is None or measure.version != metric.version:
            continue
        if id(measure.statistics) not in families:
            families[id(measure.statistics)] = _Family.of(measure.statistics)
        if why := _impossible(metric, measure, families[id(measure.statistics)], scores.ids):
            raise ScoresError(
                f"{scores.name}: {metric.name} has {why}, which no run can measure; restore the file from git, or "
                f"`prism accept` a run"
            )


def _impossible(metric: Metric, measure: Measure, family: _Family, ids: Sequence[str]) -> str:
    low, high = metric.range
    room = ROUNDING * (high - low)
    numbers = [measure.value, *measure.seeds.values(), *measure.ci]
    if outside := [number for number in numbers if number < low - room or number > high + room]:
        return f"a value of {outside[0]:g}, outside its range [{low:g}, {high:g}]"
    if measure.ci[0] > measure.value + room or measure.ci[1] < measure.value - room:
        return f"an interval [{measure.ci[0]:g}, {measure.ci[1]:g}] that leaves out its value {measure.value:g}"
    if abs(sum(measure.seeds.values()) / len(measure.seeds) - measure.value) > room:
        return f"a value of {measure.value:g} that is not the mean of its seeds"
    try:
        if found := metric.impossible(family.statistics):
            sample = ids[numpy.flatnonzero(family.scored)[family.places[found[0]] % family.scored.sum()]]
            return f"a sample ({sample}) with {found[1]}"
        values = metric.value(family.sums)
    except (ValueError, IndexError, TypeError):  # a metric's own function, of other statistics than these
        return f"{measure.statistics.shape[-1]} statistics a sample, which it cannot read"
    return _counted(measure, int(family.scored.sum()), values, room)


def _counted(measure: Measure, scored: int, values: numpy.ndarray, room: float) -> str:
    """What is wrong with the value as one of `scored` samples, whose own values by seed are `values`.

    It counts `n` of them: those that the baseline and the controls scored too. Which ones is not in the file, so their
    value is known only if they are all. Older files do not say `n`.
    """
    if measure.n is None or measure.n < scored:
        return ""
    if measure.n > scored:
        return f"a value of {measure.n:,} samples, of which {scored:,} are scored"
    for value, (seed, said) in zip(values, measure.seeds.items()):
        if abs(value - said) > room:
            return f"a value of {said:g} with seed {seed}, but its samples give {value:g}"
    return ""
