"""Find, read and write accepted scores: those that later runs are compared with.

They are files under reports/reference that people review and commit, one per spec and evaluation.
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
from prism.store import Store
from prism.store.provenance import provenance
from prism.verdicts import looks
from prism.verdicts.scores import Scores, parse_scores, read_scores, write_scores

FOLDER = Path("reports/reference")  # from the root: accepted scores are committed, wherever reports are written
RUNS = Path("reports/runs")


def accepted_for(scores: Scores, root: Path) -> Scores | None:
    """Read the accepted scores of a run's evaluation, or return None. Raises ScoresError as `read_scores` does."""
    path = root / FOLDER / f"{scores.name}.json"
    return read_scores(path) if path.exists() else None


def competing_drops(root: Path, profile: str, besides: str = "") -> int:
    """Count the `drop` thresholds that share the profile's false-alarm rate: those of its specs with accepted scores.

    Accepted scores of any evaluation count. A spec without them decides no `drop`, so it costs the others no power.
    `besides` is the id of a spec to leave out.
    """
    specs = (
        load_spec(path)
        for path in find_specs(root / "benchmarks" / "specs")
        if any((root / FOLDER / path.parent.name).glob(f"{path.stem}@*.json"))
    )
    counted = (spec for spec in specs if spec.profile == profile and spec.id != besides)
    return sum(limit.key == "drop" for spec in counted for limit in spec.limits())


def gather_scores(where: str, root: Path) -> list[Scores]:
    """Read the scores that `where` names: a run's folder or id, an accepted file, a folder of them, or git:REV."""
    if where.startswith("git:"):
        return _scores_at_revision(where.removeprefix("git:"), root)
    path = locate(where, root)
    files = [path] if path.is_file() else sorted((path / "scores").glob("*.json")) or sorted(path.rglob("*@*.json"))
    if not files:
        raise ScoresError(f"{where}: contains no scores; name the folder of a run or of accepted scores")
    return [read_scores(file) for file in files]


def locate(where: str, root: Path) -> Path:
    """Find a path as given, relative to the root, or as the id of a run."""
    candidates = (Path(where).expanduser(), root / where, root / RUNS / where)
    path = next((path for path in candidates if path.exists()), None)
    if path is None:
        raise ScoresError(f"{where}: no such run or accepted file; name a folder of {RUNS}, a file, or git:REV")
    return path


def _scores_at_revision(revision: str, root: Path) -> list[Scores]:
    paths = ask_git(root, "ls-tree", "-r", "--name-only", revision, "--", FOLDER.as_posix()).split()
    if not paths:
        raise ScoresError(f"git:{revision}: contains no file under {FOLDER}; name a revision with accepted scores")
    return [
        parse_scores(ask_git(root, "show", f"{revision}:./{path}"), Path(path).name) for path in paths if "@" in path
    ]


def ask_git(root: Path, *arguments: str) -> str:
    """Return git's output. Raises ScoresError with the first line of git's error message."""
    try:
        process = subprocess.run(["git", *arguments], cwd=root, capture_output=True, text=True, timeout=60, check=True)
    except subprocess.CalledProcessError as error:
        message = (error.stderr.strip().splitlines() or ["no reason given"])[0]
        raise ScoresError(
            f"git {' '.join(arguments)}: {message}; run this in the checkout, with a revision that exists"
        ) from None
    except (OSError, subprocess.SubprocessError) as error:
        raise ScoresError(f"git cannot be run ({error}); install it, since it stores the accepted scores") from None
    return process.stdout


@dataclass(frozen=True)
class Acceptance:
    """Accepted scores that were written, and those they replace; `damage` is why the old file could not be read."""

    path: Path
    new: Scores
    old: Scores | None
    damage: str = ""


def accept(run: Path, root: Path, force: bool = False, store: Store | None = None) -> list[Acceptance]:
    """Save a run's scores as those that later runs are compared with.

    Their `origin` says among how many measurements of `store` they could be picked ("looks", null if unknown). Unless
    `force`, raises ScoresError if the run is partial, failed, has fewer seeds or no clean commit.
    """
    try:
        results = json.loads((run / "results.json").read_text(encoding="utf-8"))
        commit, objection = _commit(results["provenance"], root)
        objections = [*_objections(results), *filter(None, [objection])]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ScoresError(f"{run}: is not a finished run ({error}); name a folder of {RUNS}") from None
    scores = sorted((run / "scores").glob("*.json"))
    if not scores:
        raise ScoresError(f"{run}: contains no scores; run the benchmarks again and accept that run")
    accepted = [_acceptance(read_scores(path), root) for path in scores]
    objections += [
        f"it has {len(each.new.seeds)} of the {len(each.old.seeds)} seeds of the accepted run that it would replace"
        for each in accepted
        if each.old and len(each.new.seeds) < len(each.old.seeds)
    ]
    if objections and not force:
        raise ScoresError(f"{results['id']}: not accepted, because {'; '.join(objections)}; fix that, or pass --force")
    origin = {
        "run": results["id"],
        "date": "{}-{}-{}".format(results["id"][:4], results["id"][4:6], results["id"][6:8]),
        "command": results["command"],
        "commit": commit,
        **{key: results["provenance"][key] for key in ("answered",) if key in results["provenance"]},
        "machine": results["provenance"]["machine"],
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


def _looks(acceptance: Acceptance, store: Store | None) -> dict[str, Any]:
    """When scores are accepted, and among how many they could be picked; both stay if the same ones were accepted."""
    new, old = acceptance.new, acceptance.old
    since = accepted_at(old) if old else ""
    seen = looks.count(new, store, since) if store else None
    if old and looks.measurement(old) == looks.measurement(new):
        return {"accepted": since or looks.now(), "looks": old.origin.get("looks", seen)}
    return {"accepted": looks.now(), "looks": seen}


def accepted_at(scores: Scores) -> str:
    """When scores were accepted, in UTC; of a file that does not say so, the day of its run; empty if not even that."""
    day = scores.origin.get("date")
    return str(scores.origin.get("accepted") or (f"{day}T00:00:00+00:00" if day else ""))


def _objections(results: Mapping[str, Any]) -> Iterable[str]:
    if not results["complete"]:
        yield f"it is partial ({results['partial']})"
    if results["verdict"] != "pass":
        yield f"it failed ({results['reason']})"


def _commit(known: Mapping[str, Any], root: Path) -> tuple[str | None, str]:
    """The commit that a run can be repeated from, and what speaks against it.

    A run of a machine without git has none: its source tree must be that of the commit checked out here.
    """
    if known["commit"]:
        return known["commit"], "its working tree had uncommitted changes" if known["dirty"] else ""
    here = provenance(root, ())
    if here["commit"] and not here["dirty"] and known.get("tree") == here["tree"]:
        return here["commit"], ""
    return None, "no commit is known to repeat it from, and its source tree is not that of a clean commit here"


def _acceptance(new: Scores, root: Path) -> Acceptance:
    for name, measure in new.measures.items():
        if not math.isfinite(measure.value):
            raise ScoresError(f"{new.id}: {name} is not a number, so nothing could be compared with it; fix the metric")
    path = root / FOLDER / f"{new.name}.json"
    try:
        return Acceptance(path, new, read_scores(path) if path.exists() else None)
    except ScoresError as damage:
        return Acceptance(path, new, None, str(damage))
