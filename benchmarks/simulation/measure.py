"""Let PRISM decide simulated answers, through the functions that a run calls: score, compare and the gate."""

from __future__ import annotations

import functools
import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy

from benchmarks.simulation.answers import Cell, metric, simulate, truth
from prism.metrics import Metric
from prism.rows import Example
from prism.spec import Limit, load_spec
from prism.verdicts import losses, margins
from prism.verdicts.compare import Comparison, compare
from prism.verdicts.drops import Against
from prism.verdicts.gate import decide
from prism.verdicts.record import Record, Verdict, empty_record
from prism.verdicts.scores import Measure, Scores
from prism.verdicts.scoring import score

SPEC = load_spec(Path(__file__).parent.parent / "specs" / "phase1" / "nano.toml")
EVALUATION = "0" * 64
THRESHOLDS = (1, 8, 40)  # of a run
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
        return cls(percent, int(known.sum()), target, of, 100 * float((~known).mean()) if len(hits) else 0.0)

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
            return "unknown" if self.unknown else "–"
        rarely = f" ({self.unknown:.0f} % unknown)" if self.unknown >= 0.5 else ""
        return f"{self.percent:.1f}{'✗' if self.misses else ''}{rarely}"


def affordable(cell: Cell, count: int) -> int:
    """Fewer where there are very many samples, which take longest and are best understood."""
    return max(1, int(count * min(1, 2_000 / cell.n)))


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


def compared(cell: Cell, old: numpy.ndarray, new: numpy.ndarray, thresholds: int = 1) -> Against:
    """Compare two runs, each (metrics, seeds, n, d), as files of scores are compared."""
    metrics = [metric(cell.kind, f"m{i}") for i in range(len(old))]
    accepted, run = (_scores(cell, metrics, *side) for side in ((old, "accepted"), (new, "new")))
    return Against(accepted, *compare(accepted, run, metrics, thresholds))


def _scores(cell: Cell, metrics: Sequence[Metric], side: numpy.ndarray, training: str) -> Scores:
    seeds = {str(seed): 0.5 for seed in range(side.shape[1])}
    measures = {m.name: Measure("tier1", m.version, "", 0.5, (0.0, 1.0), seeds, part) for m, part in zip(metrics, side)}
    groups, trained = cell.names, {"adapters": training}
    return Scores("phase1", "simulated", "nano", "simulated", EVALUATION, cell.ids, groups, measures, trained, {})


def losses_covered(cell: Cell, old: numpy.ndarray, new: numpy.ndarray) -> list[float]:
    """Whether the 95 % interval of each loss, which is 0, contains it."""
    found = compared(cell, old, new, 2).comparisons.values()  # at two thresholds the level is 95 %
    return [covers((comparison.loss.low, comparison.loss.high), 0.0, (-1.0, 1.0)) for comparison in found]


def verdict(cell: Cell, comparison: Comparison, against: Against, drop: float) -> Verdict:
    """What the gate says of one `drop`."""
    name = comparison.metric.name
    record = empty_record(SPEC, EVALUATION, "tier1", name, 0, n=cell.n, groups=cell.groups or cell.n)
    return decide(Limit(tier="tier1", metric=name, key="drop", value=drop), record, against)


def remember() -> None:
    """Compute PRISM's exact p and Tango's interval of the same few counts once: many simulated runs have the same."""
    losses.flips = functools.lru_cache(100_000)(losses.flips)
    margins.exact_p = functools.lru_cache(100_000)(margins.exact_p)


def at_alpha(comparison: Comparison, thresholds: int) -> Comparison:
    """The comparison in a profile of so many thresholds: its test is the same, its level is not."""
    return replace(comparison, alpha=0.05 / thresholds)


def comparisons(
    cell: Cell, count: int, random: numpy.random.Generator, loss: float, multiple: int = 1
) -> Iterator[Comparison]:
    """Compare `count` simulated metrics whose true loss is `loss`."""
    for size in batches(cell, count, multiple):
        yield from compared(cell, *simulate(cell, size, random, loss)).comparisons.values()


def states(found: Iterable[Comparison], drop: float, thresholds: int) -> numpy.ndarray:
    """What is said of each: "fails", "holds" or "inconclusive".

    The gate's verdict has the same state, and a sentence and a power beside it, which cost more than the test.
    """
    return numpy.array([at_alpha(comparison, thresholds).state(drop) for comparison in found])


def alarms(
    found: Sequence[Comparison], drop: float, target: tuple[float, float] | None, each: Sequence[int] = THRESHOLDS
) -> tuple[Figure, ...]:
    """The share of whole runs in which at least one threshold fails, by the number of thresholds of a run."""
    shares = []
    failing = [comparison.is_worse(drop) for comparison in found]  # what fails among more thresholds fails alone
    for thresholds in each:
        said = numpy.array([fails and at_alpha(one, thresholds).is_worse(drop) for fails, one in zip(failing, found)])
        runs = len(found) // thresholds
        by_run = said[: runs * thresholds].reshape(runs, thresholds)
        shares.append(Figure.share(by_run.any(1), target, f"m = {thresholds}"))
    return tuple(shares)


def stated(cell: Cell, random: numpy.random.Generator, drop: float, thresholds: int, runs: int) -> float:
    """The loss that a verdict between equal models says it would catch: the median of `runs`."""
    found: list[float] = []
    for size in batches(cell, runs):
        against = compared(cell, *simulate(cell, size, random), thresholds)
        for comparison in against.comparisons.values():
            said = verdict(cell, comparison, against, drop).detectable
            found.append(math.inf if said is None else said)
    return float(numpy.median(found))
