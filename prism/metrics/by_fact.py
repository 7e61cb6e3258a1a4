"""Metrics by a fact of the examples (organ, type of question, kind of chart), as tables for the reports."""

from __future__ import annotations

import math
from collections.abc import Sequence

from prism.metrics import Metric
from prism.rows import Example

Cell = str | int | float | None
UNSCORED = "unscored"  # in place of a table: no example has the fact


def by_fact(
    metrics: Sequence[Metric], facts: Sequence[str], examples: Sequence[Example], answers: Sequence[str]
) -> dict[str, list[dict[str, Cell]] | str]:
    """One table a fact: a row a value, with the number of samples and each metric's mean; "unscored" without the fact.

    A sample with two values ("POS, PRES") counts in both rows. A mean over no sample is None.
    """
    return {fact: _table(metrics, fact, examples, answers) for fact in facts}


def _table(
    metrics: Sequence[Metric], fact: str, examples: Sequence[Example], answers: Sequence[str]
) -> list[dict[str, Cell]] | str:
    values = [_values(example, fact) for example in examples]
    if not any(values):
        return UNSCORED
    table = []
    for value in (*sorted(set().union(*values)), "none", "all"):
        places = [i for i, own in enumerate(values) if value == "all" or value in (own or {"none"})]
        if places:
            part = means(metrics, [examples[i] for i in places], [answers[i] for i in places])
            table.append({fact: value, "n": len(places), **part})
    return table


def _values(example: Example, fact: str) -> set[str]:
    return set(filter(None, map(str.strip, str(example.facts.get(fact) or "").split(","))))


def means(metrics: Sequence[Metric], examples: Sequence[Example], answers: Sequence[str]) -> dict[str, Cell]:
    """Each metric's mean over the samples that it scores, by its name; None if it scores none."""
    found: dict[str, Cell] = {}
    for metric in metrics:
        scores = [float(row[0]) for row in metric.statistics(examples, answers) if not math.isnan(row[0])]
        found[metric.name] = sum(scores) / len(scores) if scores else None
    return found
