"""Find and read accepted scores: those that later runs are compared with.

They are files under reports/reference that people review and commit, one per spec and evaluation.
"""

from __future__ import annotations

import subprocess
from dataclasses import dataclass
from pathlib import Path

from prism.errors import ScoresError
from prism.spec import find_specs, load_spec
from prism.store.seal import SEAL, require_sealed
from prism.verdicts.scores import Scores, parse_scores, read_scores

FOLDER = Path("reports/reference")  # from the root: accepted scores are committed, wherever reports are written
RUNS = Path("reports/runs")


def accepted_for(scores: Scores, root: Path) -> Scores | None:
    """Read the accepted scores of a run's evaluation, or return None. Raises ScoresError as `read_scores` does."""
    path = accepted_file(scores, root)
    return read_scores(path) if path.exists() else None


def accepted_file(scores: Scores, root: Path) -> Path:
    """Where the accepted scores of a run's evaluation lie, if there are any."""
    return root / FOLDER / f"{scores.name}.json"


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
    """Read the scores that `where` names: a run's folder or id, an accepted file, a folder of them, or git:REV.

    Raises PrismError if there are none, or if those of a run were changed since.
    """
    if where.startswith("git:"):
        return _scores_at_revision(where.removeprefix("git:"), root)
    path = locate(where, root)
    if (path / SEAL).is_file():
        require_sealed(path, "scores", "samples")
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
    listed = ask_git(root, "ls-tree", "-r", "-z", "--name-only", revision, "--", FOLDER.as_posix())
    paths = listed.split("\0")[:-1]
    if not paths:
        raise ScoresError(f"git:{revision}: contains no file under {FOLDER}; name a revision with accepted scores")
    return [
        parse_scores(ask_git(root, "show", f"{revision}:./{path}"), Path(path).name) for path in paths if "@" in path
    ]


def ask_git(root: Path, *arguments: str) -> str:
    """Return git's output. Raises ScoresError with the first line of git's error message."""
    try:
        process = subprocess.run(
            ["git", *arguments],
            cwd=root,
            capture_output=True,
            encoding="utf-8",
            errors="replace",  # a damaged file is reported by whoever reads it
            timeout=60,
            check=True,
        )
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


def accepted_at(scores: Scores) -> str:
    """When scores were accepted, in UTC; of a file that does not say so, the day of its run; empty if not even that."""
    day = scores.origin.get("date")
    return str(scores.origin.get("accepted") or (f"{day}T00:00:00+00:00" if day else ""))
