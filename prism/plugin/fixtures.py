"""The pytest fixtures of the benchmarks: baseline first, fine-tune second, measure everything third.

Each fixture calls one stage of `prism.experiment.Experiment`, which runs once per spec and only if a test needs it.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from prism.experiment import Experiment
from prism.plugin.checks import Checks
from prism.plugin.session import Session
from prism.rows.remembered import Examples
from prism.spec import Spec


@pytest.fixture(scope="session")
def session(request: pytest.FixtureRequest) -> Session:
    """The state of this pytest run: options, specs, results."""
    return request.config.stash[Session.key]


@pytest.fixture(scope="session")
def experiment(spec: Spec, session: Session) -> Iterator[Experiment]:
    """One spec's experiment; its base model is freed when the next spec begins, unless that has the same."""
    found = session.experiment(spec)
    yield found
    found.base.free()


@pytest.fixture(scope="session")
def examples(experiment: Experiment) -> Examples:
    """Training and held-out examples, and what leaks between them."""
    return experiment.examples


@pytest.fixture(scope="session")
def baseline(experiment: Experiment, examples: Examples) -> Path:
    """The untuned model's answers."""
    return experiment.baseline


@pytest.fixture(scope="session")
def adapter(experiment: Experiment, baseline: Path) -> dict[int, Path]:
    """The adapter of each seed: trained, or the finished one that the spec names."""
    return experiment.adapters


@pytest.fixture(scope="session")
def tuned(experiment: Experiment, adapter: dict[int, Path]) -> dict[int, Path]:
    """The tuned model's answers, by training seed."""
    return experiment.tuned


@pytest.fixture(scope="session")
def run(experiment: Experiment, baseline: Path, tuned: dict[int, Path], session: Session) -> Checks:
    """Measure everything, decide every threshold, and save both for the report."""
    outcome = experiment.outcome
    session.results.save(outcome)
    return Checks(outcome, session)
