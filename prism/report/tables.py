"""The tables of both Markdown and HTML, as plain text: each format escapes and formats the cells itself."""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from prism.report import findings, words
from prism.report.samples import Change
from prism.verdicts.record import Record, Result, Run


@dataclass(frozen=True)
class Table:
    """`rows` are as long as `headers`; columns from index `numbers` are numeric. A column "verdict" has states."""

    headers: Sequence[str]
    rows: Sequence[Sequence[str]]
    numbers: int = 1


def metrics(results: Sequence[Result]) -> Table:
    """One row per threshold, or per metric without one; only the first row of a metric has its own cells.

    Metrics with a threshold come first.
    """
    headers = ["metric", "threshold", "baseline → tuned", "gain [95 %]"]
    rows = []
    for result in results:
        whole = max((record.n + record.unscored for record in result.records), default=0)
        for record in findings.gated_first(result.records):
            some = f" (n = {record.n:,})" if record.tier != "cost" and 0 < record.n < whole else ""
            scores = [words.before_and_after(record), words.gain(record)]
            names, values = [result.spec, words.metric_name(record) + some], scores
            for verdict in record.verdicts or (None,):
                state, threshold = (verdict.state, words.threshold(verdict)) if verdict else ("", "")
                rows.append([state, *names, threshold, *values])
                names, values = ["", ""], ["", ""]
    if len(results) > 1:
        return Table(["verdict", "spec", *headers], rows, numbers=4)
    return Table(["verdict", *headers], [[row[0], *row[2:]] for row in rows], numbers=3)


def controls(result: Result) -> Table | None:
    """The value of each control by each metric, and how far the tuned model is ahead of it."""
    names = list(dict.fromkeys(name for record in result.records for name in record.controls))
    if not names:
        return None
    rows = [
        [words.metric_name(record), words.number(record.tuned.value), *(_control(record, name) for name in names)]
        for record in findings.gated_first(result.records)
        if record.controls
    ]
    return Table(["metric", "tuned", *(f"{words.control_name(name)} (tuned ahead by)" for name in names)], rows)


def _control(record: Record, name: str) -> str:
    control = record.controls.get(name)
    if control is None:
        return ""
    return f"{words.number(control.value)} ({words.difference(words.in_favour(control.ahead, record))})"


def flips(changes: Sequence[Change]) -> Table:
    """How many samples became better and worse, by each metric."""
    binary = all(change.right_or_wrong for change in changes)
    better, worse = ("wrong → right", "right → wrong") if binary else ("better", "worse")
    rows = [
        [change.metric, *(f"{n:,}" for n in (len(change.better), len(change.worse), change.unchanged, change.unscored))]
        for change in changes
    ]
    return Table(["metric", better, worse, "unchanged", "unscored"], rows)


def against_accepted(result: Result) -> Table | None:
    """Each metric compared with the accepted run: its loss, the p of none, the smallest loss that would be caught, and
    whether it speaks of this adapter or of the recipe."""
    rows = []
    level = ""
    for record in result.records:
        if (accepted := record.reference) is None or record.against != "baseline":  # repeats another metric's loss
            continue
        loss, worse, better = (accepted[key] for key in ("loss", "worse", "better"))
        level = f"{100 * loss['level']:.3g} %"
        rows.append(
            [
                words.metric_name(record),
                words.number(record.baseline.value),
                words.number(accepted["value"]),
                words.number(record.tuned.value),
                words.loss(accepted),
                words.number(loss["p"]),
                _detectable(record),
                f"{worse:,} / {better:,}" if worse + better else words.NOTHING,
                words.SPEAKS_OF[accepted["question"]],
            ]
        )
    headers = [
        "metric",
        "baseline",
        "accepted",
        "tuned",
        f"loss [{level}]",
        "p of no loss",
        "caught from",
        "samples worse / better",
        "speaks of",
    ]
    return Table(headers, rows) if rows else None


def _detectable(record: Record) -> str:
    """The smallest loss caught with 80 % power, and whether n is too small for the threshold, or for any loss."""
    compared = ("holds", "fails", "inconclusive")
    drop = next((verdict for verdict in record.verdicts if verdict.key == "drop" and verdict.state in compared), None)
    loss = words.caught(drop.detectable if drop else (record.reference or {})["detectable"])
    return f"{loss} (n too small for {words.threshold(drop)})" if drop and words.underpowered(drop) else loss


def differences(result: Result) -> Table | None:
    """How the training side differs from that of the accepted run."""
    found = (result.details.get("reference") or {}).get("differences")
    if not found:
        return None
    rows = [[key, accepted or words.NOTHING, here or words.NOTHING] for key, accepted, here in found]
    return Table(["training side", "accepted", "this run"], rows, numbers=3)


