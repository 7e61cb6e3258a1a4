"""Accepted scores: where they lie, which of them a run is compared with, and how a run becomes the accepted one.

They are files that people review and commit, one a spec and evaluation, under reports/reference.
"""

from __future__ import annotations

import json
import math
import subprocess
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from prism.errors import ScoresError
from prism.spec import find_specs, load_spec
from prism.verdicts.scores import Scores, parse_scores, read_scores, write_scores

FOLDER = Path("reports/reference")  # from the root: accepted scores are committed, wherever reports are written
RUNS = Path("reports/runs")


def accepted_for(scores: Scores, root: Path) -> Scores | None:
    """The accepted scores of the evaluation that a run measured, or None. Raises ScoresError as `read_scores` does."""
    path = root / FOLDER / f"{scores.name}.json"
    return read_scores(path) if path.exists() else None


def competing_drops(root: Path, profile: str, besides: str = "") -> int:
    """How many `drop` thresholds share the profile's false alarms: those of its specs that have accepted scores.

    Accepted scores of any evaluation count. A spec without them decides no `drop`, so it takes no power from the others.
    `besides` is the id of a spec that is left out.
    """
    specs = (
        load_spec(path)
        for path in find_specs(root / "benchmarks" / "specs")
        if any((root / FOLDER / path.parent.name).glob(f"{path.stem}@*.json"))
    )
    counted = (spec for spec in specs if spec.profile == profile and spec.id != besides)
    return sum(limit.key == "drop" for spec in counted for limit in spec.limits())


def gather_scores(where: str, root: Path) -> list[Scores]:
    """The scores that a name stands for: a run's folder or id, an accepted file, a folder of them, or git:REV."""
    if where.startswith("git:"):
        return _at_revision(where.removeprefix("git:"), root)
    path = locate(where, root)
    files = [path] if path.is_file() else sorted((path / "scores").glob("*.json")) or sorted(path.rglob("*@*.json"))
    if not files:
        raise ScoresError(f"{where}: holds no scores; name a run's folder, or one with accepted scores")
    return [read_scores(file) for file in files]


def locate(where: str, root: Path) -> Path:
    """A path as given, from the root, or a run by its id."""
    candidates = (Path(where).expanduser(), root / where, root / RUNS / where)
    path = next((path for path in candidates if path.exists()), None)
    if path is None:
        raise ScoresError(f"{where}: no such run or accepted file; name a folder of {RUNS}, a file, or git:REV")
    return path


def _at_revision(revision: str, root: Path) -> list[Scores]:
    listed = ask_git(root, "ls-tree", "-r", "--name-only", revision, "--", FOLDER.as_posix()).split()
    if not listed:
        raise ScoresError(f"git:{revision}: holds no file under {FOLDER}; name a revision with accepted scores")
    return [
        parse_scores(ask_git(root, "show", f"{revision}:./{path}"), Path(path).name) for path in listed if "@" in path
    ]


def ask_git(root: Path, *words: str) -> str:
    """What git says; its own first line of complaint where it fails."""
    try:
        done = subprocess.run(["git", *words], cwd=root, capture_output=True, text=True, timeout=60, check=True)
    except subprocess.CalledProcessError as error:
        said = (error.stderr.strip().splitlines() or ["no reason given"])[0]
        raise ScoresError(
            f"git {' '.join(words)}: {said}; run this in the checkout, with a revision that exists"
        ) from None
    except (OSError, subprocess.SubprocessError) as error:
        raise ScoresError(f"git cannot be asked ({error}); accepted scores live in git") from None
    return done.stdout


@dataclass(frozen=True)
class Acceptance:
    """Accepted scores that were written, and those that they replace; `damage` if the old file could not be read."""

    path: Path
    new: Scores
    old: Scores | None
    damage: str = ""


def accept(run: Path, root: Path, force: bool = False) -> list[Acceptance]:
    """Make a run's scores those that later runs are compared with.

    Raises ScoresError for a run that is partial, that failed, or whose commit cannot be known, unless `force`.
    """
    try:
        told = json.loads((run / "results.json").read_text(encoding="utf-8"))
        doubts = list(_doubts(told))
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ScoresError(f"{run}: is no finished run ({error}); name a folder of {RUNS}") from None
    scores = sorted((run / "scores").glob("*.json"))
    if not scores:
        raise ScoresError(f"{run}: holds no scores; run the benchmarks again, and accept that run")
    accepted = [_acceptance(read_scores(path), root) for path in scores]
    doubts += [
        f"it has {len(found.new.seeds)} of the {len(found.old.seeds)} seeds of the accepted run that it would replace"
        for found in accepted
        if found.old and len(found.new.seeds) < len(found.old.seeds)
    ]
    if doubts and not force:
        raise ScoresError(f"{told['id']}: not accepted, since {'; '.join(doubts)}; mend that, or pass --force")
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
            write_scores(acceptance.new, acceptance.path)
        except OSError as error:
            raise ScoresError(
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


def _acceptance(new: Scores, root: Path) -> Acceptance:
    for name, measure in new.measures.items():
        if not math.isfinite(measure.value):
            raise ScoresError(
                f"{new.id}: {name} is not a number, so nothing could be compared with it; mend the metric"
            )
    path = root / FOLDER / f"{new.name}.json"
    try:
        return Acceptance(path, new, read_scores(path) if path.exists() else None)
    except ScoresError as damage:
        return Acceptance(path, new, None, str(damage))
