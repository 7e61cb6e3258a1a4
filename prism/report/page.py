"""report.html: one self-contained file, for people who do not use a terminal. Its layout is report.html.j2."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from prism.report import callouts, clock, findings, head, plots, tables, vision, words
from prism.report.samples import Change, Sample
from prism.report.templates import template
from prism.store import Store
from prism.untrusted import visible
from prism.verdicts.record import Result, Run

SHOWN = 20  # samples that became better, and as many that became worse
STUCK = 10  # samples that stayed wrong
GAINS = "Dot and line: value and 95 % interval; hollow if it includes 0 or is unknown; bar: the required gain."
CONFUSIONS = {  # of the first seed, which the samples show as well
    "baseline": "Before: baseline answers",
    "tuned": "After: tuned answers",
    "label_likelihood": "Before: baseline by label likelihood",
}
QUESTION, ANSWER = 800, 300  # characters; samples/*.jsonl has the whole texts


def render(run: Run, changes: Mapping[str, Sequence[Change]], store: Store | None = None) -> str:
    """The whole page; `store` caches its figures."""
    return template("report.html.j2").render(
        run=run,
        words=words,
        provenance=tables.provenance(run),
        counts=findings.counts(run),
        callouts=callouts.of_run(run),
        when=head.when(run),
        specs=[
            _spec(result, changes.get(result.id, ()), store) | {"callouts": callouts.of_spec(result, run)}
            for result in run.results
        ],
        cost=tables.cost(run.results),
        clock=clock.table(run.results),
        stored=any(result.cost.get("cached") for result in run.results),
    )


def _spec(result: Result, changes: Sequence[Change], store: Store | None) -> dict[str, Any]:
    """What the template shows of one spec; the section of an empty value is left out."""
    answers = tables.labelled(result)
    return {
        "result": result,
        "anchor": f"{result.phase}-{result.spec}",
        "states": [verdict.state for record in result.records for verdict in record.verdicts],
        "head": next((record for record in findings.gated_first(result.records) if record.n), None),
        "recipe": head.recipe(result),
        "since": head.since(result),
        "only_measured": findings.only_measured(result),
        "sizes": findings.sizes(result),
        "beaten": findings.beaten(result),
        "contenders": callouts.contenders(result),
        "contenders_table": callouts.contenders_table(result),
        "notes": findings.notes(result),
        "open": findings.open_points(result),
        "provisional": findings.provisional(result),
        "metrics": _metrics(tables.metrics([result])) if result.records else None,
        "controls": tables.controls(result),
        "figures": [
            (title, caption, plots.picture(plot, store)) for title, caption, plot in _figures(result, answers) if plot
        ],
        "per_class": tables.per_class(answers),
        "by_type": tables.by_type(result),
        "failures": tables.failures(result),
        "failing": _failing(result, store),
        "missed": tables.missed(result),
        "seeds": tables.seeds(result),
        "parity": tables.parity(result),
        "leaks": [
            (caption, table)
            for caption, table in (
                ("With and without leaked samples", tables.leaks(result)),
                ("The closest pairs, by id", tables.twins(result)),
            )
            if table
        ],
        "flips": tables.flips(changes) if changes else None,
        "lists": _lists(changes[0], store) if changes else [],
        "accepted": _against_accepted(result, store),
        "by_kind": vision.by_kind(result),
        "published": vision.published(result),
        "study": _study(result, store),
        "facts": tables.facts(result),
        "options": tables.options(result),
    }


def _metrics(shown: tables.Table) -> dict[str, Any]:
    """The table of scores with one row per metric; one cell has all its thresholds and verdicts."""
    rows: list[dict[str, Any]] = []
    for state, metric, threshold, *cells in shown.rows:
        if metric:
            rows.append({"metric": metric, "cells": cells, "verdicts": []})
        if state:
            rows[-1]["verdicts"].append((threshold, state))
    return {"headers": shown.headers[shown.numbers :], "rows": rows}


def _against_accepted(result: Result, store: Store | None) -> dict[str, Any] | None:
    """The comparison with the accepted run; None if there is none."""
    shown = tables.against_accepted(result)
    if shown is None:
        return None
    return {
        "sentence": findings.against_accepted(result),
        "table": shown,
        "differences": tables.differences(result),
        "flipped": [(way, [_sample(sample, store) for sample in samples]) for way, samples in tables.flipped(result)],
    }


def _figures(result: Result, answers: Mapping[str, Any]) -> list[tuple[str, str, plots.Plot | None]]:
    """Title, caption and plot; None if there is nothing to plot."""
    return [
        ("Gain over the baseline", GAINS, plots.gains(result)),
        ("Tuned model and controls", "Value and 95 % interval; dashed: the floor or ceiling.", plots.controls(result)),
        *(
            (title, "Counts, and shares of each true class.", plots.confusion(result, name, answers[name]))
            for name, title in CONFUSIONS.items()
            if name in answers
        ),
        ("Calibration of label probabilities", findings.calibration(result), plots.calibration(result)),
        ("Training loss", "", plots.loss(result)),
    ]


def _study(result: Result, store: Store | None) -> dict[str, Any] | None:
    """The architecture study of a vision-language spec; None if there is none."""
    if "study" not in result.details:
        return None
    shown = {
        "Parts of the model": vision.parts(result),
        "Visual tokens": vision.tokens(result),
        "Where LoRA is placed": vision.placements(result),
        "Attention by layer": vision.attention(result),
    }
    return {
        "tables": [(caption, table) for caption, table in shown.items() if table],
        "blank": vision.blank(result),
        "overlays": vision.overlays(result, store),
    }


def _lists(change: Change, store: Store | None) -> list[dict[str, Any]]:
    """The samples shown in full: those that tuning broke, those that it fixed, then those that stayed wrong."""
    better, worse = change.names
    stuck = "still wrong" if change.right_or_wrong else "unchanged, lowest score first"
    lists = ((worse, change.worse, SHOWN), (better, change.better, SHOWN), (stuck, change.stuck, STUCK))
    return [
        {
            "name": name,
            "metric": change.metric,
            "total": len(samples),
            "samples": [_sample(sample, store) for sample in samples[:limit]],
            "notes": [visible(findings.missing(sample), QUESTION) for sample in samples[:limit]],
        }
        for name, samples, limit in lists
        if samples
    ]


def _failing(result: Result, store: Store | None) -> list[dict[str, Any]]:
    """The worst answers of each failure pattern."""
    patterns = (result.details.get("failures") or {}).get("patterns", [])
    return [
        {
            "name": row["pattern"].replace("_", " "),
            "total": row["main"],
            "samples": [_sample({**sample, "scores": {"rougeL": sample["rougeL"]}}, store) for sample in row["worst"]],
            "notes": [_why(sample) for sample in row["worst"]],
        }
        for row in patterns
        if row["worst"]
    ]


def _why(sample: Sample) -> str:
    """What a failing answer lacks, invents or confuses."""
    extras = {"names": sample["invented"], "also": sample["also"]}
    parts = [*filter(None, [findings.missing(sample)])]
    parts += [f"{name}: {', '.join(values)}" for name, values in extras.items() if values]
    if sample["confused_with"]:
        parts.append(f"closer to the answer of: {sample['confused_with']}")
    return visible(" · ".join(parts), QUESTION)


def _sample(sample: Sample, store: Store | None) -> dict[str, Any]:
    scores = {
        name: " → ".join(words.number(value) for value in pair)
        for name, pair in sample.get("scores", {}).items()
        if pair and any(value not in (0, 1, None) for value in pair)
    }
    return {
        "id": visible(sample.get("id"), 80),
        "question": visible(sample.get("question"), QUESTION),
        "answers": [
            (key, visible(sample.get(key), ANSWER)) for key in ("reference", "baseline", "tuned") if key in sample
        ],
        "scores": scores,
        "pictures": vision.pictures(sample.get("images") or (), store),
    }
