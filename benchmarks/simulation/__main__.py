"""Measure the coverage of PRISM's intervals, its false alarms and its power with simulated runs.

README.md in this folder describes what is simulated.
"""

from __future__ import annotations

import argparse
import multiprocessing
import os
import time
from collections.abc import Iterable
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path

from tabulate import tabulate

from benchmarks.simulation.measure import K_ACCEPTED, RUNS, SEED, Outcome, Share, measure, settings

COVERAGE, ALARMS, POWER = (93.0, 97.0), (0.0, 5.0), (80.0, 100.0)


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.simulation", description=__doc__)
    parser.add_argument("--scale", type=float, default=1.0, help="share of the simulated runs; below 1 only to try it")
    parser.add_argument("--processes", type=int, default=2)
    parser.add_argument("--out", type=Path, help="also write the table to this file")
    options = parser.parse_args()
    os.environ["OPENBLAS_NUM_THREADS"] = os.environ["OMP_NUM_THREADS"] = "1"  # spawned workers read them at start
    start = time.monotonic()
    grid = settings()
    longest_first = sorted(range(len(grid)), key=lambda i: -grid[i].n * grid[i].adapters)
    outcomes: dict[int, Outcome] = {}
    with multiprocessing.get_context("spawn").Pool(options.processes) as pool:
        pending = {i: pool.apply_async(measure, (grid[i], i, options.scale)) for i in longest_first}
        for i, result in pending.items():
            outcomes[i] = result.get()
            print(f"{time.monotonic() - start:5.0f} s  {len(outcomes)}/{len(grid)}  {grid[i]}", flush=True)
    minutes = (time.monotonic() - start) / 60
    text = report([outcomes[i] for i in range(len(grid))], options.scale, options.processes, minutes)
    print(f"\n{text}")
    if options.out:
        options.out.write_text(text, encoding="utf-8")


def report(outcomes: list[Outcome], scale: float, processes: int, minutes: float) -> str:
    command = "python -m benchmarks.simulation" + ("" if scale == 1 else f" --scale {scale:g}")
    coverages = counted("coverages", (share for one in outcomes for share in one.covered.values()), COVERAGE)
    alarms = counted("alarm rates", (share for one in outcomes for share in one.alarms.values()), ALARMS)
    powers = counted("powers", (share for one in outcomes for share in one.power.values()), POWER)
    cores = sum(one.seconds for one in outcomes) / 60
    return f"""# What the simulation found

`{command}`, seed {SEED}, {datetime.now(UTC):%Y-%m-%d}, {minutes:.0f} minutes in {processes} processes
({cores:.0f} minutes of one core), numpy {version("numpy")}, scipy {version("scipy")}.
[README.md](README.md) explains the columns.

{table(outcomes)}

✗ misses: coverage outside 93 to 97 %, alarms in over 5 % of runs, under 80 % of losses caught. ≈ is outside as well,
but by no more than two standard errors of the simulation: this many runs cannot tell it from the limit.

Of {coverages}. Of {alarms}. Of {powers}.
"""


def table(outcomes: list[Outcome]) -> str:
    rows = [
        [
            f"{one.setting.n:,}",
            one.setting.metric + one.setting.remark,
            f"{one.setting.groups:,}",
            f"{K_ACCEPTED} / {one.setting.seeds}" if one.setting.seeds else "–",
            cell(one.covered["score"], COVERAGE) if "score" in one.covered else "–",
            cell(one.covered["loss"], COVERAGE),
            " / ".join(cell(share, ALARMS) for share in one.alarms.values()),
            " / ".join(cell(share, ALARMS) for share in one.bootstrap.values()) or "–",
            " / ".join(f"{100 * loss:.1f}" for loss in one.stated.values()),
            " / ".join(cell(share, POWER) for share in one.power.values()),
        ]
        for one in outcomes
    ]
    each = " / ".join(map(str, RUNS))
    headers = ["n", "metric", "groups", "seeds", "score covered %", "loss covered %"]
    headers += [f"{what} at m = {each}" for what in ("alarms %", "by bootstrap %", "loss stated, points,", "caught %")]
    return tabulate(rows, headers, tablefmt="github", disable_numparse=True, colalign=["right", "left"] + ["right"] * 8)


def cell(share: Share, limits: tuple[float, float]) -> str:
    return f"{share.percent:.1f}{share.beyond(*limits)}"


def counted(name: str, shares: Iterable[Share], limits: tuple[float, float]) -> str:
    marks = [share.beyond(*limits) for share in shares]
    return f"{len(marks)} {name}, {marks.count('✗')} miss and {marks.count('≈')} cannot be told from the limit"


if __name__ == "__main__":
    main()
