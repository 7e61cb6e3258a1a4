"""The scores that one run measured for one spec, sample by sample, and their file.

The file contains, for every metric and training seed, each held-out sample's statistics by sample id, so that a later
run is compared sample by sample and any set metric is recomputed. Every run writes such a file; `prism accept` makes it
the accepted one. Its name contains the digest of the evaluation, because scores of different evaluations cannot be
compared. A checksum detects edits by hand.

The file contains neither rows nor answers: a sample is the hash of its row, a group the hash of its name.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy
from pydantic import ValidationError

from prism.errors import ScoresError, first_problem
from prism.metrics import Metric, Statistics
from prism.rows import Example
from prism.rows.images import image_digests
from prism.spec import Spec
from prism.store import digest, write_text
from prism.verdicts.record import Record

SCHEMA = 1
DIGITS = 6  # decimals of a value or statistic: more would be noise in git, and both sides of a comparison are rounded


@dataclass(frozen=True)
class Measure:
    """One metric as a run reported it, and each sample's statistics: (seeds, samples, d); a row of NaN is unscored."""

    tier: str
    version: int
    judge: str  # which judge graded it, by which definition; empty if none did
    value: float
    ci: tuple[float, float]
    seeds: Mapping[str, float]
    statistics: numpy.ndarray
    n: int | None = None  # samples that `value` counts: a control may have left some unscored; None in older files
    # How far `value` is ahead of the control's, of a metric that is named after that; None of others and in older files.
    gain: float | None = None


@dataclass(frozen=True)
class Scores:
    """The scores of one spec, sorted by sample id. `origin` is empty until they are accepted."""

    phase: str
    spec: str
    profile: str
    task: str
    evaluation_digest: str
    ids: tuple[str, ...]
    groups: tuple[str, ...]
    measures: Mapping[str, Measure]
    training: Mapping[str, Any]  # what may differ between runs: base, rows, options, engine, adapters
    origin: Mapping[str, Any]  # where it was measured: run, date, commit, machine

    @property
    def id(self) -> str:
        return f"{self.phase}/{self.spec}"

    @property
    def name(self) -> str:
        return f"{self.id}@{self.evaluation_digest[:8]}"

    @property
    def seeds(self) -> list[str]:
        return list(dict.fromkeys(seed for measure in self.measures.values() for seed in measure.seeds))


def evaluation_digest(spec: Spec, version: int, examples: Sequence[Example], metrics: Sequence[Metric]) -> str:
    """Digest what makes runs comparable: held-out samples, their questions and references, metrics and `[generate]`.

    `version` is the task's; `metrics` are the task's and those that the spec adds.
    """
    rows = sorted([e.id, list(e.messages), e.reference, e.group, image_digests(e)] for e in examples)
    versions = sorted([metric.name, metric.version] for metric in metrics)
    return digest([spec.task, version, rows, versions, spec.generate])


def measured(
    spec: Spec,
    records: Sequence[Record],
    examples: Sequence[Example],
    answers: Mapping[int, Sequence[str]],
    metrics: Sequence[Metric],
    training: Mapping[str, Any],
    judges: Mapping[str, str],
    known: Mapping[Statistics, numpy.ndarray] | None = None,
) -> Scores:
    """Collect a run's scores from its `answers` by seed, in the order of `examples`, and its `judges` by metric.

    A metric is left out if no sample could be scored. `known` are statistics of these answers, (seeds, samples, d).
    """
    order = sorted(range(len(examples)), key=lambda i: examples[i].id)
    reported = {record.metric: record for record in records if record.n}
    shared: dict[Callable[..., Any], numpy.ndarray] = {}  # metrics of one confusion matrix share its statistics
    measures = {}
    for metric in metrics:
        if record := reported.get(metric.name):
            if metric.statistics not in shared:
                by_seed = (known or {}).get(metric.statistics)
                if by_seed is None:
                    by_seed = numpy.stack([metric.statistics(examples, of_seed) for of_seed in answers.values()])
                shared[metric.statistics] = by_seed[:, order].round(DIGITS)
            measures[metric.name] = Measure(
                metric.tier,
                metric.version,
                judges.get(metric.name, ""),
                round(record.tuned.value, DIGITS),
                (round(record.tuned.ci[0], DIGITS), round(record.tuned.ci[1], DIGITS)),
                {seed: round(value, DIGITS) for seed, value in record.seeds.items()},
                shared[metric.statistics],
                record.n,
                None if metric.against == "baseline" else round(record.gain.value, DIGITS),
            )
    ids = tuple(examples[i].id for i in order)
    groups = tuple(examples[i].group for i in order)
    if groups != ids:  # a group's name may be text from a row
        groups = tuple(hashlib.sha256(group.encode()).hexdigest()[:12] for group in groups)
    return Scores(
        phase=spec.phase,
        spec=spec.name,
        profile=spec.profile,
        task=spec.task_file,
        evaluation_digest=records[0].evaluation_digest,
        ids=ids,
        groups=groups,
        measures=measures,
        training=training,
        origin={},
    )


