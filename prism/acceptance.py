"""Accept a finished run: its scores become those that later runs are compared with.

A run folder may come from another machine. So nothing that results.json concludes is believed: the folder must be as the
run left it, its records must be those of its scores, and the verdict is decided again from both.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy
from pydantic import Field, ValidationError

from prism.errors import ScoresError, first_problem
from prism.plugin import results
from prism.spec import Limit
from prism.store import Store
from prism.store.provenance import provenance
from prism.store.seal import require_sealed
from prism.tasks import metrics_of
from prism.verdicts import looks
from prism.verdicts.accepted import FOLDER, RUNS, Acceptance, accepted_at
from prism.verdicts.drops import Against, against_accepted
from prism.verdicts.gate import decide
from prism.verdicts.possible import require_possible
from prism.verdicts.record import Record, Result, Run, Verdict, read_run
from prism.verdicts.schema import Shown
from prism.verdicts.scores import DIGITS, Scores, read_scores, write_scores

RUN_ID = re.compile(r"\d{8}-\d{6}-[0-9a-f]{1,16}")


class _Provenance(Shown):
    """What is read of a run's provenance, which the accepted file repeats."""

    commit: str | None = Field(pattern=r"^[0-9a-f]{7,64}$")
    dirty: bool | None
    tree: str = ""
    machine: dict[str, Any]
    answered: list[dict[str, Any]] = Field(default_factory=list)


def accept(run: Path, root: Path, force: bool = False, store: Store | None = None) -> list[Acceptance]:
    """Save a run's scores as those that later runs are compared with.

    Their `origin` says among how many measurements of `store` they could be picked ("looks", null if unknown). Unless
    `force`, raises ScoresError if the run is partial, failed, has fewer seeds or no clean commit. Raises PrismError,
    whatever `force` says, if the run's folder was changed since, or contradicts itself.
    """
    files = require_sealed(run)
    found, read = _read(run)
    known = found.provenance
    commit, objection = _commit(read, root)
    measured = _measured(run, found, files)
    decided = [_decided_again(result, scores, root) for result, scores in measured]
    accepted = [_acceptance(scores, root) for _, scores in measured]
    objections = [*_objections(found, decided), *filter(None, [objection])]
    objections += [
        f"it has {len(each.new.seeds)} of the {len(each.old.seeds)} seeds of the accepted run that it would replace"
        for each in accepted
        if each.old and len(each.new.seeds) < len(each.old.seeds)
    ]
    if objections and not force:
        raise ScoresError(f"{found.id}: not accepted, because {'; '.join(objections)}; fix that, or pass --force")
    origin = {
        "run": found.id,
        "date": f"{found.id[:4]}-{found.id[4:6]}-{found.id[6:8]}",
        "command": found.command.encode("utf-8", "replace").decode(),  # it may hold a file name that is no text
        "commit": commit,
        **{key: known[key] for key in ("answered",) if key in known},
        "machine": known["machine"],
        **({"forced": objections} if objections else {}),
    }
    accepted = [replace(each, new=replace(each.new, origin=origin | _looks(each, store))) for each in accepted]
    for acceptance in accepted:
        try:
            write_scores(acceptance.new, acceptance.path)
        except OSError as error:
            raise ScoresError(
                f"{acceptance.path}: cannot be written ({error.strerror or error}); make {FOLDER} writable"
            ) from None
    return accepted


def _read(run: Path) -> tuple[Run, _Provenance]:
    found = read_run(run)
    why = "" if RUN_ID.fullmatch(found.id) else f"its id is {found.id[:40]!r}"
    try:
        read = _Provenance.model_validate(found.provenance)
    except ValidationError as error:
        why = first_problem(error, "provenance")
    if why:
        raise ScoresError(f"{run}: is not a finished run ({why}); name a folder of {RUNS}")
    return found, read


def _measured(run: Path, found: Run, files: Sequence[str]) -> list[tuple[Result, Scores]]:
    """Each spec's result and its scores, which say the same. Raises ScoresError if they do not, or if one is missing."""
    expected = {f"scores/{result.phase}-{result.spec}.json": result for result in found.results}
    given = [name for name in files if name.startswith("scores/")]
    if not given:
        raise ScoresError(f"{run}: contains no scores; run the benchmarks again and accept that run")
    if wrong := sorted(set(given) ^ set(expected)):
        raise ScoresError(f"{run}: {wrong[0]} and results.json do not belong together; run the benchmarks again")
    measured = []
    for name, result in expected.items():
        scores = read_scores(run / name)
        for record in result.records:
            if why := _contradiction(record, scores):
                raise ScoresError(
                    f"{run}: results.json and {name} contradict each other: {why}; run the benchmarks again"
                )
        measured.append((result, scores))
    return measured