def flipped(result: Result) -> list[tuple[str, list[dict[str, Any]]]]:
    """Samples that are right in the accepted run and wrong in this one, and vice versa, each list with its title."""
    found = (result.details.get("reference") or {}).get("flipped")
    if not found:
        return []
    names = ("right → wrong", "wrong → right") if found["right_or_wrong"] else ("worse", "better")
    return [
        (
            f"Since the accepted run {name} by {found['metric']}: {len(found[way])} of {found['counts'][way]:,}",
            found[way],
        )
        for name, way in zip(names, ("worse", "better"))
        if found[way]
    ]


def labelled(result: Result) -> dict[str, Any]:
    """The sets of answers with a confusion matrix: those of a task with a closed set of labels."""
    answers = result.details.get("answers") or {}
    return {name: part for name, part in answers.items() if "confusion" in part}


def failures(result: Result) -> Table | None:
    """How often answers fail by each pattern, before and after."""
    found = result.details.get("failures")
    if not found:
        return None
    rows = [
        [row["pattern"].replace("_", " "), row["meaning"], str(row["baseline"]), str(row["tuned"])]
        for row in found["patterns"]
    ]
    return Table(["pattern", "what it means", "baseline", "tuned"], rows, numbers=2)


def missed(result: Result) -> Table | None:
    """The domain terms that tuned answers most often lack although the reference names them."""
    found = (result.details.get("answers") or {}).get("tuned", {}).get("most_missed")
    if not found:
        return None
    return Table(
        ["term", "asked for", "missing"], [[row["term"], str(row["asked"]), str(row["missed"])] for row in found]
    )


def by_type(result: Result) -> Table | None:
    """Exact match by type of answer for baseline, tuned model and controls; the last row is how often each abstains."""
    found = {name: part["by_type"] for name, part in (result.details.get("answers") or {}).items() if "by_type" in part}
    if not found:
        return None
    tuned = found["tuned"]
    rows = []
    for i, row in enumerate(tuned):
        exact = [words.number(part[i]["exact_match"]) for part in found.values()]
        unscaled = " → ".join(words.number(found[name][i]["without_scale"]) for name in ("baseline", "tuned"))
        rows.append([row["type"], str(row["n"]), *exact, unscaled, words.number(row["f1"])])
    abstains = [words.number(part[-1]["abstains"]) for part in found.values()]
    rows.append(["says “not stated”", rows[-1][1], *abstains, "", ""])
    return Table(["answer type", "n", *map(words.control_name, found), "whatever the scale", "F1, tuned"], rows)


def confusion(answers: dict[str, Any]) -> Table | None:
    """Counts before → after, one row per true label."""
    shown = [answers[name] for name in ("baseline", "tuned") if name in answers]
    if not shown or any(part["labels"] != shown[0]["labels"] for part in shown):
        return None
    labels = shown[0]["labels"]
    rows = [
        [truth, *(" → ".join(f"{part['confusion'][i][j]:,}" for part in shown) for j in range(len(labels)))]
        for i, truth in enumerate(labels[: len(shown[0]["confusion"])])
    ]
    return Table(["truth ╲ answered", *labels], rows)


def per_class(answers: dict[str, Any]) -> Table | None:
    """Precision, recall and F1 of each label, before → after."""
    shown = [answers[name] for name in ("baseline", "tuned") if name in answers]
    if not shown:
        return None
    last = shown[-1]
    labels = [*last["labels"][: len(last["confusion"])], "macro avg", "weighted avg"]
    rows = []
    for label in labels:
        if label in last["per_class"]:
            found = [part["per_class"].get(label, {}) for part in shown]
            scores = [" → ".join(words.number(part.get(key)) for part in found) for key in SCORES]
            rows.append([label, *scores, f"{found[-1]['support']:,.0f}"])
    return Table(["class", "precision", "recall", "F1", "samples"], rows)


SCORES = ("precision", "recall", "f1-score")


def seeds(result: Result) -> Table | None:
    """Each metric's value by seed, with mean and standard deviation; None if there is one seed."""
    records = [record for record in result.records if len(record.seeds) > 1]
    if not records:
        return None
    names = list(dict.fromkeys(seed for record in records for seed in record.seeds))
    rows = []
    for record in records:
        values = list(record.seeds.values())
        deviation = statistics.stdev(values) if all(map(math.isfinite, values)) else None  # stdev raises on NaN
        each = [words.number(record.seeds.get(seed)) for seed in names]
        rows.append([record.metric, words.number(record.tuned.value), words.number(deviation), *each])
    return Table(["metric", "mean", "sd", *(f"seed {seed}" for seed in names)], rows)


# Columns by their key in `Result.cost`, each shown if any stage has a value: of runs with images, of runs on a GPU, of
# stages that several machines made.
WHERE_KNOWN = {
    "images/s": "images_per_second",
    "energy, Wh": "energy_wh",
    "utilization": "utilization",
    "path": "engine",
    "system turn": "system",
    "machine": "machine",
}