# The file


def write_scores(scores: Scores, path: Path) -> None:
    """Write one line per metric and per sample, so that git shows which changed."""
    content = _to_json(scores)
    parts = [
        f"{json.dumps(key)}: {_json_lines(key, value)}"
        for key, value in ({"checksum": digest(content)} | content).items()
    ]
    write_text(path, "{\n" + ",\n".join(parts) + "\n}\n")


def _json_lines(key: str, value: Any) -> str:
    compact = json.JSONEncoder(separators=(",", ":"), allow_nan=False).encode
    if key == "rows":
        return "[" + ", ".join("[\n" + ",\n".join(map(compact, rows)) + "\n]" for rows in value) + "]"
    if key in ("metrics", "samples"):
        return "{\n" + ",\n".join(f"{compact(name)}:{compact(line)}" for name, line in value.items()) + "\n}"
    return json.dumps(value, indent=1, ensure_ascii=False, allow_nan=False)


def _to_json(scores: Scores) -> dict[str, Any]:
    """Convert to plain JSON. Metrics of the same statistics share a family: distinct rows, and a row number per score.

    A sample is [its group unless it is its own, then per family a list of row numbers by seed]; null means unscored.
    """
    families = list({id(measure.statistics): measure.statistics for measure in scores.measures.values()}.values())
    packed = [_pack(statistics) for statistics in families]
    family_of = {id(statistics): number for number, statistics in enumerate(families)}
    grouped = scores.groups != scores.ids
    return {
        "schema": SCHEMA,
        "phase": scores.phase,
        "spec": scores.spec,
        "profile": scores.profile,
        "task": scores.task,
        "evaluation_digest": scores.evaluation_digest,
        "metrics": {
            name: {
                "tier": measure.tier,
                "version": measure.version,
                "judge": measure.judge,
                "value": _number(measure.value),
                "ci": [_number(end) for end in measure.ci],
                "seeds": {seed: _number(value) for seed, value in measure.seeds.items()},
                "family": family_of[id(measure.statistics)],
                "width": measure.statistics.shape[-1],
                **({} if measure.n is None else {"n": measure.n}),
                **({} if measure.gain is None else {"gain": _number(measure.gain)}),
            }
            for name, measure in scores.measures.items()
        },
        "training": dict(scores.training),
        "origin": dict(scores.origin),
        "rows": [rows for rows, _ in packed],
        "samples": {
            name: [*([scores.groups[i]] if grouped else []), *(index[i] for _, index in packed)]
            for i, name in enumerate(scores.ids)
        },
    }


def _number(value: float) -> float | None:
    return value if math.isfinite(value) else None


def _pack(statistics: numpy.ndarray) -> tuple[list[list[float]], list[list[int | None]]]:
    """(seeds, samples, d) as its distinct rows, sorted, and each sample's row numbers, seed by seed."""
    scored = numpy.isfinite(statistics).all(-1)
    rows, inverse = numpy.unique(statistics[scored], axis=0, return_inverse=True)
    numbers = numpy.full(scored.shape, -1)
    numbers[scored] = inverse.reshape(-1)
    plain = [[int(value) if value.is_integer() else value for value in row] for row in rows.tolist()]
    return plain, [[None if number < 0 else number for number in line] for line in numbers.T.tolist()]


