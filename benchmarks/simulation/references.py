"""Does an accepted run that was picked, or that is kept for long, raise alarms between equal recipes?"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy

from benchmarks.simulation.answers import Cell, simulate
from benchmarks.simulation.measure import Figure, alarms, batches, compared, states
from benchmarks.simulation.tables import Line, Question, Table
from prism.verdicts.alarms import parts
from prism.verdicts.compare import Comparison

LOOKS = 5  # runs of which the best is accepted
FRESH = 2  # seeds that `prism accept --fresh` measures anew
SINCE = 20  # commits that are compared with one accepted run
ALARMS = (0.0, 5.0)


@dataclass(frozen=True)
class Kept:
    """A recipe, and what all its runs have in common: thresholds, and the spread of its true mean between seeds."""

    cell: Cell
    thresholds: int
    spread: float
    seeds: int = 1  # of the accepted run


def picked(row: Kept, random: numpy.random.Generator, runs: int) -> tuple[Line, ...]:
    """Runs with an alarm against one run, the best of five by the first metric, and one measured anew."""
    m = row.thresholds
    cell = replace(row.cell, seeds=(LOOKS, FRESH + 1), spreads=(row.spread, row.spread))
    found: dict[str, list[Comparison]] = {"first": [], "best": [], "fresh": []}
    for size in batches(cell, (runs if m == 1 else runs // 2) * m, m):
        candidates, rest = simulate(cell, size, random)
        fresh, new = rest[:, :FRESH], rest[:, FRESH:]
        # Whoever picks looks at the run's first metric; the others come with it.
        values = candidates[::m, :, :, 0].mean(-1)
        best = numpy.repeat(values.argmax(1), m)
        of_best = candidates[numpy.arange(size), best][:, None]
        for name, accepted in (("first", candidates[:, :1]), ("best", of_best), ("fresh", fresh)):
            found[name] += compared(cell, accepted, new).comparisons.values()
    # One seed against one speaks of these adapters, which do differ where there is a spread between seeds.
    targets = {"first": None if row.spread else ALARMS, "best": None, "fresh": ALARMS}
    entries = tuple(alarms(found[name], 0.0, target, (m,))[0] for name, target in targets.items())
    return (Line(_labels(row), entries),)


def _labels(row: Kept) -> tuple[str, ...]:
    return row.cell.kind, f"{row.cell.n:,}", str(row.thresholds), f"{row.spread:g}".replace("0.", ".")


ROWS = [Kept(Cell(n), thresholds, spread) for n in (500, 2_000) for thresholds in (1, 8) for spread in (0.0, 0.01)] + [
    Kept(Cell(500, "continuous", 0.2), 1, spread) for spread in (0.0, 0.01)
]

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


def commits(row: Kept, random: numpy.random.Generator, runs: int) -> tuple[Line, ...]:
    """Accepted runs with an alarm in any of twenty later runs of one seed each."""
    m = row.thresholds
    cell = replace(row.cell, seeds=(row.seeds, SINCE), spreads=(row.spread, row.spread))
    found: dict[str, list[numpy.ndarray]] = {"run": [], "reference": []}
    for size in batches(cell, max(1, runs // (5 if m == 1 else 10)) * m, m):
        accepted, new = simulate(cell, size, random)
        failed = {over: numpy.zeros(size, bool) for over in found}
        for commit in range(SINCE):
            later = list(compared(cell, accepted, new[:, [commit]]).comparisons.values())
            for over, thresholds in (("run", m), ("reference", m * parts(commit + 1))):
                failed[over] |= states(later, 0.0, thresholds) == "fails"
        for over, of_batch in failed.items():
            found[over].append(of_batch.reshape(-1, m).max(1))
    # One seed against one speaks of two adapters, which do differ where there is a spread between seeds.
    target = ALARMS if row.seeds > 1 or not row.spread else None
    by_run, by_reference = (numpy.concatenate(found[over]) for over in ("run", "reference"))
    labels = (*_labels(row)[:2], str(row.seeds), *_labels(row)[2:])
    return (Line(labels, (Figure.share(by_run), Figure.share(by_reference, target))),)


COMMITS = Question(
    (
        Table(
            "Does an accepted run that is kept raise alarms?",
            f"Accepted runs with an alarm at `drop = 0` in any of {SINCE} later runs of the same recipe, one new seed each, with "
            "`--prism-alarms run` (5 % in each run, so more in all) and `--prism-alarms reference`. Wanted: at most 5 % over "
            "all with the second.",
            ("scores", "n", "accepted seeds", "thresholds", "spread"),
            ("by run, alarms %", "by reference, alarms %"),
        ),
    ),
    [
        Kept(Cell(n), thresholds, spread, seeds)
        for n, thresholds in ((500, 1), (500, 8), (2_000, 1))
        for seeds, spread in ((1, 0.0), (5, 0.0), (5, 0.01))
    ]
    + [Kept(Cell(500, "continuous", 0.2), 1, spread, 5) for spread in (0.0, 0.01)],
    commits,
)
