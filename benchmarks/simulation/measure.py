"""Let PRISM decide simulated answers, through the functions that a run calls: score, compare and the gate."""

from __future__ import annotations

import functools
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy

from benchmarks.simulation.answers import Cell, metric, simulate, truth
from prism.metrics import Metric
from prism.rows import Example
from prism.spec import Limit, load_spec
from prism.verdicts.compare import Comparison, compare
from prism.verdicts.drops import Against
from prism.verdicts.gate import decide
from prism.verdicts.record import Record, Verdict, empty_record
from prism.verdicts.scores import Measure, Scores
from prism.verdicts.scoring import score

SPEC = load_spec(Path(__file__).parent.parent / "specs" / "phase1" / "nano.toml")
EVALUATION = "0" * 64
BATCH = 400_000  # answers simulated at a time: some 50 MB


@dataclass(frozen=True)
class Figure:
    """A share of `cases` in percent, and the range that it should lie in; `of` says which of a table's cell it is."""

    percent: float
    cases: int
    target: tuple[float, float] | None = None
    of: str = ""
    unknown: float = 0.0  # percent of further cases for which PRISM says that it does not know

    @classmethod
    def share(cls, hits: Any, target: tuple[float, float] | None = None, of: str = "") -> Figure:
        hits = numpy.asarray(hits, float)
        known = ~numpy.isnan(hits)
        percent = 100 * float(hits[known].mean()) if known.any() else math.nan
        return cls(percent, int(known.sum()), target, of, 100 * float(1 - known.mean()))

    @property
    def error(self) -> float:
        """The simulation's standard error in percent points, if the truth is the limit that the figure exceeds."""
        low, high = self.target or (0.0, 100.0)
        limit = min(max(self.percent, low), high)
        return 100 * math.sqrt(limit / 100 * (1 - limit / 100) / max(self.cases, 1))

    @property
    def misses(self) -> bool:
        """Whether it lies outside of its target by more than two standard errors of the simulation."""
        if self.target is None or math.isnan(self.percent):
            return False
        low, high = self.target
        return self.percent < low - 2 * self.error or self.percent > high + 2 * self.error

    def __str__(self) -> str:
        if math.isnan(self.percent):
            return "unknown"
        rarely = f" ({self.unknown:.0f} % unknown)" if self.unknown >= 0.5 else ""
        return f"{self.percent:.1f}{'✗' if self.misses else ''}{rarely}"


