"""Which samples a report shows: those that tuning made worse or better, and those still answered worst."""

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
    """How one metric's per-sample scores moved from baseline to tuned; each list is ordered worst first."""

    metric: str
    right_or_wrong: bool
    worse: Sequence[Sample]
    better: Sequence[Sample]
    stuck: Sequence[Sample]  # neither better nor worse, and not right
    unchanged: int
    unscored: int

    @property
    def names(self) -> tuple[str, str]:
        """What to call `better` and `worse`."""
        return ("wrong → right", "right → wrong") if self.right_or_wrong else ("better", "worse")


def asked(samples: Sequence[Sample]) -> list[Sample]:
    """The samples, their questions without the words that all begin with: the task's own, said once in its spec."""
    questions = [str(sample.get("question") or "") for sample in samples]
    shared = os.path.commonprefix(questions) if len(questions) > 1 else ""
    shared = shared[: max(shared.rfind(end) + 1 for end in ("\n", "? ", ": "))]
    return [
        sample | {"question": f"…{question[len(shared) :]}"} if shared else sample
        for sample, question in zip(samples, questions)
    ]


def changes(result: Result, samples: Sequence[Sample]) -> list[Change]:
    """One Change for each of the result's metrics that has a score a sample, in the order of its records."""
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
