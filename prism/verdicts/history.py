"""Read the accepted scores of every commit in git's history, to follow each metric over time."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from prism.errors import ScoresError
from prism.verdicts.accepted import FOLDER, ask_git
from prism.verdicts.scores import Scores, parse_scores


@dataclass(frozen=True)
class Entry:
    """One accepted run: its commit, empty if not committed; `damage` is why it cannot be read."""

    file: Path
    commit: str
    date: str
    scores: Scores | None
    damage: str = ""


def history(root: Path) -> list[Entry]:
    """List every accepted run, oldest first, including those replaced or deleted since."""
    entries = list(_committed(root))
    for path in sorted((root / FOLDER).rglob("*@*.json")):
        name = path.relative_to(root)
        if ask_git(root, "status", "--porcelain", "--", name.as_posix()):
            entries.append(_entry(name, "", "", path.read_text(encoding="utf-8", errors="replace")))
    return entries


def _committed(root: Path) -> Iterator[Entry]:
    unquoted = ("-c", "core.quotePath=off")  # else a name in another alphabet comes in escapes
    log = ask_git(
        root, *unquoted, "log", "--reverse", "--format=>%h %cs", "--name-status", "--relative", "--", FOLDER.as_posix()
    )
    commit = date = ""
    for line in log.split("\n"):
        if line.startswith(">"):
            commit, date = line[1:].split()
        elif line:
            state, *names = line.split("\t")
            if state != "D" and "@" in names[-1]:
                yield _entry(Path(names[-1]), commit, date, ask_git(root, "show", f"{commit}:./{names[-1]}"))


def _entry(file: Path, commit: str, date: str, text: str) -> Entry:
    try:
        return Entry(file, commit, date, parse_scores(text, file.name))
    except ScoresError as damage:
        return Entry(file, commit, date, None, str(damage))
