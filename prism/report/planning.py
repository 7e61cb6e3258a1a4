"""Text of `prism power`: what an accepted run's rows, groups and seeds show, and what a wanted loss or gain takes."""

from __future__ import annotations

import math
import textwrap
from collections.abc import Sequence
from dataclasses import dataclass

from prism.errors import ScoresError
from prism.metrics import Metric
from prism.report import words
from prism.report.tables import Table
from prism.report.terminal import WIDTH, drawn
from prism.report.words import number
from prism.verdicts import power
from prism.verdicts.power import Plan, Variances
from prism.verdicts.scores import Scores


@dataclass(frozen=True)
class Asked:
    """The options of `prism power`: a wanted loss or gain, and other rows, groups and seeds than there are."""

    drop: float | None = None
    gain: float | None = None
    rows: int | None = None
    groups: int | None = None
    seeds: int = 1


def power_table(
    scores: Scores,
    metrics: Sequence[Metric],
    limits: dict[str, float],
    thresholds: int,
    asked: Asked,
    columns: int = WIDTH,
) -> str:
    """One line a metric of `limits`, its `drop`; `thresholds` share the false alarms. Raises ScoresError."""
    alpha = 0.05 / thresholds
    rows, notes = [], list[str]()
    for metric in metrics:
        if metric.name not in limits:
            continue
        measure, limit = scores.measures[metric.name], limits[metric.name]
        if measure.version != metric.version:
            notes.append(
                f"{metric.name}: accepted by version {measure.version}, now {metric.version}; accept a new run"
            )
            continue
        try:
            known = power.variances(metric, measure, scores.groups)
        except ScoresError as error:
            notes.append(str(error))
            continue
        plan = power.planned(known.plan, asked.rows, asked.groups, asked.seeds)
        cells, about = _line(known, plan, limit, alpha, asked)
        rows.append([words.metric_name(metric), *cells])
        notes += [f"{metric.name}: {note}" for note in about]
    kind = "gain over the baseline" if asked.gain is not None else "loss against the accepted run"
    drop = [] if asked.gain is not None else ["drop"]
    headers = ["metric", "rows", "groups", *drop, "shown from", "to show", "takes rows", "or groups", "or seeds"]
    seeds = words.count(len(scores.seeds), "accepted seed")
    level = "" if asked.gain is not None else f", α = .05/{thresholds}"
    title = f"{scores.name}: the smallest {kind} that 80 % of runs show ({seeds}, {asked.seeds} of a run{level})"
    return "\n".join(
        [
            textwrap.fill(title, columns),
            "",
            *drawn(Table(headers, rows), columns),
            *(["", *notes] if notes else []),
            "",
            *_how(asked),
        ]
    )


def _line(known: Variances, plan: Plan, limit: float, alpha: float, asked: Asked) -> tuple[list[str], list[str]]:
    """The cells of one metric, and what is to be said of them."""
    cells, notes = [f"{plan.rows:,}", f"{plan.groups:,.0f}"], list[str]()

    def smallest(other: Plan) -> float:
        if asked.gain is not None:
            return power.smallest_gain(known, other)
        return power.smallest_loss(known, other, limit, alpha)

    shown, why = smallest(plan), ""
    if asked.gain is not None:
        wanted, tolerated = asked.gain, 0.0
    else:
        wanted, tolerated = asked.drop or words.UNDERPOWERED * limit, limit
        cells.append(number(limit) if limit else words.NOTHING)
        why = power.never(known, plan, limit, alpha)
    if why or math.isinf(shown):
        largest = f"even the largest {'gain' if asked.gain else 'loss'} would be shown in under 80 % of runs"
        notes.append(why or largest)
    if math.isnan(shown):
        notes.append("no sample differs from another, so that no variance is known")
    if wanted > tolerated:
        takes = power.takes(plan, wanted, smallest)
        counts = [f"{count:,}" if count else words.NOTHING for count in (takes.rows, takes.groups, takes.seeds)]
        return [*cells, number(shown), number(wanted), *counts], notes
    if wanted:
        notes.append(f"a loss of {number(wanted)} is tolerated by drop = {number(limit)}; ask for more")
    return [*cells, number(shown), number(wanted or None), "", "", ""], notes


def _how(asked: Asked) -> list[str]:
    rows = "takes rows: in groups of the same size; or groups: of these rows"
    seeds = "or seeds: of a run, and of the accepted run if it has fewer"
    lines = [f"{rows}; {seeds}; {words.NOTHING}: that alone is not enough"]
    if asked.gain is not None:
        lines.append("the baseline's answers count as independent of the tuned ones, so that it may take fewer")
    elif asked.drop is None:
        lines.append(f"to show: {words.UNDERPOWERED} times the drop, unless --drop says another loss")
    return lines
