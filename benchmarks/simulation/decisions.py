"""Does `drop` alarm without reason, does it hold without reason, and does it catch what it says that it catches?"""

from __future__ import annotations

import math
from dataclasses import replace

import numpy

from benchmarks.simulation.answers import Cell, simulate
from benchmarks.simulation.measure import (
    THRESHOLDS,
    Figure,
    affordable,
    alarms,
    batches,
    comparisons,
    losses_covered,
    score_covered,
    scored,
    stated,
    states,
)
from benchmarks.simulation.tables import Entry, Line, Question, Table

EACH = 5  # comparisons behind an alarm rate, as a multiple of --runs: an eighth as many runs of 40 thresholds
ALARMS = (0.0, 5.0)
HOLDS = (0.0, 5.0)  # said of a loss that is exactly the limit; of a larger one it is said less often
POWER = (78.0, 100.0)
DROP = 0.02

NAMES = ("scores", "n", "groups", "rate", "churn")


def _labels(cell: Cell) -> tuple[str, ...]:
    scores = cell.kind + (", new side all or nothing" if cell.unlike else "")
    rate = f"{cell.rate:.2f}".removeprefix("0")
    return scores, f"{cell.n:,}", cell.grouping, rate, f"{100 * cell.churn:.0f} %"


SHAPES = [
    Cell(50),
    Cell(150),
    Cell(500),
    Cell(2_000),
    Cell(10_000),
    Cell(150, groups=30),
    Cell(500, groups=100, sizes="lognormal"),
    Cell(500, groups=100, sizes="Zipf"),
    Cell(500, groups=30, sizes="lognormal"),
]
SOME = [shape for shape in SHAPES if (shape.n, shape.groups) in ((150, 0), (500, 0), (150, 30), (500, 100))]
CELLS = [
    *SHAPES,
    *(Cell(shape.n, "continuous", 0.2, shape.groups, shape.sizes) for shape in SHAPES if shape.n < 10_000),
    *(Cell(shape.n, "many zeros", 0.1, shape.groups, shape.sizes) for shape in SOME),
    *(Cell(shape.n, "F1", 0.75, shape.groups, shape.sizes) for shape in SOME),
    *(Cell(500, rate=rate) for rate in (0.04, 0.1, 0.5, 0.9, 0.98)),
    *(Cell(500, churn=churn) for churn in (0.05, 0.8)),
    Cell(150, "continuous", 0.2, unlike=True),
    Cell(2_000, "continuous", 0.2, unlike=True),
]


def false_alarms(cell: Cell, random: numpy.random.Generator, runs: int) -> tuple[Line, ...]:
    """Whole runs with an alarm between equal models, and where every true loss is exactly its limit."""
    count = affordable(cell, EACH * runs)
    equal = list(comparisons(cell, count, random, 0.0))
    at_limit = list(comparisons(cell, count, random, DROP))
    of_equal = states(equal, DROP, 1)
    entries = (
        alarms(equal, 0.0, ALARMS),
        alarms(at_limit, DROP, ALARMS),
        Figure.share(states(at_limit, DROP, 1) == "holds", HOLDS),
        tuple(Figure.share(of_equal == state, None, state) for state in ("holds", "inconclusive")),
    )
    return (Line(_labels(cell), entries),)


FALSE_ALARMS = Question(
    (
        Table(
            "How many runs alarm without reason?",
            "*Equal models*: runs of m independent thresholds with `drop = 0` in which at least one fails. *At the limit*: "
            f"the same where the true loss is exactly the limit, `drop = {DROP:g}`. Wanted: at most 5 %. *Holds at the "
            "limit*: thresholds that are said to hold there, m = 1; wanted: at most 5 %. The last column is what is said "
            f"of equal models with `drop = {DROP:g}`, m = 1.",
            NAMES,
            (
                "equal models, alarms %, m = 1 / 8 / 40",
                "at the limit, alarms %, m = 1 / 8 / 40",
                "holds at the limit %",
                "equal models: holds / inconclusive %",
            ),
        ),
    ),
    CELLS,
    false_alarms,
)


