"""Accepted results: what a later run is held against, in files that people review and commit.

A reference holds, for every metric and training seed, each held-out sample's statistics by sample id, so that a later
run is compared sample by sample and any set metric is computed anew. A run writes the same file of itself, unaccepted.
The name of a reference carries the evaluation that it was measured under: another one is another question. A checksum
tells a file that was edited by hand from one that was accepted.

Neither rows nor answers are kept: a sample is the hash of its row, a group the hash of its name.
"""

from __future__ import annotations

import hashlib
import json
import math
import subprocess
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy

from prism.data import Example
from prism.errors import ReferenceFault
from prism.metrics import Metric
from prism.record import Record
from prism.spec import Spec
from prism.store import digest, write_text

SCHEMA = 1
FOLDER = Path("reports/reference")  # from the root: accepted results are committed, wherever reports are written
RUNS = Path("reports/runs")
DIGITS = (
    6  # decimals of a value or statistic: more would be noise to git, and both sides of a comparison are rounded alike
)


@dataclass(frozen=True)
class Measure:
    """One metric as a run reported it, and each sample's statistics: (seeds, samples, d), a row of NaN unscored."""

    tier: str
    version: int
    judge: str  # who graded it, and by which definition; empty where nobody did
    value: float
    ci: tuple[float, float]
    seeds: Mapping[str, float]
    statistics: numpy.ndarray


@dataclass(frozen=True)
class Reference:
    """The scores of one spec, sorted by sample id. `origin` is empty until they are accepted."""

    phase: str
    spec: str
    profile: str
    task: str
    evaluation_digest: str
    ids: tuple[str, ...]
    groups: tuple[str, ...]
    measures: Mapping[str, Measure]
    training: Mapping[str, Any]  # the side that may differ: base, rows, options, engine, adapters
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


def measured(
    spec: Spec,
    records: Sequence[Record],
    examples: Sequence[Example],
    answers: Mapping[int, Sequence[str]],
    metrics: Sequence[Metric],
    training: Mapping[str, Any],
    judges: Mapping[str, str],
) -> Reference:
    """What a run has just measured: `answers` by seed, in the order of `examples`; `judges` by metric.

    A metric of which no sample could be scored is left out.
    """
    order = sorted(range(len(examples)), key=lambda i: examples[i].id)
    reported = {record.metric: record for record in records if record.n}
    shared: dict[Callable[..., Any], numpy.ndarray] = {}  # metrics of one confusion matrix share its statistics
    measures = {}
    for metric in metrics:
        if record := reported.get(metric.name):
            if metric.statistics not in shared:
                by_seed = numpy.stack([metric.statistics(examples, said) for said in answers.values()])
                shared[metric.statistics] = by_seed[:, order].round(DIGITS)
            measures[metric.name] = Measure(
                metric.tier,
                metric.version,
                judges.get(metric.name, ""),
                round(record.tuned.value, DIGITS),
                (round(record.tuned.ci[0], DIGITS), round(record.tuned.ci[1], DIGITS)),
                {seed: round(value, DIGITS) for seed, value in record.seeds.items()},
                shared[metric.statistics],
            )
    ids = tuple(examples[i].id for i in order)
    groups = tuple(examples[i].group for i in order)
    if groups != ids:  # a group's name may be text of a row
        groups = tuple(hashlib.sha256(group.encode()).hexdigest()[:12] for group in groups)
    return Reference(
        phase=spec.phase,
        spec=spec.name,
        profile=spec.profile,
        task=spec.task,
        evaluation_digest=records[0].evaluation_digest,
        ids=ids,
        groups=groups,
        measures=measures,
        training=training,
        origin={},
    )


# The file


def write(reference: Reference, path: Path) -> None:
    """One line a metric and a sample, so that git shows which changed."""
    content = _content(reference)
    parts = [
        f"{json.dumps(key)}: {_lines(key, value)}" for key, value in ({"checksum": digest(content)} | content).items()
    ]
    write_text(path, "{\n" + ",\n".join(parts) + "\n}\n")


def _lines(key: str, value: Any) -> str:
    compact = json.JSONEncoder(separators=(",", ":"), allow_nan=False).encode
    if key == "rows":
        return "[" + ", ".join("[\n" + ",\n".join(map(compact, rows)) + "\n]" for rows in value) + "]"
    if key in ("metrics", "samples"):
        return "{\n" + ",\n".join(f"{compact(name)}:{compact(line)}" for name, line in value.items()) + "\n}"
    return json.dumps(value, indent=1, ensure_ascii=False, allow_nan=False)


