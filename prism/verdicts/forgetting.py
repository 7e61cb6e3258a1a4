"""Has an adapter hurt another job? The loss against the untuned base on that job's questions, decided as a `drop` is."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from prism.metrics import Metric
from prism.rows import Example
from prism.spec import Limit, Spec
from prism.verdicts.compare import compare
from prism.verdicts.drops import Against
from prism.verdicts.gate import decide
from prism.verdicts.headline import Headline
from prism.verdicts.record import NO_SCORE, Record, Score, State
from prism.verdicts.scores import Scores, measured
from prism.verdicts.scoring import score


@dataclass(frozen=True)
class Cell:
    """The adapter of one spec, by id, asked the questions of another. `record` has base, adapter and gain, by one metric.

    `loss` is that against the base, positive if the adapter is worse, with the interval and p of the test that decides;
    its own job has None, since its own gate decides that, and the state "holds".
    """

    adapter: str
    asked: str
    base: str  # the model that both stand on
    record: Record
    loss: Score | None
    state: State
    reason: str

    @property
    def own(self) -> bool:
        return self.adapter == self.asked


def cell(
    adapter: str,
    spec: Spec,
    metric: Metric,
    asked: Sequence[Example],
    base: Sequence[str],
    tuned: Sequence[str],
    limit: float,
    cells: int,
    known: Headline,
) -> Cell:
    """`base` and `tuned` are the answers to `asked`; `known` is what the base achieves on all questions of this spec.

    It fails if the loss is shown to exceed `limit`, in the metric's units, at .05 / `cells`. Where that is not decided
    for the base's good, and the base is not shown to know more than nothing of this job, there is nothing to forget.
    """
    [record] = score(spec, [metric], asked, "", base, {spec.seed: tuned}, {})
    if adapter == spec.id:
        return Cell(adapter, spec.id, spec.model.model_name, record, None, "holds", "its own job")
    before, after = (
        _scores(spec, record, asked, metric, said, who) for said, who in ((base, "base"), (tuned, adapter))
    )
    against = Against(None, *compare(before, after, [metric], cells))
    verdict = decide(Limit(tier=metric.tier, metric=metric.name, key="drop", value=limit), record, against)
    state, reason = verdict.state, verdict.reason
    if state != "holds" and not known.base_knows:
        state = "skipped"
        reason = (
            f"nothing to forget: by {metric.name}, the base ({known.record.baseline.value:.3f}) is not shown to know more "
            f"than {known.contender.replace('_', ' ')} ({known.reached:.3f}), which knows nothing"
        )
    found = against.comparisons.get(metric.name)
    loss = Score(found.loss.value, (found.loss.low, found.loss.high), verdict.p, found.rule) if found else NO_SCORE
    return Cell(adapter, spec.id, spec.model.model_name, record, loss, state, reason)


def _scores(
    spec: Spec, record: Record, asked: Sequence[Example], metric: Metric, said: Sequence[str], who: str
) -> Scores:
    training: Mapping[str, Any] = {"answers": who}
    return measured(spec, [record], asked, {spec.seed: said}, [metric], training, {})
