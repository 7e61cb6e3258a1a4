"""The results of a run as plain data: a `Record` per metric with its `Verdict`s, and a `Result` per spec.

`results.json` is these classes through `dataclasses.asdict`; every report is made from it alone.
"""

from __future__ import annotations

import math
from collections.abc import Collection
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

from prism.errors import ScoresError
from prism.spec import Spec, threshold_id
from prism.store import read_json

SCHEMA = 1
State = Literal["holds", "fails", "inconclusive", "not_comparable", "skipped"]


@dataclass(frozen=True)
class Score:
    """A metric's value with its 95 % interval, NaN if that is unknown; `p` only if the value is a difference.

    `rule` is how the interval was made, or why it is unknown: "Tango", "unknown: 6 effective groups".
    """

    value: float
    ci: tuple[float, float]
    p: float | None = None
    rule: str = ""


UNDECIDED = "not selected, or not reached, in this run"
NO_SCORE = Score(math.nan, (math.nan, math.nan))


@dataclass(frozen=True)
class Control:
    """The same metric of a control's answers, and how far the tuned model is ahead of it (paired)."""

    value: float
    ci: tuple[float, float]
    ahead: Score
    rule: str = ""


@dataclass(frozen=True)
class Verdict:
    """The decision on one threshold, with its reason in words."""

    key: str
    threshold: float
    state: State
    reason: str
    p: float | None = None  # of the test that decided; of an inconclusive drop, of "the loss is at most the threshold"
    detectable: float | None = None  # the smallest loss that is shown to exceed a drop with 80 % power
    provisional: str | None = None


@dataclass(frozen=True)
class Record:
    """One metric of one spec: baseline, tuned, their paired difference, controls and verdicts."""

    phase: str
    spec: str
    profile: str
    data: str
    evaluation_digest: str
    tier: str
    metric: str
    direction: str
    n: int
    groups: int
    unscored: int
    seeds: dict[str, float]  # training seed: tuned value
    baseline: Score
    tuned: Score
    gain: Score
    controls: dict[str, Control] = field(default_factory=dict)
    reference: dict[str, Any] | None = None  # the comparison with the accepted run
    verdicts: tuple[Verdict, ...] = ()
    against: str = "baseline"  # whose answers `baseline` scores: the untuned model's, or a control's


def empty_record(spec: Spec, evaluation: str, tier: str, metric: str, unscored: int, **known: Any) -> Record:
    """A metric's record before anything is scored, with the fields that are `known`."""
    fields: dict[str, Any] = {
        "phase": spec.phase,
        "spec": spec.name,
        "profile": spec.profile,
        "data": spec.data.name or spec.data.path,
        "direction": "higher",
        "n": 0,
        "groups": 0,
        "seeds": {},
        "baseline": NO_SCORE,
        "tuned": NO_SCORE,
        "gain": NO_SCORE,
    }
    return Record(evaluation_digest=evaluation, tier=tier, metric=metric, unscored=unscored, **(fields | known))


@dataclass(frozen=True)
class Result:
    """Everything that the run of one spec found: its records, and details that only the reports show."""

    phase: str
    spec: str
    title: str
    profile: str
    records: tuple[Record, ...]
    details: dict[str, Any]  # confusion matrices, loss curves, parity, digests, by the keys that the reports read
    cost: dict[str, Any]
    decided: tuple[str, ...] = ()  # ids of the thresholds that this run asked for and reached

    @property
    def id(self) -> str:
        return f"{self.phase}/{self.spec}"

    def verdicts(self) -> dict[str, tuple[Record, Verdict]]:
        """Every threshold's verdict by its id (`Limit.id`), with the record of its metric."""
        return {
            threshold_id(record.tier, record.metric, verdict.key): (record, verdict)
            for record in self.records
            for verdict in record.verdicts
        }

    def as_decided(self, ids: Collection[str]) -> Result:
        """The result of a run that selected only these thresholds: the others are skipped."""

        def mark(record: Record, verdict: Verdict) -> Verdict:
            selected = threshold_id(record.tier, record.metric, verdict.key) in ids
            return verdict if selected else replace(verdict, state="skipped", reason=UNDECIDED)

        records = (replace(r, verdicts=tuple(mark(r, verdict) for verdict in r.verdicts)) for r in self.records)
        return replace(self, records=tuple(records), decided=tuple(sorted(ids)))


