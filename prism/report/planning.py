"""Text of `prism power`: what an accepted run's rows, groups and seeds show, and what a wanted loss or gain takes."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from prism.metrics import Metric
from prism.report import words
from prism.report.words import number
from prism.verdicts import power
from prism.verdicts.power import Plan, Takes, Variances
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
    scores: Scores, metrics: Sequence[Metric], limits: dict[str, float], thresholds: int, asked: Asked
) -> str:
    """One line a metric of `limits`, its `drop`; `thresholds` share the false alarms. Raises ScoresError."""
    from tabulate import tabulate

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
        known = power.variances(metric, measure, scores.groups)
        plan = power.planned(known.plan, asked.rows, asked.groups, asked.seeds)
        head = [words.metric_name(metric), f"{plan.rows:,}", f"{plan.groups:,.0f}"]
        if asked.gain is not None:
            smallest, wanted = power.smallest_gain(known, plan), asked.gain
            takes = power.takes(plan, wanted, lambda other, known=known: power.smallest_gain(known, other))
            why = ""
        else:
            smallest, wanted = power.smallest_loss(known, plan, limit, alpha), asked.drop or words.UNDERPOWERED * limit
            takes = _takes(known, plan, limit, alpha, wanted)
            head.append(number(limit) if limit else words.NOTHING)
            why = power.never(known, plan, limit, alpha)
        rows.append([*head, number(smallest), *(_of(takes, wanted) if takes else [number(wanted or None), "", "", ""])])
        if why or math.isinf(smallest):
            notes.append(
                f"{metric.name}: {why or 'even the largest loss or gain would be shown in under 80 % of runs'}"
            )
        if asked.gain is None and wanted and wanted <= limit:
            notes.append(
                f"{metric.name}: a loss of {number(wanted)} is tolerated by drop = {number(limit)}; ask for more"
            )
    kind = "gain over the baseline" if asked.gain is not None else "loss against the accepted run"
    drop = [] if asked.gain is not None else ["drop"]
    headers = ["metric", "rows", "groups", *drop, "shown from", "to show", "takes rows", "or groups", "or seeds"]
    seeds = words.count(len(scores.seeds), "accepted seed")
    level = "" if asked.gain is not None else f", α = .05/{thresholds}"
    title = f"{scores.name}: the smallest {kind} that 80 % of runs show ({seeds}, {asked.seeds} of a run{level})"
    table = tabulate(rows, headers, tablefmt="simple", disable_numparse=True)
    return "\n".join([title, "", table, *(["", *notes] if notes else []), "", *_how(asked)])


def _takes(known: Variances, plan: Plan, limit: float, alpha: float, wanted: float) -> Takes | None:
    if wanted <= limit:
        return None
    return power.takes(plan, wanted, lambda other: power.smallest_loss(known, other, limit, alpha))


def _of(takes: Takes, wanted: float) -> list[str]:
    counts = [takes.rows, takes.groups, takes.seeds]
    return [number(wanted), *(f"{count:,}" if count else words.NOTHING for count in counts)]


def _how(asked: Asked) -> list[str]:
    rows = "takes rows: in groups of the same size; or groups: of these rows"
    seeds = "or seeds: of a run, and of the accepted run if it has fewer"
    lines = [f"{rows}; {seeds}; {words.NOTHING}: that alone is not enough"]
    if asked.gain is not None:
        lines.append("the baseline's answers count as independent of the tuned ones, so that it may take fewer")
    elif asked.drop is None:
        lines.append(f"to show: {words.UNDERPOWERED} times the drop, unless --drop says another loss")
    return lines
