"""What got worse or stays poor although the gate may pass: found in records and tables, and stored with the result.

A count or a recall is worse only where its 95 % Wilson interval lies beyond that of the baseline, which is stricter than
a test of the difference; a metric, where the interval of its gain lies below 0.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from itertools import islice
from typing import Any

from prism.metrics import Metric
from prism.metrics.patterns import NONE, PATTERNS
from prism.rows import Prediction
from prism.verdicts.intervals import wilson
from prism.verdicts.record import Record, Score

SHOWN = 5  # of a spec
OF_A_KIND = 2  # metrics of one confusion matrix fall together
HALF = 0.5  # a recall below it misses most of a class; a pattern above it is in most answers


@dataclass(frozen=True)
class Callout:
    """One finding. `before` and `after` are values of a metric, recalls, or counts of `n` answers.

    `size` orders findings of every kind: the share of samples that are affected, or the loss of the metric.
    """

    kind: str  # metric | pattern rose | pattern stays | recall fell | recall low | cut off | classical | contender
    about: str  # a metric, pattern or class
    before: float
    after: float
    size: float
    n: int = 0
    ends: tuple[float, float] | None = None  # 95 % interval of the difference; below 0 is worse
    other: str = ""  # whose value `before` is, if not the baseline's


def found(
    records: Sequence[Record],
    details: Mapping[str, Any],
    metrics: Sequence[Metric],
    untuned: Sequence[Prediction],
    tuned: Sequence[Prediction],
) -> list[dict[str, Any]]:
    """The callouts of one spec in plain JSON types, worst first, at most SHOWN.

    `details` are those of its `Result`: the patterns, the tables by class and the contenders are read.
    """
    kinds = (
        _metrics(records),
        _patterns((details.get("failures") or {}).get("patterns", ()), len(tuned)),
        _classes(details.get("answers") or {}),
        _cut(details, untuned, tuned),
        _classical(records),
        _contenders(records, details.get("contenders") or {}, {m.name for m in metrics if m.lists_samples}),
    )
    ranked = [callout for kind in kinds for callout in islice(_worst(kind), OF_A_KIND)]
    return [asdict(callout) for callout in islice(_worst(ranked), SHOWN)]


def _worst(callouts: Iterable[Callout]) -> list[Callout]:
    return sorted(callouts, key=lambda callout: -callout.size)


def _ahead(score: Score, record: Record) -> Score:
    """A difference of which positive is better."""
    if record.direction == "higher":
        return score
    return Score(-score.value, (-score.ci[1], -score.ci[0]))


def _metrics(records: Sequence[Record]) -> Iterator[Callout]:
    for record in records:
        gain = _ahead(record.gain, record)
        is_pattern = record.metric.removesuffix("_rate") in PATTERNS  # told as a pattern, by counts
        if record.tier != "cost" and gain.ci[1] < 0 and not is_pattern:
            other = "" if record.against == "baseline" else record.against
            before, after = record.baseline.value, record.tuned.value
            yield Callout("metric", record.metric, before, after, -gain.value, record.n, gain.ci, other)


def _patterns(rows: Iterable[Mapping[str, Any]], n: int) -> Iterator[Callout]:
    for row in rows:
        name, before, after = row["pattern"], row["baseline"], row["tuned"]
        if name == NONE:
            continue
        if _rose(before, after, n):
            yield Callout("pattern rose", name, before, after, (after - before) / n, n)
        elif wilson(after, n)[0] > HALF:
            yield Callout("pattern stays", name, before, after, after / n, n)


def _rose(before: float, after: float, n: float) -> bool:
    return wilson(after, n)[0] > wilson(before, n)[1]


def _classes(answers: Mapping[str, Any]) -> Iterator[Callout]:
    tables = [answers.get(name, {}).get("per_class", {}) for name in ("baseline", "tuned")]
    labels = answers.get("tuned", {}).get("labels", ())
    classes = {label: tables[1][label] for label in labels if tables[1].get(label, {}).get("support")}
    whole = sum(row["support"] for row in classes.values())
    for label, row in classes.items():
        n, after, before = row["support"], row["recall"], tables[0].get(label, {}).get("recall", 0.0)
        fell = _rose((1 - before) * n, (1 - after) * n, n)
        if fell or wilson(after * n, n)[1] < HALF:
            yield Callout(
                "recall fell" if fell else "recall low", label, before, after, (1 - after) * n / whole, int(n)
            )


def _cut(details: Mapping[str, Any], untuned: Sequence[Prediction], tuned: Sequence[Prediction]) -> Iterator[Callout]:
    """More answers cut off at max_new_tokens; a task with failure patterns has it among them."""
    before, after = (sum(said.finish == "length" for said in part) for part in (untuned, tuned))
    if "failures" not in details and _rose(before, after, len(tuned)):
        yield Callout("cut off", "answers", before, after, (after - before) / len(tuned), len(tuned))


def _classical(records: Sequence[Record]) -> Iterator[Callout]:
    """The first metric of the classical control, if the adapter is not shown to be ahead by it."""
    for record in records:
        if control := record.controls.get("classical"):
            ahead = _ahead(control.ahead, record)
            if ahead.ci[0] <= 0:
                before, after = control.value, record.tuned.value
                size = max(0.0, -ahead.value)
                yield Callout("classical", record.metric, before, after, size, record.n, ahead.ci, "classical")
            return


def _contenders(records: Sequence[Record], found: Mapping[str, Any], by_sample: set[str]) -> Iterator[Callout]:
    """The metrics by which a contender scores better than the adapter.

    Only metrics of a score a sample: a set's recall, or a rate of unread answers, is perfect for one fixed answer.
    """
    for record in records:
        if record.metric in by_sample:
            values = {c["name"]: c["values"].get(record.metric, float("nan")) for c in found.get("contenders", ())}
            better = {name: value for name, value in values.items() if value > record.tuned.value}
            if better:
                name = max(better, key=better.__getitem__)
                before, after = better[name], record.tuned.value
                yield Callout("contender", record.metric, before, after, before - after, record.n, None, name)
