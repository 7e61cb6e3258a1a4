"""The tables of RESULTS.md: what a question measures, row by row, and which figures miss their target."""

from __future__ import annotations

import zlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy
from tabulate import tabulate

from benchmarks.simulation.measure import Figure

SEED = 20261126
Entry = str | Figure | tuple[Figure | str, ...]  # a table's cell; several are shown as "4.9 / 4.6 / 4.0"


@dataclass(frozen=True)
class Table:
    title: str
    text: str  # what the columns are, and their targets
    labels: tuple[str, ...]  # headers of the columns that name a row
    columns: tuple[str, ...]


@dataclass(frozen=True)
class Line:
    """One row of one table."""

    labels: tuple[str, ...]
    entries: tuple[Entry, ...]


@dataclass(frozen=True)
class Question:
    """Some tables of the same simulated runs. `measure` makes a row's line of each, from its own random stream."""

    tables: tuple[Table, ...]
    rows: Sequence[Any]
    measure: Callable[[Any, numpy.random.Generator, int], tuple[Line, ...]]

    def line(self, row: Any, runs: int) -> tuple[Line, ...]:
        """The stream depends on what the row is alone, not on its place, the process or the other rows."""
        name = f"{self.tables[0].title} {row}"
        return self.measure(row, numpy.random.default_rng([SEED, zlib.crc32(name.encode())]), runs)


def text(entry: Entry) -> str:
    return " / ".join(map(str, entry)) if isinstance(entry, tuple) else str(entry)


def figures(entry: Entry) -> list[Figure]:
    return [part for part in (entry if isinstance(entry, tuple) else (entry,)) if isinstance(part, Figure)]


def markdown(table: Table, lines: Sequence[Line]) -> str:
    """The table, its text above it and its misses in words below it."""
    rows = [[*line.labels, *map(text, line.entries)] for line in lines]
    align = ["left"] * len(table.labels) + ["right"] * len(table.columns)
    shown = tabulate(rows, [*table.labels, *table.columns], tablefmt="github", disable_numparse=True, colalign=align)
    found = misses(table, lines)
    counted = sum(
        f.target is not None and f.cases > 0 for line in lines for entry in line.entries for f in figures(entry)
    )
    summary = (
        f"Of {counted:,} figures with a target, {len(found) or 'none'} {'misses' if len(found) == 1 else 'miss'} it"
    )
    listed = "".join(f"\n- {miss}" for miss in found)
    return f"## {table.title}\n\n{table.text}\n\n{shown}\n\n{summary}{':' if found else '.'}\n{listed}".rstrip() + "\n"


def misses(table: Table, lines: Sequence[Line]) -> list[str]:
    """Every figure that misses its target, in words."""
    return [
        ", ".join(f"{head} {label}" for head, label in zip(table.labels, line.labels) if label != "–")
        + f"; {column.split(', m =')[0]}{f' at {figure.of}' if figure.of else ''}: {figure.percent:.1f} ± {figure.error:.1f}, "
        + f"wanted {_wanted(figure.target)}"
        for line in lines
        for column, entry in zip(table.columns, line.entries)
        for figure in figures(entry)
        if figure.misses and figure.target
    ]


def _wanted(target: tuple[float, float]) -> str:
    low, high = target
    if low <= 0:
        return f"at most {high:g}" if high > 0 else "0"
    return f"at least {low:g}" if high >= 100 else f"{low:g} to {high:g}"


def by_table(question: Question, measured: Sequence[tuple[Line, ...]]) -> Mapping[str, list[Line]]:
    """The lines of each table by its title."""
    return {table.title: [lines[i] for lines in measured] for i, table in enumerate(question.tables)}