def _power(cell: Cell, random: numpy.random.Generator, runs: int, m: int, drop: float) -> tuple[str, Figure | str]:
    """The loss that a verdict states, in points, and how often a true loss of that size fails."""
    loss = stated(cell, random, drop, m, max(100, runs // 2))
    if not math.isfinite(loss) or loss >= cell.rate:  # no such loss exists
        return "none", "–"
    said = states(comparisons(cell, max(1, runs // 2), random, loss), drop, m)
    return f"{100 * loss:.1f}", Figure.share(said == "fails", POWER, f"m = {m}")


def power(cell: Cell, random: numpy.random.Generator, runs: int) -> tuple[Line, ...]:
    found = [_power(cell, random, runs, m, DROP / 2) for m in THRESHOLDS]
    return (Line(_labels(cell), (tuple(loss for loss, _ in found), tuple(caught for _, caught in found))),)


CAUGHT = Question(
    (
        Table(
            "Is a loss caught as often as is stated?",
            f"The smallest loss that a verdict between equal models says it would catch in 80 % of runs, `drop = "
            f"{DROP / 2:g}`, in points (the median of 100 verdicts or more; *none*: it says that no loss can be seen, or one that "
            "leaves less than nothing), and how often a true loss of that size fails. Wanted: at least 78 %.",
            NAMES,
            ("stated loss, points, m = 1 / 8 / 40", "caught %, m = 1 / 8 / 40"),
        ),
    ),
    CELLS,
    power,
)


# Seeds

TWICE = (0.0, 7.0)


def _seeded(cell: Cell) -> list[Cell]:
    """The same recipe on both sides, or two with one mean whose seeds differ more or less."""
    apart = ((0.0, 0.0), (0.01, 0.01), (0.003, 0.02), (0.02, 0.003))
    several = [replace(cell, seeds=k, spreads=spreads) for k in ((5, 5), (2, 2)) for spreads in apart]
    single = ((0.0, 0.0), (0.003, 0.003), (0.01, 0.01), (0.02, 0.02), (0.02, 0.003), (0.003, 0.006), (0.01, 0.02))
    return several + [replace(cell, seeds=(5, 1), spreads=spreads) for spreads in single]


SEEDED = [
    *_seeded(Cell(500)),
    *_seeded(Cell(500, "continuous", 0.2)),
    *(cell for cell in _seeded(Cell(500, groups=100, sizes="lognormal")) if cell.seeds == (5, 1)),
]


def seeds(cell: Cell, random: numpy.random.Generator, runs: int) -> tuple[Line, ...]:
    single_wider = cell.seeds[1] == 1 and cell.spreads[1] > cell.spreads[0]
    equal = list(comparisons(cell, 2 * runs, random, 0.0))
    at = alarms(equal, 0.0, TWICE if single_wider else ALARMS)
    losses: list[float] = []
    scores: list[float] = []
    for size in batches(cell, max(1, runs // 2)):
        old, new = simulate(cell, size, random)
        losses += losses_covered(cell, old, new)
        if cell.seeds[1] > 1 and len(scores) < 500:
            scores += [score_covered(cell, record) for record in scored(cell, old[:, :1], new)]
    covered = (93.0, 100.0)
    of_score: Entry = Figure.share(scores, covered) if scores else "–"
    stated_loss, caught = _power(cell, random, runs, 1, 0.01)
    spreads = " / ".join(f"{spread:g}".replace("0.", ".") for spread in cell.spreads)
    labels = (cell.kind, f"{cell.n:,}", cell.grouping, f"{cell.seeds[0]} / {cell.seeds[1]}", spreads)
    return (Line(labels, (at, of_score, Figure.share(losses, covered), stated_loss, caught)),)


SEEDS = Question(
    (
        Table(
            "Do unlike spreads between seeds raise alarms?",
            "Two recipes with one true mean. *Seeds* and *spread* (the standard deviation of the true score between seeds) "
            "are those of the accepted side and of the new one. Wanted: at most 5 % of runs with an alarm at `drop = 0`; 7 % "
            "with one new seed whose true spread is twice the one that is assumed; coverage of at least 93 %; at least 78 % "
            "of losses of the stated size caught (m = 1, `drop = 0.01`). Of a single seed's recipe there is no interval "
            "of the score.",
            ("scores", "n", "groups", "seeds", "spread"),
            ("alarms %, m = 1 / 8 / 40", "score covered %", "loss covered %", "stated loss, points", "caught %"),
        ),
    ),
    SEEDED,
    seeds,
)