@dataclass(frozen=True)
class Run:
    """One run of the benchmarks, as `results.json` stores it."""

    id: str
    results: tuple[Result, ...]
    complete: bool
    partial: str  # why it is not complete, in words; empty if it is
    verdict: Literal["pass", "fail"]
    reason: str  # the verdict in one sentence
    command: str
    provenance: dict[str, Any]
    title: str = "PRISM"


def run_to_json(run: Run) -> dict[str, Any]:
    """The layout of results.json: a flat list of records, and a table per spec with what only the reports show."""
    specs = [to_json(result) for result in run.results]
    return {
        "schema": SCHEMA,
        "id": run.id,
        "title": run.title,
        "command": run.command,
        "complete": run.complete,
        "partial": run.partial,
        "verdict": run.verdict,
        "reason": run.reason,
        "records": [record for spec in specs for record in spec.pop("records")],
        "cost": [{"phase": spec["phase"], "spec": spec["spec"], **spec.pop("cost")} for spec in specs],
        "specs": specs,
        "provenance": run.provenance,
    }


def read_run(folder: Path) -> Run:
    """The run of a report folder: the inverse of `run_to_json`.

    Raises ScoresError if the folder has no results.json, a damaged one, or one of another schema.
    """
    file = folder / "results.json"
    try:
        table = read_json(file.read_text(encoding="utf-8"))
        schema = table.get("schema")
        if schema != SCHEMA:
            raise ScoresError(
                f"{file}: has schema {schema!r}, and this PRISM reads {SCHEMA}; run the benchmarks again with it"
            )
        found = [_result_of(table, spec) for spec in table["specs"]]
        known = ("id", "complete", "partial", "verdict", "reason", "command", "provenance", "title")
        return Run(results=tuple(found), **{key: table[key] for key in known})
    except (OSError, ValueError, KeyError, TypeError, AttributeError, StopIteration) as error:
        raise ScoresError(f"{folder}: is not a finished run ({error!r}); name a folder of reports/runs") from None


def _result_of(table: dict[str, Any], spec: dict[str, Any]) -> Result:
    def own(row: dict[str, Any]) -> bool:
        return bool((row["phase"], row["spec"]) == (spec["phase"], spec["spec"]))

    cost = next(row for row in table["cost"] if own(row))
    cost = {key: value for key, value in cost.items() if key not in ("phase", "spec")}
    return from_json({**spec, "records": [row for row in table["records"] if own(row)], "cost": cost})


def to_json(result: Result) -> dict[str, Any]:
    """Convert to plain JSON types. JSON has no NaN and no infinity: they become null."""
    return _finite(asdict(result))


def _finite(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _finite(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(item) for item in value]
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value


def from_json(table: dict[str, Any]) -> Result:
    """The inverse of `to_json`: null comes back as NaN."""

    def number(value: float | None) -> float:
        return math.nan if value is None else value

    def interval(value: list[float | None]) -> tuple[float, float]:
        return number(value[0]), number(value[1])

    def score(value: dict[str, Any]) -> Score:
        return Score(number(value["value"]), interval(value["ci"]), value["p"], value.get("rule", ""))

    def control(value: dict[str, Any]) -> Control:
        return Control(number(value["value"]), interval(value["ci"]), score(value["ahead"]), value.get("rule", ""))

    records = []
    for row in table["records"]:
        verdicts = tuple(Verdict(**verdict) for verdict in row["verdicts"])
        scores = {name: score(row[name]) for name in ("baseline", "tuned", "gain")}
        controls = {name: control(value) for name, value in row["controls"].items()}
        records.append(Record(**{**row, **scores, "controls": controls, "verdicts": verdicts}))
    return Result(**{**table, "records": tuple(records), "decided": tuple(table["decided"])})