def _contradiction(record: Record, scores: Scores) -> str:
    """What a record says otherwise than the scores; empty if nothing."""
    for key in ("phase", "spec", "profile", "evaluation_digest"):
        if getattr(record, key) != getattr(scores, key):
            return f"{record.metric} is of {key} {getattr(record, key)!r}, the scores of {getattr(scores, key)!r}"
    if record.tier == "cost" or not record.n:
        return ""
    measure = scores.measures.get(record.metric)
    if measure is None:
        return f"there are no scores by {record.metric}"
    counted = ~numpy.isnan(measure.statistics).any((0, 2))
    n, groups = int(counted.sum()), len(set(numpy.array(scores.groups)[counted].tolist()))
    if record.n == n:  # else a control left some of them unscored, and which ones is not in the scores
        wrong = record.groups != groups
    else:
        wrong = record.n > n or record.groups > groups
    if wrong or measure.n not in (None, record.n) or record.n + record.unscored > len(scores.ids):
        return (
            f"{record.metric} has {record.n:,} samples in {record.groups:,} groups and {record.unscored:,} unscored; "
            f"the scores have {n:,} in {groups:,}, of {len(scores.ids):,}"
        )
    here = {"all seeds": record.tuned.value, **record.seeds}
    there = {"all seeds": measure.value, **measure.seeds}
    if measure.gain is not None:
        here, there = {"gain": record.gain.value, **here}, {"gain": measure.gain, **there}
    for seed in {**here, **there}:
        told, other = here.get(seed), there.get(seed)
        if told is None or other is None or not numpy.isclose(told, other, rtol=0, atol=10**-DIGITS, equal_nan=True):
            return f"{record.metric} is {told} ({seed}), in the scores {other}"
    return ""


def _decided_again(result: Result, scores: Scores, root: Path) -> Result:
    """The result, with what its thresholds say of its numbers now. A verdict that failed the run stays."""
    metrics = metrics_of(scores, root)
    require_possible(scores, metrics)
    against: dict[int, Against | None] = {}
    records = []
    for record in result.records:
        verdicts = []
        for verdict in record.verdicts:
            shared = _thresholds(record)
            if verdict.key == "drop" and shared not in against:
                against[shared] = against_accepted(root, scores, metrics, shared)
            verdicts.append(_again(verdict, record, against.get(shared)))
        records.append(replace(record, verdicts=tuple(verdicts)))
    return replace(result, records=tuple(records))


def _again(verdict: Verdict, record: Record, against: Against | None) -> Verdict:
    if verdict.state == "skipped" or results.is_failure(verdict, ()):
        return verdict
    if verdict.key == "drop" and not _same_accepted(record, against):
        return verdict  # it was decided against another accepted run, which is gone
    try:
        limit = Limit(
            tier=record.tier,
            metric=record.metric,
            key=verdict.key,
            value=verdict.threshold,
            provisional=verdict.provisional,
        )
    except ValidationError as error:
        why = error.errors()[0]["msg"]
        raise ScoresError(
            f"{record.phase}/{record.spec}: results.json has a threshold {verdict.key[:40]!r} of {record.metric} that is "
            f"none ({why}); run the benchmarks again"
        ) from None
    return decide(limit, record, against)


def _thresholds(record: Record) -> int:
    """How many `drop` thresholds shared the false alarms when this record was compared."""
    alpha = (record.reference or {}).get("alpha")
    return round(0.05 / alpha) if isinstance(alpha, float) and 1e-6 < alpha <= 0.05 else 1


def _same_accepted(record: Record, against: Against | None) -> bool:
    """Whether a record was compared with the scores that are accepted now."""
    told = record.reference or {}
    measure = against.accepted.measures.get(record.metric) if against and against.accepted else None
    return measure is not None and (told.get("seeds"), told.get("ci")) == (dict(measure.seeds), list(measure.ci))


def _objections(run: Run, decided: Sequence[Result]) -> Iterator[str]:
    left = "" if run.partial else results.partial(decided, (), "")
    if not run.complete or left:
        yield f"it is partial ({run.partial or left})"
    verdict, reason = results.decision(decided, (), ())
    if run.verdict != "pass" or verdict != "pass":
        said = run.reason if run.verdict != "pass" else reason
        yield f"it {'was only measured' if 'measured' in (run.verdict, verdict) else 'failed'} ({said})"


def _looks(acceptance: Acceptance, store: Store | None) -> dict[str, Any]:
    """When scores are accepted, and among how many they could be picked; both stay if the same ones were accepted."""
    new, old = acceptance.new, acceptance.old
    since = accepted_at(old) if old else ""
    seen = looks.count(new, store, since) if store else None
    if old and looks.measurement(old) == looks.measurement(new):
        return {"accepted": since or looks.now(), "looks": old.origin.get("looks", seen)}
    return {"accepted": looks.now(), "looks": seen}


def _commit(known: _Provenance, root: Path) -> tuple[str | None, str]:
    """The commit that a run can be repeated from, and what speaks against it.

    A run of a machine without git has none: its source tree must be that of the commit checked out here.
    """
    if known.commit:
        why = "git could not say whether its working tree had uncommitted changes" if known.dirty is None else ""
        return known.commit, "its working tree had uncommitted changes" if known.dirty else why
    here = provenance(root, ())
    if here["commit"] and here["dirty"] is False and known.tree == here["tree"]:
        return here["commit"], ""
    return None, "no commit is known to repeat it from, and its source tree is not that of a clean commit here"


def _acceptance(new: Scores, root: Path) -> Acceptance:
    for name, measure in new.measures.items():
        if not math.isfinite(measure.value):
            raise ScoresError(f"{new.id}: {name} is not a number, so nothing could be compared with it; fix the metric")
    path = root / FOLDER / f"{new.name}.json"
    if path.parent.resolve() != root.resolve() / FOLDER / new.phase:
        raise ScoresError(f"{path.parent}: is reached by a link, so that git has no file of it; replace it by a folder")
    try:
        return Acceptance(path, new, read_scores(path) if path.exists() else None)
    except ScoresError as damage:
        return Acceptance(path, new, None, str(damage))
