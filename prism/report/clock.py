"""Where the time of a run went: its stages, what it took to get there, and what was no work."""

from __future__ import annotations

from collections.abc import Sequence

from prism.report import words
from prism.report.tables import Table
from prism.verdicts.record import Result

REST = "what is not work: waiting for other tests, the store, what is not listed"


def table(results: Sequence[Result]) -> Table | None:
    """The parts of each spec's time in this run, and the rest; None of runs that older versions measured."""
    rows = []
    for result in results:
        parts = dict(result.cost.get("clock") or {})
        total = parts.pop("total", 0.0)
        if not total:
            continue
        parts[REST] = max(0.0, total - sum(parts.values()))
        rows += [[result.id, part, words.duration(spent), f"{spent / total:.1%}"] for part, spent in parts.items()]
        rows.append([result.id, "all", words.duration(total), ""])
    return Table(["spec", "part", "time", "share"], rows, numbers=2) if rows else None