def _content(reference: Reference) -> dict[str, Any]:
    """Plain JSON. Metrics of the same statistics share a family: its distinct rows, and a row's number a sample and seed.

    A sample is [group, if it is not its own, then a list of numbers a family]; null stands for unscored.
    """
    families = list({id(measure.statistics): measure.statistics for measure in reference.measures.values()}.values())
    packed = [_pack(statistics) for statistics in families]
    place = {id(statistics): number for number, statistics in enumerate(families)}
    grouped = reference.groups != reference.ids
    return {
        "schema": SCHEMA,
        "phase": reference.phase,
        "spec": reference.spec,
        "profile": reference.profile,
        "task": reference.task,
        "evaluation_digest": reference.evaluation_digest,
        "metrics": {
            name: {
                "tier": measure.tier,
                "version": measure.version,
                "judge": measure.judge,
                "value": _number(measure.value),
                "ci": [_number(end) for end in measure.ci],
                "seeds": {seed: _number(value) for seed, value in measure.seeds.items()},
                "family": place[id(measure.statistics)],
                "width": measure.statistics.shape[-1],
            }
            for name, measure in reference.measures.items()
        },
        "training": dict(reference.training),
        "origin": dict(reference.origin),
        "rows": [rows for rows, _ in packed],
        "samples": {
            name: [*([reference.groups[i]] if grouped else []), *(index[i] for _, index in packed)]
            for i, name in enumerate(reference.ids)
        },
    }


def _number(value: float) -> float | None:
    return value if math.isfinite(value) else None


def _pack(statistics: numpy.ndarray) -> tuple[list[list[float]], list[list[int | None]]]:
    """(seeds, samples, d) as its distinct rows, sorted, and each sample's numbers of them, seed by seed."""
    scored = numpy.isfinite(statistics).all(-1)
    rows, inverse = numpy.unique(statistics[scored], axis=0, return_inverse=True)
    numbers = numpy.full(scored.shape, -1)
    numbers[scored] = inverse.reshape(-1)
    plain = [[int(value) if value.is_integer() else value for value in row] for row in rows.tolist()]
    return plain, [[None if number < 0 else number for number in line] for line in numbers.T.tolist()]


def read(path: Path) -> Reference:
    """Read a reference, or the scores of a run.

    Raises ReferenceFault for a file that is damaged, edited by hand, of another schema, or named for other samples.
    """
    try:
        return parse(path.read_text(encoding="utf-8"), path.name)
    except (OSError, UnicodeDecodeError) as error:
        raise ReferenceFault(f"{path}: cannot be read ({error}); restore it from git") from None


def parse(text: str, name: str) -> Reference:
    """The reference in a file's text; `name` is the file's, for messages and for the evaluation that it carries."""
    try:
        content = json.loads(text, parse_constant=_refuse)
        schema, checksum = content["schema"], content.pop("checksum")
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise ReferenceFault(f"{name}: is no reference ({error!r}); restore it from git") from None
    if schema != SCHEMA:
        raise ReferenceFault(
            f"{name}: has schema {schema!r} where this PRISM reads {SCHEMA}; measure again and `prism accept` that run"
        )
    if checksum != digest(content):
        raise ReferenceFault(
            f"{name}: was edited by hand or damaged, its checksum does not fit; restore it from git, or `prism accept` a run"
        )
    try:
        reference = _build(content)
    except (KeyError, TypeError, ValueError, IndexError, AttributeError) as error:
        raise ReferenceFault(f"{name}: is no whole reference ({error!r}); restore it from git") from None
    if "@" in name and name != f"{reference.spec}@{reference.evaluation_digest[:8]}.json":
        raise ReferenceFault(
            f"{name}: holds {reference.name}, other samples than its name says; give it that name back, or `prism accept` a run"
        )
    if not reference.ids or not reference.measures:
        raise ReferenceFault(f"{name}: holds no scores; restore it from git")
    return reference


def _refuse(constant: str) -> None:
    raise ValueError(f"{constant} is no score")


def _build(content: Mapping[str, Any]) -> Reference:
    ids = tuple(content["samples"])
    lines = list(content["samples"].values())
    families = len(content["rows"])
    grouped = bool(lines) and len(lines[0]) > families
    arrays: dict[int, numpy.ndarray] = {}
    measures = {}
    for name, table in content["metrics"].items():
        family = table["family"]
        if family not in arrays:
            arrays[family] = _unpack(
                content["rows"][family], [line[grouped + family] for line in lines], table["width"]
            )
        if len(arrays[family]) != len(table["seeds"]):
            raise ValueError(f"{name} has {len(table['seeds'])} seeds and {len(arrays[family])} scores a sample")
        numbers = [math.nan if value is None else float(value) for value in (table["value"], *table["ci"])]
        measures[name] = Measure(
            table["tier"],
            table["version"],
            table["judge"],
            numbers[0],
            (numbers[1], numbers[2]),
            {seed: math.nan if value is None else float(value) for seed, value in table["seeds"].items()},
            arrays[family],
        )
    return Reference(
        **{
            key: content[key] for key in ("phase", "spec", "profile", "task", "evaluation_digest", "training", "origin")
        },
        ids=ids,
        groups=tuple(line[0] for line in lines) if grouped else ids,
        measures=measures,
    )


def _unpack(rows: Sequence[Sequence[float]], index: Sequence[Sequence[int | None]], width: int) -> numpy.ndarray:
    table = numpy.array([*rows, [math.nan] * width], dtype=float)
    if not numpy.isfinite(table[:-1]).all():
        raise ValueError("a score is infinite")
    return table[[[-1 if number is None else number for number in line] for line in zip(*index, strict=True)]]


# Where references lie


