"""Does an accepted run that was picked, or that is kept for long, raise alarms between equal recipes?"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy

from benchmarks.simulation.answers import Cell, simulate
from benchmarks.simulation.measure import Figure, batches, verdicts
from benchmarks.simulation.tables import Line, Question, Table

LOOKS = 5  # runs of which the best is accepted
FRESH = 2  # seeds that `prism accept --fresh` measures anew
COMMITS = 20
ALARMS = (0.0, 5.0)


@dataclass(frozen=True)
class Kept:
    """A recipe, and what all its runs have in common: thresholds, and the spread of its true mean between seeds."""

    cell: Cell
    thresholds: int
    spread: float


def picked(row: Kept, random: numpy.random.Generator, runs: int) -> tuple[Line, ...]:
    """Runs with an alarm against one run, the best of five by the first metric, and one measured anew."""
    m = row.thresholds
    cell = replace(row.cell, seeds=(LOOKS, FRESH + 1), spreads=(row.spread, row.spread))
    found: dict[str, list[bool]] = {"first": [], "best": [], "fresh": []}
    for size in batches(cell, runs * m, m):
        candidates, rest = simulate(cell, size, random)
        fresh, new = rest[:, :FRESH], rest[:, FRESH:]
        # Whoever picks looks at the run's first metric; the others come with it.
        values = candidates[::m, :, :, 0].mean(-1)
        best = numpy.repeat(values.argmax(1), m)
        of_best = candidates[numpy.arange(size), best][:, None]
        for name, accepted in (("first", candidates[:, :1]), ("best", of_best), ("fresh", fresh)):
            said = [verdict.state == "fails" for verdict, _ in verdicts(cell, accepted, new, 0.0, m)]
            found[name] += numpy.reshape(said, (-1, m)).any(1).tolist()
    # One seed against one speaks of these adapters, which do differ where there is a spread between seeds.
    first = Figure.share(found["first"], None if row.spread else ALARMS)
    entries = (first, Figure.share(found["best"]), Figure.share(found["fresh"], ALARMS))
    return (Line(_labels(row), entries),)


def _labels(row: Kept) -> tuple[str, ...]:
    return row.cell.kind, f"{row.cell.n:,}", str(row.thresholds), f"{row.spread:g}".replace("0.", ".")


ROWS = [
    Kept(Cell(n), thresholds, spread) for n in (500, 2_000) for thresholds in (1, 8) for spread in (0.0, 0.01)
] + [Kept(Cell(500, "continuous", 0.2), 1, spread) for spread in (0.0, 0.01)]

PICKED = Question(
    (
        Table(
            "Does a picked reference raise alarms?",
            f"Runs of one recipe, one seed each, with an alarm at `drop = 0`, against the first of {LOOKS} runs, against the "
            f"best of them by its first metric, and against a measurement of {FRESH} new seeds (`prism accept --fresh`). "
            "Wanted: at most 5 % after a fresh measurement. A picked run raises alarms, which is why accepting one warns. With a "
            "spread between seeds, one seed against one speaks of two adapters that do differ.",
            ("scores", "n", "thresholds", "spread"),
            ("first run, alarms %", "best of five, alarms %", "measured anew, alarms %"),
        ),
    ),
    ROWS,
    picked,
)
