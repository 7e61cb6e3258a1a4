"""The results of a run as plain data: a `Record` per metric with its `Verdict`s, and a `Result` per spec.

`results.json` is these classes through `dataclasses.asdict`; every report is made from it alone.
"""

from __future__ import annotations

import json
import math
from collections.abc import Collection, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, TypeAdapter, ValidationError

from prism.errors import ScoresError, first_problem
from prism.rows.answers import read_json_lines
from prism.spec import PathName, Spec, threshold_id

SCHEMA = 1
State = Literal["holds", "fails", "inconclusive", "not_comparable", "skipped"]
Decision = Literal["pass", "fail", "measured"]  # of a whole run; measured: no spec of it has a threshold
Number = Annotated[float, BeforeValidator(lambda value: math.nan if value is None else value)]  # null in JSON


@dataclass(frozen=True)
class Score:
    """A metric's value with its 95 % interval, NaN if that is unknown; `p` only if the value is a difference.

    `rule` is how the interval was made, or why it is unknown: "Tango", "unknown: 6 effective groups".
    """

    value: Number
    ci: tuple[Number, Number]
    p: float | None = None
    rule: str = ""


UNDECIDED = "not selected, or not reached, in this run"
NO_SCORE = Score(math.nan, (math.nan, math.nan))


@dataclass(frozen=True)
class Control:
    """The same metric of a control's answers, and how far the tuned model is ahead of it (paired)."""

    value: Number
    ci: tuple[Number, Number]
    ahead: Score
    rule: str = ""


@dataclass(frozen=True)
class Verdict:
    """The decision on one threshold, with its reason in words."""

    key: str  # floor, ceiling, gain or drop
    threshold: float
    state: State  # holds, fails, inconclusive, not_comparable or skipped
    reason: str
    p: float | None = None  # of the test that decided; of an inconclusive drop, of "the loss is at most the threshold"
    detectable: float | None = None  # the smallest loss that is shown to exceed a drop with 80 % power
    provisional: str | None = None  # the source of a threshold that was not measured here


@dataclass(frozen=True)
class Record:
    """One metric of one spec: baseline, tuned, their paired difference, controls and verdicts."""

    phase: str
    spec: str
    profile: str
    data: str  # [data] name, or path
    evaluation_digest: str  # runs with one digest are comparable
    tier: str
    metric: str
    direction: str  # higher or lower: which is better
    n: int  # samples that were scored
    groups: int  # of dependent samples: an image, a filing
    unscored: int  # samples that no average counts
    seeds: dict[str, Number]  # training seed: tuned value
    baseline: Score
    tuned: Score
    gain: Score  # positive is better, whatever the direction
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

    phase: PathName
    spec: PathName
    title: str
    profile: str
    records: tuple[Record, ...]
    details: dict[str, Any]  # confusion matrices, loss curves, parity, digests, by the keys that the reports read
    cost: dict[str, Any]
    decided: tuple[str, ...] = ()  # ids of the thresholds that this run asked for and reached

    @property
    def id(self) -> str:
        return f"{self.phase}/{self.spec}"

    @property
    def seeds(self) -> list[str]:
        """The training seeds, in the order of their scores; none of a finished adapter."""
        return next((list(record.seeds) for record in self.records if record.seeds), [])

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
    verdict: Decision
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


def from_json(table: Mapping[str, Any]) -> Result:
    """The inverse of `to_json`: null comes back as NaN. Raises ValueError if a key is missing or has another type."""
    return TypeAdapter(Result).validate_python(table)


def parse_run(text: str) -> Run:
    """The inverse of `run_to_json`. Raises ValueError, KeyError, TypeError or AttributeError if it is no run's."""
    try:
        content = json.loads(text)  # half a surrogate pair may stand in it, of a command that was no text
    except RecursionError:
        raise ValueError("it is nested too deeply") from None
    if content["schema"] != SCHEMA:
        raise ValueError(f"it has schema {content['schema']!r}, but this PRISM reads {SCHEMA}")

    def own(rows: Sequence[Mapping[str, Any]], spec: Mapping[str, Any]) -> list[dict[str, Any]]:
        return [dict(row) for row in rows if (row["phase"], row["spec"]) == (spec["phase"], spec["spec"])]

    results = []
    for spec in content["specs"]:
        [cost] = own(content["cost"], spec)
        results.append({**spec, "records": own(content["records"], spec), "cost": cost})
    if sum(len(result["records"]) for result in results) != len(content["records"]):
        raise ValueError("it has records of no spec, or a spec twice")
    try:
        return TypeAdapter(Run).validate_python({**content, "results": results})
    except ValidationError as error:
        raise ValueError(first_problem(error)) from None


def read_run(folder: Path) -> Run:
    """The run of a report folder. Raises ScoresError if it has no results.json, a damaged one, or one of another schema."""
    try:
        return parse_run((folder / "results.json").read_text(encoding="utf-8"))
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise ScoresError(f"{folder}: is not a finished run ({error!r:.300}); name a folder of reports/runs") from None


def read_samples(folder: Path, phase: str, spec: str) -> dict[str, dict[str, Any]]:
    """The samples of a spec in a report folder, by id; none without their file. Raises ScoresError if a line is none."""
    file = folder / "samples" / f"{phase}-{spec}.jsonl"
    if not file.is_file():
        return {}
    try:
        return {line["id"]: dict(line.items()) for line in read_json_lines(file)}
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise ScoresError(
            f"{file}: is not a file of samples ({error!r:.200}); delete it, or compare another run"
        ) from None
