"""What one spec achieved by the first metric of its gate: against its baseline, and against answers that know nothing."""

from __future__ import annotations

import math
from dataclasses import dataclass

from prism.verdicts.contenders import passing
from prism.verdicts.record import Record, Result

TIERS = ("tier1", "tier2")  # contenders have no judge's grades, and no costs


@dataclass(frozen=True)
class Headline:
    """`reached` is the value of `contender`, the best of the know-nothing ones by this metric; NaN if none has a value.

    `passing` are those that pass the whole gate.
    """

    record: Record
    contender: str
    reached: float
    passing: tuple[str, ...]

    @property
    def beats_baseline(self) -> bool:
        """Whether the gain's 95 % interval lies above 0, in the direction that is better."""
        low, high = self.record.gain.ci
        return low > 0 if self.record.direction == "higher" else high < 0

    @property
    def beats_contenders(self) -> bool:
        """Whether no contender passes the gate or scores as well."""
        if self.passing:
            return False
        return math.isnan(self.reached) or self._better(self.record.tuned.value, self.reached)

    @property
    def base_knows(self) -> bool:
        """Whether the untuned model is shown to know more of this job than answers that know nothing.

        Its 95 % interval lies beyond the best contender's value; where there is none, it is taken to know something.
        """
        low, high = self.record.baseline.ci
        end = low if self.record.direction == "higher" else high
        return math.isnan(self.reached) or self._better(end, self.reached)

    def _better(self, one: float, other: float) -> bool:
        return one > other if self.record.direction == "higher" else one < other


def headline(result: Result) -> Headline | None:
    """The first gated metric that compares with the baseline, or the first of any; None if nothing was scored."""
    scored = [r for r in result.records if r.n and r.tier in TIERS and r.against == "baseline"]
    record = next((r for r in scored if r.verdicts), next(iter(scored), None))
    if record is None:
        return None
    found = result.details.get("contenders") or {}
    values = {c["name"]: c["values"].get(record.metric) for c in found.get("contenders", ())}
    known = {name: value for name, value in values.items() if value is not None and math.isfinite(value)}
    sign = 1 if record.direction == "higher" else -1
    best = max(known, key=lambda name: sign * known[name], default="")
    return Headline(record, best, known.get(best, math.nan), tuple(passing(found)))
