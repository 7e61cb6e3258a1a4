"""The fixture `run` of a benchmark's test: a measured spec, and each threshold as pass, skip or failure."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import pytest

from prism.experiment import Outcome
from prism.plugin.results import is_failure
from prism.plugin.session import Session
from prism.report.terminal import explain
from prism.spec import Limit
from prism.verdicts.record import Record, Result, Verdict
from prism.verdicts.scoring import worst


@dataclass(frozen=True)
class Checks:
    outcome: Outcome
    session: Session

    @property
    def result(self) -> Result:
        return self.outcome.result

    @cached_property
    def verdicts(self) -> dict[str, tuple[Record, Verdict]]:
        """Records and verdicts by threshold id."""
        return self.result.verdicts()

    def check(self, limit: Limit | None) -> None:
        """Pass, skip or fail the test of one threshold."""
        if limit is None:
            pytest.skip(
                f"{self.result.id} has no [gate]: `prism thresholds {self.result.id}` measures and proposes one"
            )
        record, verdict = self.verdicts[limit.id]
        self.session.results.mark_decided(self.result, limit.id)
        if is_failure(verdict, self.session.setting.required):
            report = self.session.reports / "latest" / "report.md"
            pytest.fail(explain(self.result, record, verdict, worst(self.outcome.samples), report), pytrace=False)
        if verdict.state != "holds":
            pytest.skip(verdict.reason if verdict.state == "skipped" else f"{verdict.state}: {verdict.reason}")