def batches(cell: Cell, count: int, multiple: int = 1) -> Iterator[int]:
    """Sizes of batches, each a multiple of the thresholds of a run."""
    width = cell.n * sum(cell.seeds) * (5 if cell.kind == "F1" else 1)
    size = max(1, BATCH // (width * multiple)) * multiple
    for start in range(0, count, size):
        yield min(size, count - start)


# Scores and gains


@functools.lru_cache(4)
def _examples(cell: Cell) -> tuple[Example, ...]:
    return tuple(
        Example(name, ({"role": "user", "content": name},), "a", group) for name, group in zip(cell.ids, cell.names)
    )


def scored(cell: Cell, baseline: numpy.ndarray, tuned: numpy.ndarray) -> list[Record]:
    """Records as a run makes them, one a metric: `baseline` is (metrics, 1, n, d), `tuned` (metrics, seeds, n, d)."""

    def reading(answers: Mapping[str, numpy.ndarray], name: str) -> Metric:
        return replace(metric(cell.kind, name), statistics=lambda examples, said: answers[said[0]])

    seeds = range(tuned.shape[1])
    metrics = [
        reading({"baseline": before[0], **{str(seed): after[seed] for seed in seeds}}, f"m{i}")
        for i, (before, after) in enumerate(zip(baseline, tuned))
    ]
    said = {seed: [str(seed)] * cell.n for seed in seeds}
    return score(SPEC, metrics, _examples(cell), EVALUATION, ["baseline"] * cell.n, said, {})


def covers(ci: tuple[float, float], true: float, widest: tuple[float, float]) -> float:
    """1 or 0; NaN if the interval is not known: no number, or all that is possible."""
    low, high = ci
    if math.isnan(low + high) or (low <= widest[0] and high >= widest[1]):
        return math.nan
    return float(low <= true <= high)


def score_covered(cell: Cell, record: Record) -> float:
    return covers(record.tuned.ci, truth(cell.kind, cell.rate), (0.0, 1.0))


def gain_covered(record: Record, true: float) -> float:
    return covers(record.gain.ci, true, (-1.0, 1.0))


def gain_holds(record: Record) -> bool:
    return decide(Limit(tier="tier1", metric=record.metric, key="gain", value=0.0), record).state == "holds"


# Losses


def compared(
    cell: Cell, old: numpy.ndarray, new: numpy.ndarray, thresholds: int
) -> tuple[Against, dict[str, Comparison]]:
    """Compare two runs, each (metrics, seeds, n, d), as files of scores are compared."""
    metrics = [metric(cell.kind, f"m{i}") for i in range(len(old))]
    accepted, run = (_scores(cell, metrics, side) for side in (old, new))
    comparisons, without = compare(accepted, run, metrics, thresholds)
    return Against(accepted, comparisons, without), comparisons


def _scores(cell: Cell, metrics: Sequence[Metric], side: numpy.ndarray) -> Scores:
    seeds = {str(seed): 0.5 for seed in range(side.shape[1])}
    measures = {m.name: Measure("tier1", m.version, "", 0.5, (0.0, 1.0), seeds, part) for m, part in zip(metrics, side)}
    groups = cell.names
    return Scores("phase1", "simulated", "nano", "simulated", EVALUATION, cell.ids, groups, measures, {}, {})


def verdicts(
    cell: Cell, old: numpy.ndarray, new: numpy.ndarray, drop: float, thresholds: int
) -> list[tuple[Verdict, Comparison]]:
    """What the gate says of every metric's `drop`, and the comparison that it read."""
    against, comparisons = compared(cell, old, new, thresholds)
    found = []
    for name, comparison in comparisons.items():
        record = empty_record(SPEC, EVALUATION, "tier1", name, 0, n=cell.n, groups=cell.groups or cell.n)
        limit = Limit(tier="tier1", metric=name, key="drop", value=drop)
        found.append((decide(limit, record, against), comparison))
    return found


def states(
    cell: Cell, count: int, random: numpy.random.Generator, loss: float, drop: float, thresholds: int
) -> numpy.ndarray:
    """The states that the gate gives `count` thresholds of runs that have `thresholds` of them each."""
    found: list[str] = []
    for size in batches(cell, count, thresholds):
        old, new = simulate(cell, size, random, loss)
        found += [verdict.state for verdict, _ in verdicts(cell, old, new, drop, thresholds)]
    return numpy.array(found)


def alarms(
    cell: Cell,
    runs: int,
    random: numpy.random.Generator,
    drop: float = 0.0,
    thresholds: int = 1,
    target: tuple[float, float] | None = (0.0, 5.0),
) -> Figure:
    """The share of whole runs in which a threshold fails although the true loss is exactly its limit."""
    said = states(cell, runs * thresholds, random, drop, drop, thresholds)
    return Figure.share((said == "fails").reshape(runs, thresholds).any(1), target, f"m = {thresholds}")


def stated(cell: Cell, random: numpy.random.Generator, drop: float, thresholds: int, runs: int = 40) -> float:
    """The loss that a verdict between equal models says it would catch: the median of `runs`."""
    found: list[float] = []
    for size in batches(cell, runs):
        old, new = simulate(cell, size, random)
        found += [
            math.inf if verdict.detectable is None else verdict.detectable
            for verdict, _ in verdicts(cell, old, new, drop, thresholds)
        ]
    return float(numpy.median(found))
