"""All questions by name, in the order of RESULTS.md, for the processes that measure them."""

from __future__ import annotations

import time

from benchmarks.simulation.coverage import COVERAGE, FEW_GROUPS
from benchmarks.simulation.decisions import CAUGHT, FALSE_ALARMS, SEEDS
from benchmarks.simulation.references import COMMITS, PICKED
from benchmarks.simulation.tables import Line

QUESTIONS = {
    "coverage": COVERAGE,
    "few": FEW_GROUPS,
    "alarms": FALSE_ALARMS,
    "power": CAUGHT,
    "seeds": SEEDS,
    "picked": PICKED,
    "commits": COMMITS,
}


def measure(name: str, row: int, runs: int) -> tuple[tuple[Line, ...], float]:
    """One row of a question, and the seconds of one core that it took."""
    start = time.process_time()
    return QUESTIONS[name].line(QUESTIONS[name].rows[row], runs), time.process_time() - start
