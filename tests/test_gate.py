"""Every key of a threshold, at its border."""

import pytest

from prism.gate import decide, judge
from prism.record import Record, Score
from prism.spec import Limit, load_spec
from tests.conftest import SPEC, write_spec


def record(tuned=0.8, gain=0.1, ci=(0.05, 0.15), direction="higher", n=400, digest="abcdef0123456789"):
    return Record(
        phase="phase1",
        spec="tiny",
        profile="nano",
        data="rows",
        evaluation_digest=digest,
        tier="tier1",
        metric="accuracy",
        direction=direction,
        n=n,
        groups=n,
        unscored=400 - n,
        seeds={"42": tuned},
        baseline=Score(tuned - gain, (0, 1)),
        tuned=Score(tuned, (0, 1)),
        gain=Score(gain, ci, 0.001),
    )


CASES = {
    "floor reached": ("floor", 0.8, {}, "holds"),
    "floor missed": ("floor", 0.8001, {}, "fails"),
    "ceiling kept": ("ceiling", 0.8, {}, "holds"),
    "ceiling passed": ("ceiling", 0.7999, {}, "fails"),
    "gain reached": ("gain", 0.1, {}, "holds"),
    "gain missed": ("gain", 0.11, {}, "fails"),
    "gain that may be chance": ("gain", 0.1, {"ci": (-0.01, 0.21)}, "inconclusive"),
    "interval that ends at 0": ("gain", 0.1, {"ci": (0.0, 0.2)}, "inconclusive"),
    "fall where lower is better": ("gain", 0.1, {"gain": -0.1, "ci": (-0.15, -0.05), "direction": "lower"}, "holds"),
    "rise where lower is better": ("gain", 0.0, {"gain": 0.1, "direction": "lower"}, "fails"),
    "nothing scored": ("floor", 0.0, {"n": 0}, "fails"),
    "drop without reference": ("drop", 0.01, {}, "skipped"),
}


@pytest.mark.parametrize(("key", "value", "given", "state"), CASES.values(), ids=CASES)
def test_decide(key, value, given, state):
    verdict = decide(Limit(tier="tier1", metric="accuracy", key=key, value=value), record(**given))
    assert verdict.state == state
    assert verdict.reason


def test_thresholds_measured_on_other_rows_are_skipped_never_applied(tmp_path):
    text = SPEC.format(data="rows.jsonl", model="fixtures/models/nano-text")
    spec = load_spec(write_spec(tmp_path, text.replace("[data]", '[data]\nmeasured_on = "abcdef01"')))
    assert [verdict.state for verdict in judge(spec, record()).verdicts] == ["holds", "fails"]
    other = judge(spec, record(digest="99999999"))
    assert [verdict.state for verdict in other.verdicts] == ["skipped", "skipped"]
    assert "measured on other rows" in other.verdicts[0].reason
