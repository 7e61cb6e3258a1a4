"""The summary at the end of a pytest run: one row per threshold, then the reasons of those that do not hold."""

from __future__ import annotations

import textwrap
from pathlib import Path

from prism.report import callouts, findings, words
from prism.untrusted import terminal_safe, visible
from prism.verdicts.record import Record, Result, Run, Verdict

WIDTH = 120
NAMES = 2  # the first columns, spec and metric, may be cut


def lines(run: Run) -> list[str]:
    """The summary as lines of at most 120 columns, whatever others wrote in it."""
    shown = _wrap(f"{run.verdict.upper()}: {run.reason}")
    if not run.complete:
        shown += _wrap(f"PARTIAL: {run.partial}")
    for line in callouts.of_run(run):
        shown += _wrap(f"⚠ {line}")
    rows = _rows(run)
    if rows:
        shown += ["", *_table(rows), ""]
    for result in run.results:
        if (met := callouts.contenders(result)) and met[0]:
            shown += _wrap(f"⚠ {result.id}: {met[1]}")
        if sentence := findings.against_accepted(result):
            shown += _wrap(f"{result.id}: {sentence}")
        for point in findings.open_points(result):
            shown += _wrap(f"{result.id} {point.about} {words.state_name(point.state)}: {point.text}")
    return terminal_safe("\n".join(shown)).split("\n")


def explain(result: Result, record: Record, verdict: Verdict, worst: str, report: Path) -> str:
    """Why a threshold's test fails: verdict, scores, one of the worst samples, the path of the report."""
    about = f"{record.metric} {words.threshold(verdict)}"
    accepted = record.reference if verdict.key == "drop" else None
    lines = (
        f"{result.id} {about} {words.state_name(verdict.state)}: {verdict.reason}",
        f"accepted {words.number(accepted['value'])} ({accepted['file']}, "
        f"{words.count(len(accepted['seeds']), 'seed')}) → tuned {words.number(record.tuned.value)} "
        f"({len(record.seeds)}); {accepted['worse']} samples worse, {accepted['better']} better"
        if accepted
        else "",
        f"baseline {words.before_and_after(record)}, n = {record.n:,}, gain {words.gain(record)}",
        worst,
        f"report: {report}",
    )
    return terminal_safe("\n".join(filter(None, lines)))


def _rows(run: Run) -> list[list[str]]:
    rows = []
    for result in run.results:
        for record in result.records:
            cells = [result.id, words.metric_name(record), words.before_and_after(record), words.gain(record)]
            rows += [
                [
                    *cells[:2],
                    *_scores(record, cells[2:], verdict),
                    words.threshold(verdict),
                    f"{words.MARKS[verdict.state]} {words.state_name(verdict.state)}",
                ]
                for verdict in record.verdicts
            ] or [[*cells, "", ""]]
    return [[visible(cell, WIDTH).replace("\n", " ") for cell in row] for row in rows]


def _scores(record: Record, cells: list[str], verdict: Verdict) -> list[str]:
    """Scores and gain; for a drop, the accepted and tuned values and the loss."""
    accepted = record.reference
    if verdict.key != "drop" or accepted is None:
        return cells
    before_and_after = f"accepted {words.number(accepted['value'])} → {words.number(record.tuned.value)}"
    return [before_and_after, f"loss {words.loss(accepted)}, of {words.SPEAKS_OF[accepted['question']]}"]


def _table(rows: list[list[str]]) -> list[str]:
    """The table, with the longest names cut until it fits."""
    from tabulate import tabulate

    headers = ["spec", "metric", "baseline → tuned", "gain [95 %]", "threshold", "verdict"]
    while True:
        table = tabulate(rows, headers, tablefmt="simple", disable_numparse=True).splitlines()
        over = max(map(len, table)) - WIDTH
        longest = max((len(cell), -column) for row in rows for column, cell in enumerate(row[:NAMES]))
        if over <= 0 or longest[0] <= 8:
            return [line[:WIDTH].rstrip() for line in table]
        limit = max(8, longest[0] - over)
        rows = [[visible(cell, limit) if i == -longest[1] else cell for i, cell in enumerate(row)] for row in rows]


def _wrap(text: str) -> list[str]:
    shown = visible(text, 1000).replace("\n", " ")
    return textwrap.wrap(shown, WIDTH, subsequent_indent="  ")
