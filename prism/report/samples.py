"""Choose the samples that a report shows: those that tuning made worse or better, and the worst unchanged ones."""

from __future__ import annotations

import math
import os
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from prism.verdicts.record import Result

Sample = dict[str, Any]


@dataclass(frozen=True)
class Change:
    """How one metric's per-sample scores changed from baseline to tuned; each list is sorted worst first."""

    metric: str
    right_or_wrong: bool
    worse: Sequence[Sample]
    better: Sequence[Sample]
    stuck: Sequence[Sample]  # unchanged and not right
    unchanged: int
    unscored: int

    @property
    def names(self) -> tuple[str, str]:
        """The labels of `better` and `worse`."""
        return ("wrong → right", "right → wrong") if self.right_or_wrong else ("better", "worse")


def without_shared_prefix(samples: Sequence[Sample]) -> list[Sample]:
    """The samples, with questions cut by their common first words, which are the task's own prompt."""
    questions = [str(sample.get("question") or "") for sample in samples]
    shared = os.path.commonprefix(questions) if len(questions) > 1 else ""
    shared = shared[: max(shared.rfind(end) + 1 for end in ("\n", "? ", ": "))]
    return [
        sample | {"question": f"…{question[len(shared) :]}"} if shared else sample
        for sample, question in zip(samples, questions)
    ]


def changes(result: Result, samples: Sequence[Sample]) -> list[Change]:
    """One Change for each metric of the result with a score per sample, in the order of its records."""
    scored = {name for sample in samples for name in sample.get("scores", {})}
    return [_change(record.metric, samples) for record in result.records if record.metric in scored]


def _change(metric: str, samples: Sequence[Sample]) -> Change:
    moves: list[tuple[float, float, Sample]] = []  # gain, tuned score, sample
    values: set[float] = set()
    for sample in samples:
        before, after = sample.get("scores", {}).get(metric) or (None, None)
        if before is not None and after is not None and math.isfinite(before) and math.isfinite(after):
            moves.append((after - before, after, sample))
            values |= {before, after}
    right_or_wrong = values <= {0, 1}
    unchanged = [move for move in moves if move[0] == 0]
    stuck = [move for move in unchanged if not (right_or_wrong and move[1] == 1)]
    return Change(
        metric=metric,
        right_or_wrong=right_or_wrong,
        worse=[sample for gain, _, sample in sorted(moves, key=lambda move: move[0]) if gain < 0],
        better=[sample for gain, _, sample in sorted(moves, key=lambda move: -move[0]) if gain > 0],
        stuck=[sample for _, _, sample in sorted(stuck, key=lambda move: move[1])],
        unchanged=len(unchanged),
        unscored=len(samples) - len(moves),
    )
