"""Simulate runs whose truth is known, let PRISM decide them, and write what it found: RESULTS.md in this folder.

README.md beside it describes what is simulated.
"""

from __future__ import annotations

import argparse
import multiprocessing
import os
import time
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path

from benchmarks.simulation.measure import remember
from benchmarks.simulation.questions import QUESTIONS, measure
from benchmarks.simulation.tables import SEED, Line, by_table, markdown, misses

RUNS = 1_200
AGAIN = 10


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.simulation", description=__doc__)
    parser.add_argument("--runs", type=int, default=RUNS, help=f"simulated runs a cell; below {RUNS:,} only to try it")
    parser.add_argument("--again", type=int, default=AGAIN, help="times as many runs for a row with a miss; 1: none")
    parser.add_argument("--only", nargs="+", choices=QUESTIONS, default=list(QUESTIONS), help="these tables alone")
    parser.add_argument("--processes", type=int, default=2)
    parser.add_argument("--out", type=Path, help="also write the tables to this file")
    options = parser.parse_args()
    os.environ["OPENBLAS_NUM_THREADS"] = os.environ["OMP_NUM_THREADS"] = "1"  # spawned workers read them at start
    start = time.monotonic()
    jobs = [(name, row) for name in options.only for row in range(len(QUESTIONS[name].rows))]
    measured: dict[tuple[str, int], tuple[Line, ...]] = {}
    cores = 0.0

    def take(chosen: Sequence[tuple[str, int]], runs: int) -> None:
        nonlocal cores
        pending = {job: pool.apply_async(measure, (*job, runs)) for job in chosen}
        for (name, row), result in pending.items():
            measured[name, row], spent = result.get()
            cores += spent / 60
            took = f"{time.monotonic() - start:5.0f} s  {name} {row + 1}, {runs:,} runs: {spent:.0f} s of one core"
            print(took, flush=True)

    with multiprocessing.get_context("spawn").Pool(options.processes, initializer=remember) as pool:
        take(jobs, options.runs)
        again = [job for job in jobs if missed(job[0], measured[job])] if options.again > 1 else []
        take(again, options.runs * options.again)
    lines = {name: [measured[name, row] for row in range(len(QUESTIONS[name].rows))] for name in options.only}
    minutes = (time.monotonic() - start) / 60
    command = "python -m benchmarks.simulation" + ("" if options.runs == RUNS else f" --runs {options.runs}")
    if options.only != list(QUESTIONS):
        command += f" --only {' '.join(options.only)}"
    command += "" if options.again == AGAIN else f" --again {options.again}"
    counted = f"{options.runs:,} runs a cell"
    if options.again > 1:
        counted += f", {options.runs * options.again:,} in the {len(again)} of {len(jobs)} rows that had a miss"
    text = report(lines, command, counted, f"{minutes:.0f} minutes in {options.processes} processes", cores)
    print(f"\n{text}")
    if options.out:
        options.out.write_text(text, encoding="utf-8")


def missed(name: str, lines: tuple[Line, ...]) -> bool:
    """Whether a row misses a target in any table of its question."""
    return any(misses(table, [line]) for table, line in zip(QUESTIONS[name].tables, lines, strict=True))


def report(
    lines: Mapping[str, Sequence[tuple[Line, ...]]], command: str, runs: str, took: str, core_minutes: float
) -> str:
    tables = [
        (table, by_table(QUESTIONS[name], measured)[table.title])
        for name, measured in lines.items()
        for table in QUESTIONS[name].tables
    ]
    counts = []
    for table, rows in tables:
        found = len(misses(table, rows))
        counts.append(f"- [{table.title}](#{_anchor(table.title)}) {found or 'no'} {'miss' if found < 2 else 'misses'}")
    return "\n".join(
        [
            "# What the simulation found",
            "",
            f"`{command}`, {runs}, seed {SEED}, {datetime.now(UTC):%Y-%m-%d}, {took}",
            f"({core_minutes:.0f} minutes of one core), numpy {version('numpy')}, scipy {version('scipy')}.",
            "[README.md](README.md) explains the cells and columns.",
            "",
            *counts,
            "",
            "✗ marks a miss: a figure outside of its target by more than two standard errors of the simulation. Among cells",
            "whose truth lies exactly on the limit, one in 44 is marked by chance.",
            "",
            *(markdown(table, rows) for table, rows in tables),
        ]
    )


def _anchor(title: str) -> str:
    """A heading's address, as GitHub makes it."""
    return "".join(c for c in title.lower().replace(" ", "-") if c.isalnum() or c == "-")


if __name__ == "__main__":
    main()
