"""The summary at the end of a pytest run: one row per threshold, then the reasons of those that do not hold."""

from __future__ import annotations

import io
import re
import shutil
import textwrap
from collections.abc import Sequence
from pathlib import Path
from typing import Literal

from prism.report import callouts, findings, head, words
from prism.report.tables import Table
from prism.untrusted import terminal_safe, visible
from prism.verdicts.record import Record, Result, Run, Verdict

WIDTH = 120  # columns where there is no terminal
NAME = 24  # columns that are left to a name before numbers are broken into lines
NARROWEST = 72  # columns that the numbers of a table need


def width() -> int:
    """The columns of the terminal, or $COLUMNS."""
    return max(NARROWEST, shutil.get_terminal_size((WIDTH, 24)).columns)


def lines(run: Run, columns: int = WIDTH) -> list[str]:
    """The summary as lines of at most so many columns, whatever others wrote in it."""
    shown = [f"{run.verdict.upper()}: {run.reason}"]
    if not run.complete:
        shown.append(f"PARTIAL: {run.partial}")
    shown += [f"⚠ {line}" for line in callouts.of_run(run)]
    shown += [f"{result.id}: {recipe}" for result in run.results if (recipe := head.recipe(result))]
    after = []
    for result in run.results:
        if (met := callouts.contenders(result)) and met[0]:
            after.append(f"⚠ {result.id}: {met[1]}")
        if sentence := findings.against_accepted(result):
            after.append(f"{result.id}: {sentence}")
        for point in findings.open_points(result):
            after.append(f"{result.id} {point.about} {words.state_name(point.state)}: {point.text}")
    table = ["", *drawn(_table(run), columns), ""] if any(result.records for result in run.results) else []
    wrapped = [*_wrap(shown, columns), *table, *_wrap(after, columns)]
    return terminal_safe("\n".join(wrapped)).split("\n")


def drawn(shown: Table, columns: int, whole: int = 1) -> list[str]:
    """A table as lines of at most so many columns. The first `whole` ones and numbers are not folded, long names are."""
    rows = [[visible(cell, 1000).replace("\n", " ") for cell in row] for row in (shown.headers, *shown.rows)]
    folded = [[*(cell[:NAME] for cell in row[: shown.numbers]), *row[shown.numbers :]] for row in rows]
    if max(map(len, _drawn(folded, shown.numbers, 10_000, 2, whole))) <= columns:
        return _drawn(rows, shown.numbers, columns, 2, whole)
    narrow = [[*row[: shown.numbers], *(_in_lines(cell) for cell in row[shown.numbers :])] for row in rows]
    for number in range(shown.numbers, len(shown.headers)):
        widest = max((len(line) for row in narrow[1:] for line in row[number].split("\n")), default=1)
        narrow[0][number] = textwrap.fill(rows[0][number], max(widest, 6), break_long_words=False)
    return _drawn(narrow, shown.numbers, columns, 1, whole)


def _in_lines(cell: str) -> str:
    """A number in lines: whose it is, the number, its interval."""
    return re.sub(r"^(\D{7,}[^\W\d]) (?=[−+.\d–])| (?=\[)|(?<=\],) ", r"\1\n", cell)


def _drawn(rows: Sequence[Sequence[str]], numbers: int, columns: int, gap: int, whole: int) -> list[str]:
    from rich import box
    from rich.console import Console
    from rich.table import Table as Drawing
    from rich.text import Text

    table = Drawing(box=box.SIMPLE_HEAD, pad_edge=False, show_edge=False, padding=(0, gap - 1, 0, 0))
    for number, name in enumerate(rows[0]):
        justify: Literal["left", "right"] = "right" if number >= numbers else "left"
        table.add_column(Text(name), justify=justify, no_wrap=number < whole or number >= numbers, overflow="fold")
    for row in rows[1:]:
        table.add_row(*map(Text, row))
    text = io.StringIO()
    Console(file=text, width=columns, color_system=None, highlight=False).print(table)
    return [line.rstrip() for line in text.getvalue().splitlines()]


def explain(result: Result, record: Record, verdict: Verdict, worst: str, report: Path) -> str:
    """Why a threshold's test fails: verdict, scores, one of the worst samples, the path of the report."""
    about = f"{record.metric} {words.threshold(verdict)}"
    accepted = record.reference if verdict.key == "drop" else None
    before, after = words.since_accepted(record, accepted) if accepted else (None, None)
    lines = (
        f"{result.id} {about} {words.state_name(verdict.state)}: {verdict.reason}",
        f"accepted {words.number(before)} ({accepted['file']}, "
        f"{words.count(len(accepted['seeds']), 'seed')}) → tuned {words.number(after)} "
        f"({len(record.seeds)}); {accepted['worse']} samples worse, {accepted['better']} better"
        if accepted
        else "",
        f"baseline {words.before_and_after(record)}, n = {record.n:,}, gain {words.gain(record)}",
        worst,
        f"report: {report}",
    )
    return terminal_safe("\n".join(filter(None, lines)))


def _table(run: Run) -> Table:
    """A line a threshold, or a metric without one, under the name of its spec; a metric's scores stand there once."""
    rows = []
    for result in run.results:
        rows.append(["" if result.verdicts() else "measured", result.id, *[""] * 3])
        for record in findings.gated_first(result.records):
            cells = [words.before_and_after(record), words.gain(record)]
            if not record.verdicts:
                rows.append(["", words.metric_name(record), "", *cells])
            before: list[str] = []
            for verdict in record.verdicts:
                state = f"{words.MARKS[verdict.state]} {words.state_name(verdict.state)}"
                scores = _scores(record, cells, verdict)
                shown = [""] * len(cells) if scores == before else scores
                rows.append([state, words.metric_name(record), words.threshold(verdict), *shown])
                before = scores
    return Table(["verdict", "metric", "threshold", "baseline → tuned", "gain [95 %]"], rows, numbers=3)


def _scores(record: Record, cells: list[str], verdict: Verdict) -> list[str]:
    """Scores and gain; for a drop, the accepted and tuned values and the loss."""
    accepted = record.reference
    if verdict.key != "drop" or accepted is None:
        return cells
    values = " → ".join(map(words.number, words.since_accepted(record, accepted)))
    return [f"accepted {values}", f"loss {words.loss(accepted)}, of {words.SPEAKS_OF[accepted['question']]}"]


def _wrap(texts: Sequence[str], columns: int) -> list[str]:
    return [
        line
        for text in texts
        for line in textwrap.wrap(visible(text, 1000).replace("\n", " "), columns, subsequent_indent="  ")
    ]
