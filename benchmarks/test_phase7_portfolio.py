"""Phase 7: what have all phases achieved, and has any adapter paid for it with another job?

Every spec of the profile that has a gate is gathered (what the store holds costs nothing, what is missing is run), and each
adapter is asked the questions of the others. The page is reports/latest/portfolio.md and portfolio.html.
"""

import pytest

from prism.plugin.portfolio import Portfolio, gated
from prism.plugin.session import Session

pytestmark = pytest.mark.phase7

LIMIT = (
    0.10  # of its metric, the loss against the base that no adapter may cause another job: 100 questions show no less
)


def pytest_generate_tests(metafunc):
    if "achieved" in metafunc.fixturenames:
        specs = gated(metafunc.config.stash[Session.key])
        metafunc.parametrize("achieved", specs, ids=lambda spec: spec.id.replace("/", "-"))


@pytest.fixture(scope="session")
def portfolio(session):
    return Portfolio(session, LIMIT)


def test_all_records_belong_to_one_code_revision(portfolio):
    print(*(f"{name}: {tree[:8]}" for name, tree in portfolio.trees.items()), sep="\n")
    assert len(set(portfolio.trees.values())) == 1, "the code changed while the run lasted; run again"


def test_the_adapter_beats_its_baseline(achieved, portfolio):
    found = portfolio.headline_of(achieved)
    print(f"{found.record.metric}: gain {found.record.gain}")
    assert found.beats_baseline


def test_the_adapter_beats_answers_that_know_nothing(achieved, portfolio):
    found = portfolio.headline_of(achieved)
    print(f"{found.record.metric}: {found.record.tuned.value:.3f}, {found.contender}: {found.reached:.3f}")
    assert found.beats_contenders, f"pass the gate: {found.passing}"


def test_the_adapter_has_hurt_no_other_job(achieved, portfolio):
    portfolio.check_forgetting(achieved)
