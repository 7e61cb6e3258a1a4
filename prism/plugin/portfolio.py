"""Phase 7 in a pytest run: what every spec of the profile achieved, gathered, checked, and written as a page.

A spec that this process has measured is not measured again; what another process or run made comes from the store.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property

import pytest

from prism.errors import PrismError
from prism.experiment import Experiment
from prism.forgetting import matrix
from prism.models.identity import TRAINING_LIBRARIES
from prism.plugin.results import OPTION
from prism.plugin.session import Session
from prism.report import portfolio
from prism.report.claims import claims
from prism.report.portfolio import Entry, Page
from prism.spec import Spec
from prism.store import read_manifest, unwritable
from prism.store.provenance import provenance
from prism.store.sources import is_local
from prism.verdicts.forgetting import Cell
from prism.verdicts.headline import Headline, headline
from prism.verdicts.record import Result

WEIGHTS = "*.safetensors"


def gated(session: Session) -> list[Spec]:
    """The specs whose achievements count: those with a gate that this machine and its options can run."""
    return [spec for spec in session.all_specs() if spec.gate and not session.lacking(spec)]


class Portfolio:
    """`limit` is the loss that no adapter may cause another job, in the units of that job's metric."""

    def __init__(self, session: Session, limit: float) -> None:
        self.session, self.limit = session, limit
        self.experiments: dict[str, Experiment] = {}
        self.missing: dict[str, str] = self._not_asked_for()
        self.results: dict[str, Result] = {}
        for spec in gated(self.session):
            try:
                self._measure(spec)
            except PrismError as error:
                self.missing[spec.id] = str(error)
        self._write()

    def _not_asked_for(self) -> dict[str, str]:
        """Why specs of the profile, and whole phases, are missing."""
        session = self.session
        why = {spec.id: lacking for spec in session.all_specs() if spec.gate and (lacking := session.lacking(spec))}
        none = f"no spec of it is in profile {session.profile}" if not session.chosen else "not named by --prism-spec"
        return why | {phase: none for phase in session.phases if not session.specs(phase)}

    def _measure(self, spec: Spec) -> None:
        """The spec's result. If no test has asked for it, every threshold of it is asked for here."""
        results = self.session.results
        experiment = self.session.experiment(spec)
        outcome = experiment.outcome
        if spec.id not in results.saved:
            results.save(outcome)
            for limit in spec.limits():
                results.mark_decided(outcome.result, limit.id)
        self.experiments[spec.id], self.results[spec.id] = experiment, outcome.result

    @cached_property
    def headlines(self) -> dict[str, Headline]:
        return {name: found for name, result in self.results.items() if (found := headline(result))}

    @cached_property
    def cells(self) -> list[Cell]:
        return matrix(list(self.experiments.values()), self.headlines, self.limit)

    @cached_property
    def trees(self) -> dict[str, str]:
        """The digest of the source tree that measured each spec."""
        return {name: str(result.details["tree"]) for name, result in self.results.items()}

    def _write(self) -> None:
        """portfolio.md and portfolio.html in the run's folder."""
        session = self.session
        root = session.setting.root
        page = Page(
            session.config.getoption("--prism-report-title"),
            session.run_id,
            session.profile,
            tuple(self._entry(name, found) for name, found in self.headlines.items()),
            tuple(self.cells),
            self.limit,
            self.missing | dict.fromkeys(self.results.keys() - self.headlines.keys(), "nothing was scored"),
            claims(root, list(self.results.values())),
            len(set(self.trees.values())),
            provenance(root, TRAINING_LIBRARIES),
        )
        try:
            portfolio.write(session.results.folder, page)
        except OSError as error:
            raise unwritable(session.reports, error, OPTION) from error
        session.screen.say(f"portfolio: {session.reports / 'latest'}/portfolio.md, portfolio.html")

    def _entry(self, name: str, found: Headline) -> Entry:
        experiment = self.experiments[name]
        folder = next(iter(experiment.adapters.values()))
        base = experiment.base.source
        local = self.session.setting.root / base if is_local(base, self.session.setting.root) else None
        return Entry(
            self.results[name],
            found,
            sum(file.stat().st_size for file in folder.glob(WEIGHTS)),
            sum(file.stat().st_size for file in local.glob(WEIGHTS)) if local else None,
            read_manifest(folder)["notes"],
        )

    # Checks, each of one spec

    def headline_of(self, spec: Spec) -> Headline:
        """Fails the test if the spec is missing."""
        if spec.id not in self.headlines:
            pytest.fail(f"{spec.id}: {self.missing.get(spec.id, 'nothing was scored')}", pytrace=False)
        return self.headlines[spec.id]

    def check_forgetting(self, spec: Spec) -> None:
        """Pass, skip or fail the test of what one adapter does to the jobs of the others."""
        self.headline_of(spec)
        others = [cell for cell in self.cells if cell.adapter == spec.id and not cell.own]
        if not others:
            pytest.skip(f"{spec.id}: no other spec of this run stands on its base")
        if hurt := [cell for cell in others if cell.state in ("fails", "not_comparable")]:
            pytest.fail(_sentences(hurt), pytrace=False)
        if unsure := [cell for cell in others if cell.state == "inconclusive"]:
            if "decided" in self.session.setting.required:
                pytest.fail(_sentences(unsure), pytrace=False)
            pytest.skip(f"inconclusive: {_sentences(unsure)}")
        if all(cell.state == "skipped" for cell in others):
            pytest.skip(_sentences(others))


def _sentences(cells: Sequence[Cell]) -> str:
    return "; ".join(f"the adapter of {cell.adapter} on {cell.asked}: {cell.reason}" for cell in cells)
