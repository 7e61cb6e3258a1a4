"""Where experiments run, and by which options."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from prism.judge.tier3 import Judge
from prism.progress import Progress
from prism.report.tracking import Trackers
from prism.store import Store, write_text
from prism.store.provenance import own_source, versions
from prism.verdicts.alarms import Over

# Libraries that read, split, compare and score rows: with another version a remembered result may be another.
COMPUTING = (
    *("numpy", "scipy", "scikit-learn", "pyarrow", "regex", "datasketch", "nltk", "rouge-score", "simpleeval"),
    *("sentence-transformers", "transformers", "torch"),
)


@dataclass
class Setting:
    """Where experiments run, and by which options: those of pytest's or of the command line."""

    root: Path  # of the checkout
    store: Store
    screen: Progress
    data: Path | None = None  # --prism-data
    models: Path | None = None  # --prism-models
    judge: Judge | None = None
    required: Sequence[str] = ()  # --prism-require: tiers that fail if they cannot be decided; decided
    retrain: bool = False
    track: Trackers = field(default_factory=Trackers)  # --prism-track
    alarms: Over = "run"  # over what `drop` thresholds share the false alarms
    made: set[Path] = field(default_factory=set)  # the artifacts that were made here, not found in the store

    def make(
        self, kind: str, identity: Mapping[str, Any], work: Callable[[Path], dict], *, again: bool = False
    ) -> Path:
        """The store's artifact; made by `work` and remembered as made here if the store does not hold it."""
        worked = False

        def watched(folder: Path) -> dict:
            nonlocal worked
            worked = True
            return work(folder)

        folder = self.store.make(kind, identity, watched, again=again)
        if worked:
            self.made.add(folder)
        return folder

    def remember(self, identity: Mapping[str, Any], compute: Callable[[], Any]) -> Any:
        """A small result, as JSON in the store: to import what computes it takes longer than a cached run.

        It is computed again after any change of PRISM's code, which costs seconds and needs no list of what it depends on.
        """

        def work(folder: Path) -> dict:
            write_text(folder / "value.json", json.dumps(compute()))
            return {}

        made_by = {"source": own_source(), "versions": versions(COMPUTING)}
        folder = self.store.make("tables", {**identity, **made_by}, work)
        return json.loads((folder / "value.json").read_text(encoding="utf-8"))
