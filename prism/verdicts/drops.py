"""Compare a run with the accepted one, for `drop` thresholds and for the reports."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from prism.errors import ScoresError
from prism.metrics import Metric
from prism.verdicts.accepted import accepted_for
from prism.verdicts.compare import Comparison, compare, differences, first_flipped
from prism.verdicts.possible import require_possible
from prism.verdicts.record import Record
from prism.verdicts.scores import Scores

FLIPPED = 20  # samples in a report, of those that became worse and of those that became better


@dataclass(frozen=True)
class Against:
    """A run's scores compared with the accepted ones by metric; `without` is why a metric has no comparison.

    `fault` is why nothing could be compared although there are accepted scores.
    """

    accepted: Scores | None = None
    comparisons: Mapping[str, Comparison] = field(default_factory=dict)
    without: Mapping[str, str] = field(default_factory=dict)
    fault: str = ""

    def beside(self, record: Record) -> Record:
        """Return the record with its metric's comparison added."""
        comparison = self.comparisons.get(record.metric)
        if self.accepted is None or comparison is None:
            return record
        return replace(record, reference=_to_json(comparison, self.accepted))


def against_accepted(root: Path, new: Scores, metrics: Sequence[Metric], thresholds: int) -> Against | None:
    """Compare a run's scores with the accepted ones of its evaluation; None if there are none.

    `thresholds` is how many `drop` thresholds share the profile's false-alarm rate.
    """
    try:
        accepted = accepted_for(new, root)
        if accepted is None:
            return None
        require_possible(accepted, metrics)
        return Against(accepted, *compare(accepted, new, metrics, thresholds))
    except ScoresError as error:
        return Against(fault=str(error))


def _to_json(comparison: Comparison, accepted: Scores) -> dict[str, Any]:
    """The comparison as a record stores it, in plain JSON types."""
    loss, measure = comparison.loss, accepted.measures[comparison.metric.name]
    return {
        "file": f"{accepted.name}.json",
        "commit": accepted.origin.get("commit"),
        "question": comparison.question,
        "test": comparison.rule,
        "value": comparison.before,
        "ci": list(measure.ci),
        "seeds": dict(measure.seeds),
        "n": comparison.n,
        "loss": {"value": loss.value, "ci": [loss.low, loss.high], "level": comparison.level, "p": loss.p},
        "alpha": comparison.alpha,
        "detectable": comparison.detectable(),
        "worse": len(comparison.worse),
        "better": len(comparison.better),
    }


def shown(
    against: Against, new: Scores, samples: Sequence[Mapping[str, Any]], answers: Mapping[str, Sequence[str]]
) -> dict[str, Any]:
    """What the reports show of the comparison: the accepted run, how the recipes differ, which samples flipped.

    A sample flips by majority of the seeds; `answers` has every seed's answer by sample id.
    """
    accepted = against.accepted
    assert accepted is not None
    hidden = ("scores", "group")
    by_id = {
        s["id"]: {k: v for k, v in s.items() if k not in hidden} | {"tuned": _by_seed(answers[s["id"]])}
        for s in samples
    }
    flipped = first_flipped(against.comparisons.values())
    return {
        "file": f"{accepted.name}.json",
        "origin": dict(accepted.origin),
        "seeds": accepted.seeds,
        "question": next((comparison.question for comparison in against.comparisons.values()), ""),
        "differences": [list(line) for line in differences(accepted, new)],
        "without": dict(against.without),
        "flipped": {
            "metric": flipped.metric.name,
            "right_or_wrong": flipped.metric.right_or_wrong,
            "counts": {"worse": len(flipped.worse), "better": len(flipped.better)},
            "worse": [by_id[name] for name in flipped.worse[:FLIPPED]],
            "better": [by_id[name] for name in flipped.better[:FLIPPED]],
        }
        if flipped
        else None,
    }


def _by_seed(answers: Sequence[str]) -> str:
    """The two most frequent of several seeds' answers; if all differ, the first seed's."""
    counted = Counter(answers).most_common(2)
    if counted[0][1] in (1, len(answers)):
        return answers[0]
    return "; ".join(f"{answer} ({n} of {len(answers)})" for answer, n in counted)
