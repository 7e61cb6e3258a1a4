"""How the 5 % of false alarms are shared: among the `drop` thresholds of a run, or also among many runs.

`--prism-alarms run` divides .05 by m, the number of the profile's `drop` thresholds: a whole run raises a false alarm in
at most 5 % of cases. Twenty runs against one accepted run raise one far more often. `--prism-alarms reference` spends
the 5 % over all comparisons with an accepted run, however many: the first 20 share half of it, the next 20 a quarter,
and so on, each an equal part (Bonferroni within a block). A new acceptance starts anew.

Which comparison this is needs no file that every run would have to commit. It is the number of commits since the
acceptance, which each clone of the whole history counts alike, or the number of measurements that the store has seen
since, if that is larger. Branches that run side by side share a number.

Either promise is about recipes if the accepted run has several seeds. Against one seed, later seeds do differ.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from prism.errors import ScoresError
from prism.store import Store
from prism.verdicts import looks
from prism.verdicts.accepted import accepted_at, accepted_for, ask_git, competing_drops
from prism.verdicts.scores import Scores

Over = Literal["run", "reference"]
BLOCK = 20  # comparisons with one accepted run that share a part of the false alarms equally


@dataclass(frozen=True)
class Share:
    """`parts` is what .05 is divided by for one threshold; `comparison` is its number with one accepted run, from 1."""

    parts: int
    comparison: int | None = None


def share(root: Path, profile: str, scores: Scores, over: Over, store: Store) -> Share:
    """The share of the false alarms that each `drop` threshold of a run has.

    Raises ScoresError if `over` is "reference" and the comparisons cannot be counted.
    """
    thresholds = max(1, competing_drops(root, profile))
    if over == "run":
        return Share(thresholds)
    try:
        accepted = accepted_for(scores, root)
    except ScoresError:  # the gate reports the damage
        return Share(thresholds)
    if accepted is None:
        return Share(thresholds)
    since = accepted_at(accepted)
    if not since:
        raise ScoresError(
            f"{accepted.name}: does not say when it was accepted, so comparisons with it cannot be counted; "
            f"`prism accept` a run"
        )
    comparison = max(looks.place(scores, accepted, store, since), commits_since(root, since))
    return Share(thresholds * parts(comparison), comparison)


def parts(comparison: int) -> int:
    """What the false alarms of a run are divided by in the n-th comparison: 40 for the first 20, then 80, then 160 …"""
    return BLOCK * 2 ** math.ceil(comparison / BLOCK)


def commits_since(root: Path, when: str) -> int:
    """How many commits of HEAD's history were made since; 0 without git. Raises ScoresError in a shallow clone."""
    if not require_whole_history(root):
        return 0
    return int(ask_git(root, "rev-list", "--count", f"--since={when}", "HEAD"))


def require_whole_history(root: Path) -> bool:
    """Whether the checkout is one of git. Raises ScoresError if its history is cut off, so that counting would be wrong."""
    try:
        shallow = ask_git(root, "rev-parse", "--is-shallow-repository").strip() == "true"
        ask_git(root, "rev-parse", "--verify", "HEAD")
    except ScoresError:
        return False
    if shallow:
        raise ScoresError(
            "--prism-alarms reference: counts the commits since an acceptance, and this clone lacks a part of them; "
            "run `git fetch --unshallow`, or set fetch-depth: 0 in actions/checkout"
        )
    return True