def find(root: Path, reference: Reference) -> Reference | None:
    """The accepted result for the evaluation of a run's scores, or None. Raises ReferenceFault as `read` does."""
    path = root / FOLDER / f"{reference.name}.json"
    return read(path) if path.exists() else None


def gather(where: str, root: Path) -> list[Reference]:
    """The scores that a name stands for: a run's folder or id, a reference, a folder of them, or git:REV."""
    if where.startswith("git:"):
        return _at_revision(where.removeprefix("git:"), root)
    path = locate(where, root)
    files = [path] if path.is_file() else sorted((path / "scores").glob("*.json")) or sorted(path.rglob("*@*.json"))
    if not files:
        raise ReferenceFault(f"{where}: holds no scores; name a run's folder, or one with references")
    return [read(file) for file in files]


def locate(where: str, root: Path) -> Path:
    """A path as given, from the root, or a run by its id."""
    candidates = (Path(where).expanduser(), root / where, root / RUNS / where)
    path = next((path for path in candidates if path.exists()), None)
    if path is None:
        raise ReferenceFault(f"{where}: no such run or reference; name a folder of {RUNS}, a file, or git:REV")
    return path


def _at_revision(revision: str, root: Path) -> list[Reference]:
    listed = git(root, "ls-tree", "-r", "--name-only", revision, "--", FOLDER.as_posix()).split()
    if not listed:
        raise ReferenceFault(f"git:{revision}: holds no file under {FOLDER}; name a revision with accepted references")
    return [parse(git(root, "show", f"{revision}:./{path}"), Path(path).name) for path in listed if "@" in path]


def git(root: Path, *words: str) -> str:
    """What git says; its own first line of complaint where it fails."""
    try:
        done = subprocess.run(["git", *words], cwd=root, capture_output=True, text=True, timeout=60, check=True)
    except subprocess.CalledProcessError as error:
        said = (error.stderr.strip().splitlines() or ["no reason given"])[0]
        raise ReferenceFault(
            f"git {' '.join(words)}: {said}; run this in the checkout, with a revision that exists"
        ) from None
    except (OSError, subprocess.SubprocessError) as error:
        raise ReferenceFault(f"git cannot be asked ({error}); references live in git") from None
    return done.stdout


# Accepting


@dataclass(frozen=True)
class Acceptance:
    """A reference that was written, and what stood there before; `damage` where that could not be read."""

    path: Path
    new: Reference
    old: Reference | None
    damage: str = ""


def accept(run: Path, root: Path, force: bool = False) -> list[Acceptance]:
    """Make a run's scores the references that later runs are held against.

    Raises ReferenceFault for a run that is partial, that failed, or whose commit cannot be known, unless `force`.
    """
    try:
        told = json.loads((run / "results.json").read_text(encoding="utf-8"))
        doubts = list(_doubts(told))
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ReferenceFault(f"{run}: is no finished run ({error}); name a folder of {RUNS}") from None
    scores = sorted((run / "scores").glob("*.json"))
    if not scores:
        raise ReferenceFault(f"{run}: holds no scores; run the benchmarks again, and accept that run")
    accepted = [_acceptance(read(path), root) for path in scores]
    doubts += [
        f"it has {len(found.new.seeds)} of the {len(found.old.seeds)} seeds of the reference that it would replace"
        for found in accepted
        if found.old and len(found.new.seeds) < len(found.old.seeds)
    ]
    if doubts and not force:
        raise ReferenceFault(f"{told['id']}: not accepted, since {'; '.join(doubts)}; mend that, or pass --force")
    origin = {
        "run": told["id"],
        "date": "{}-{}-{}".format(told["id"][:4], told["id"][4:6], told["id"][6:8]),
        "command": told["command"],
        "commit": told["provenance"]["commit"],
        "machine": told["provenance"]["machine"],
        **({"forced": doubts} if doubts else {}),
    }
    accepted = [replace(found, new=replace(found.new, origin=origin)) for found in accepted]
    for acceptance in accepted:
        try:
            write(acceptance.new, acceptance.path)
        except OSError as error:
            raise ReferenceFault(
                f"{acceptance.path}: cannot be written ({error.strerror or error}); make {FOLDER} writable"
            ) from None
    return accepted


def _doubts(told: Mapping[str, Any]) -> Iterable[str]:
    if not told["complete"]:
        yield f"it is partial ({told['partial']})"
    if told["verdict"] != "pass":
        yield f"it failed ({told['reason']})"
    if not told["provenance"]["commit"]:
        yield "no commit is known that it could be repeated from"
    elif told["provenance"]["dirty"]:
        yield "its tree had changes that no commit holds"


def _acceptance(new: Reference, root: Path) -> Acceptance:
    for name, measure in new.measures.items():
        if not math.isfinite(measure.value):
            raise ReferenceFault(
                f"{new.id}: {name} is not a number, so nothing could be held against it; mend the metric"
            )
    path = root / FOLDER / f"{new.name}.json"
    try:
        return Acceptance(path, new, read(path) if path.exists() else None)
    except ReferenceFault as damage:
        return Acceptance(path, new, None, str(damage))
