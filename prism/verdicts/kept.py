"""Scores and verdicts of the same answers are computed once, and kept as tables in the store.

What computes them (nltk, SciPy) takes longer to import than all else of a run whose artifacts are stored.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import cache
from pathlib import Path
from typing import Any

import numpy
from pydantic import TypeAdapter

from prism.metrics import Metric, Statistics
from prism.rows import Example
from prism.spec import Spec
from prism.store import digest, file_digest
from prism.verdicts import drops, gate
from prism.verdicts.accepted import accepted_file
from prism.verdicts.alarms import Share
from prism.verdicts.record import Record
from prism.verdicts.scores import Scores


@dataclass(frozen=True)
class Kept:
    """The tables of one evaluation. `known` determines them: its rows and metrics, and all answers."""

    known: Mapping[str, Any]
    remember: Callable[[Mapping[str, Any], Callable[[], Any]], Any]

    def table(self, kind: str, compute: Callable[[], Any], **further: Any) -> Any:
        """What `compute` returns, in plain JSON types. `further` is what determines it besides."""
        return self.remember({**self.known, "kind": kind, **further}, compute)

    def records(self, kind: str, compute: Callable[[], Sequence[Record]], **further: Any) -> list[Record]:
        table = self.table(kind, lambda: [asdict(record) for record in compute()], **further)
        return _records().validate_python(table)

    def statistics(
        self, metrics: Sequence[Metric], examples: Sequence[Example], answers: Sequence[Sequence[str]]
    ) -> dict[Statistics, numpy.ndarray]:
        """The statistics of each sample, (seeds, samples, d), of `answers` by seed; several metrics may share theirs."""
        first: dict[Statistics, str] = {}
        for metric in metrics:
            first.setdefault(metric.statistics, metric.name)

        def compute() -> dict[str, Any]:
            return {name: [made(examples, given).tolist() for given in answers] for made, name in first.items()}

        table = self.table("statistics", compute)
        return {made: numpy.array(table[name]) for made, name in first.items()}

    def verdicts(
        self,
        spec: Spec,
        root: Path,
        records: Sequence[Record],
        scores: Scores,
        metrics: Sequence[Metric],
        share: Share,
        samples: Sequence[Mapping[str, Any]],
        answers: Mapping[str, Sequence[str]],
        **judging: Any,
    ) -> tuple[list[Record], dict[str, Any] | None]:
        """The records with every threshold decided, and what the reports show of the comparison with the accepted run.

        `answers` has every seed's answer by sample id, `judging` are further arguments of `gate.decide_all`.
        """
        file = accepted_file(scores, root)
        determining = {
            "spec": spec.model_dump(mode="json", exclude={"folder"}),
            "records": digest([asdict(record) for record in records]),
            "training": scores.training,
            "judges": {name: measure.judge for name, measure in scores.measures.items()},
            "accepted": [str(file), file_digest(file)] if file.is_file() else None,  # an error names the file
            "thresholds": share.parts,
            "judging": judging,
        }

        def compute() -> dict[str, Any]:
            own = [metric for metric in metrics if metric.name in scores.measures]
            against = drops.against_accepted(root, scores, own, share.parts)
            beside = [against.beside(record) if against else record for record in records]
            decided = gate.decide_all(spec, beside, against, **judging)
            shown = drops.shown(against, scores, samples, answers) if against and against.accepted else None
            return {"records": [asdict(record) for record in decided], "reference": shown}

        table = self.table("verdicts", compute, **determining)
        reference = table["reference"] and {**table["reference"], "comparison": share.comparison}
        return _records().validate_python(table["records"]), reference


@cache
def _records() -> TypeAdapter[list[Record]]:
    return TypeAdapter(list[Record])