def read_scores(path: Path) -> Scores:
    """Read the scores of a run, accepted or not.

    Raises ScoresError if the file is damaged, edited by hand, of another schema or named after another evaluation.
    """
    try:
        return parse_scores(path.read_text(encoding="utf-8"), path.name)
    except (OSError, UnicodeDecodeError) as error:
        raise ScoresError(f"{path}: cannot be read ({error}); restore it from git") from None


def parse_scores(text: str, name: str) -> Scores:
    """Parse a file's text; `name` is the file's name, for error messages and to check the evaluation in it."""
    try:
        content = json.loads(text, parse_constant=_reject_constant)
        schema, checksum, real = content["schema"], content.pop("checksum"), digest(content)
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise ScoresError(f"{name}: is not a file of scores ({error!r}); restore it from git") from None
    if schema != SCHEMA:
        raise ScoresError(
            f"{name}: has schema {schema!r}, but this PRISM reads {SCHEMA}; measure again and `prism accept` that run"
        )
    if checksum != real:
        raise ScoresError(
            f"{name}: was edited by hand or damaged, its checksum differs; restore it from git, or `prism accept` a run"
        )
    try:
        scores = _build(content)
    except ValidationError as error:
        raise ScoresError(
            f"{name}: is an incomplete file of scores ({first_problem(error)}); restore it from git"
        ) from None
    except (KeyError, TypeError, ValueError, IndexError, OverflowError) as error:
        raise ScoresError(f"{name}: is an incomplete file of scores ({error!r}); restore it from git") from None
    expected = f"{scores.spec}@{scores.evaluation_digest[:8]}.json"
    if "@" in name and name != expected:
        raise ScoresError(
            f"{name}: the file contains {scores.name} but is named differently; rename it to {expected}, or "
            f"`prism accept` a run"
        )
    return scores


def _reject_constant(constant: str) -> None:
    raise ValueError(f"{constant} is not a score")


def _build(content: Mapping[str, Any]) -> Scores:
    from prism.verdicts.schema import ScoresFile  # not needed where no file is read

    file = ScoresFile.model_validate(content)
    lines = list(file.samples.values())
    families = len(file.rows)
    grouped = len(lines[0]) > families
    for id, line in file.samples.items():
        if len(line) != grouped + families or (grouped and not isinstance(line[0], str)):
            raise ValueError(f"sample {id} has no number a family of metrics")
    arrays: dict[int, numpy.ndarray] = {}
    measures = {}
    for name, table in file.metrics.items():
        family = table.family
        if family not in arrays:
            arrays[family] = _unpack(file.rows[family], [line[grouped + family] for line in lines], table.width)
        if arrays[family].shape[::2] != (len(table.seeds), table.width):
            raise ValueError(f"{name} has {len(table.seeds)} seeds and {len(arrays[family])} scores a sample")
        measures[name] = Measure(
            table.tier,
            table.version,
            table.judge,
            _nan(table.value),
            (_nan(table.ci[0]), _nan(table.ci[1])),
            {seed: _nan(value) for seed, value in table.seeds.items()},
            arrays[family],
            table.n,
            table.gain,
        )
    ids = tuple(file.samples)
    return Scores(
        phase=file.phase,
        spec=file.spec,
        profile=file.profile,
        task=file.task,
        evaluation_digest=file.evaluation_digest,
        ids=ids,
        groups=tuple(line[0] for line in lines) if grouped else ids,
        measures=measures,
        training=content["training"],
        origin=content["origin"],
    )


def _nan(value: float | None) -> float:
    return math.nan if value is None else value


def _unpack(rows: Sequence[Any], index: Sequence[Sequence[int | None]], width: int) -> numpy.ndarray:
    table = numpy.array(rows)
    if table.ndim != 2 or table.shape[1] != width or table.dtype.kind not in "iuf" or not numpy.isfinite(table).all():
        raise ValueError(f"a row of statistics is not {width} finite numbers")
    unscored = len(table)
    numbers = numpy.array([[unscored if n is None else n for n in line] for line in zip(*index, strict=True)])
    if numbers.dtype.kind != "i" or numbers.min() < 0 or numbers.max() > unscored:
        raise ValueError("a sample names a row of statistics that is not there")
    return numpy.vstack([table, numpy.full(width, numpy.nan)])[numbers]