def cost(results: Sequence[Result]) -> Table | None:
    """One row per stage; peak memory is that of the whole spec."""
    columns = {head: key for head, key in WHERE_KNOWN.items() if _known(results, key)}
    rows = []
    for result in results:
        seconds, speeds = result.cost.get("seconds", {}), result.cost.get("tokens_per_second", {})
        for stage in dict.fromkeys([*seconds, *speeds]):
            cached = " *" if stage in result.cost.get("cached", ()) else ""
            taken = [words.duration(seconds.get(stage)) + cached, words.number(speeds.get(stage))]
            memory = words.number(result.cost.get("peak_memory_gib"))
            values = [result.cost.get(key, {}).get(stage) for key in columns.values()]
            cells = [value if isinstance(value, str) else words.number(value) for value in values]
            rows.append([result.id, stage, *taken, memory, *cells])
    headers = ["spec", "stage", "time", "tokens/s", "peak memory, GiB", *columns]
    return Table(headers, rows, numbers=2) if rows else None


def _known(results: Sequence[Result], key: str) -> bool:
    """Whether a cost needs a column; not if nothing was captured, as on a CPU, or one machine made all."""
    values = {value for result in results for value in (result.cost.get(key) or {}).values()}
    return len(values) > 1 if key == "machine" else bool(values - {"generate", "plain"})


def parity(result: Result) -> Table | None:
    """What moves if an adapter is reloaded, asked one by one or merged: a logit, or answers; – if not measured."""
    found = result.details.get("parity") or {}
    rows = []
    for seed, check in found.items():
        if check:
            moved = check.get("differences", {})
            rows.append([seed, *(_moved(check, name, moved.get(name)) for name in PARITY), _tolerance(check)])
    if "adapter" in result.details:  # finished, by a seed that nobody knows
        return Table([*PARITY.values(), "tolerance"], [row[1:] for row in rows], numbers=0) if rows else None
    return Table(["seed", *PARITY.values(), "tolerance"], rows) if rows else None


PARITY = {"changes": "against the base", "reload": "reloaded", "batch_of_one": "batch of one", "merge": "merged"}


def _moved(check: dict[str, Any], name: str, moved: float | None) -> str:
    mark = " ✗" if check.get("holds", {}).get(name) is False else ""
    if (share := check.get("shares", {}).get(name)) is not None:
        return f"{share:.1%} of {check['asked']} answers{mark}"
    return words.NOTHING if moved is None else f"{moved:.2g}{mark}"


def _tolerance(check: dict[str, Any]) -> str:
    return f"{check['tolerance']:g}" if "tolerance" in check else words.NOTHING


def leaks(result: Result) -> Table | None:
    """Each metric over all held-out samples, and over those that do not leak."""
    found = result.details.get("leaks") or {}
    records = {record.metric: record for record in result.records}
    rows = []
    for clean in found.get("clean", ()):
        if record := records.get(clean["metric"]):
            before, after = clean["baseline"]["value"], clean["tuned"]["value"]
            moved = None if after is None else after - record.tuned.value
            shown = f"{words.number(before)} → {words.number(after)}"
            n = f"{record.n:,} → {clean['n']:,}"
            rows.append([words.metric_name(record), n, words.before_and_after(record), shown, words.signed(moved)])
    headers = ["metric", "n", "all samples: baseline → tuned", "without leaked ones", "tuned differs by"]
    return Table(headers, rows) if rows else None


def twins(result: Result) -> Table | None:
    """The closest pairs of a held-out sample and a training row, by id."""
    pairs = (result.details.get("leaks") or {}).get("pairs")
    if not pairs:
        return None
    rows = [[pair["held_out"], pair["training"], pair["kind"], words.number(pair["similarity"])] for pair in pairs]
    return Table(["held out", "training", "kind", "similarity"], rows, numbers=3)


def facts(result: Result) -> Table:
    """Data, digests, engine and training or finished adapter of one spec, as a flat table."""
    keys = ("data", "model", "digests", "engine", "training", "adapter")
    pairs = [pair for key in keys for pair in words.flat(result.details.get(key), key)]
    pairs += words.flat((result.details.get("reference") or {}).get("origin"), "accepted")
    return Table(["key", "value"], [list(pair) for pair in pairs], numbers=2)


def options(result: Result) -> Table:
    """The library options, as in the spec."""
    pairs = words.flat(result.details.get("options"))
    return Table(["option", "value"], [list(pair) for pair in pairs], numbers=2)


def provenance(run: Run) -> Table:
    """The command, commit and machine of the run, as a flat table."""
    pairs = [("run", run.id), ("command", run.command), *words.flat(run.provenance)]
    return Table(["key", "value"], [list(pair) for pair in pairs], numbers=2)
