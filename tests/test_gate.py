"""Every key of a threshold, at its border."""

import math
from dataclasses import replace

import pytest

from prism.metrics import Metric, mean
from prism.spec import Limit, find_specs, load_spec
from prism.tasks import load_task
from prism.verdicts.compare import Comparison
from prism.verdicts.drops import Against
from prism.verdicts.gate import decide, decide_all
from prism.verdicts.intervals import Error, Estimate
from prism.verdicts.margins import SignFlips, Student
from prism.verdicts.record import Record, Score
from prism.verdicts.scores import evaluation_digest
from tests.conftest import ROOT, SPEC, examples_of, write_spec

UNKNOWN = {"ci": (math.nan, math.nan), "rule": "unknown: 6 effective groups"}


def record(tuned=0.8, gain=0.1, ci=(0.05, 0.15), direction="higher", n=400, digest="abcdef0123456789", rule="Tango"):
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
        gain=Score(gain, ci, 0.001, rule),
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
    "drop without an accepted run": ("drop", 0.01, {}, "skipped"),
    "floor under what is no number": ("floor", 0.0, {"tuned": math.nan}, "fails"),
    "ceiling over what is no number": ("ceiling", 1.0, {"tuned": math.nan}, "fails"),
    "gain that is no number": ("gain", 0.0, {"gain": math.nan, "ci": (math.nan, math.nan)}, "fails"),
    "gain without an interval": ("gain", 0.1, {"ci": (math.nan, math.nan), "rule": ""}, "fails"),
    "gain whose interval is unknown": ("gain", 0.1, UNKNOWN, "inconclusive"),
    "gain missed, whose interval is unknown": ("gain", 0.11, UNKNOWN, "fails"),
    "floor reached, with unknown intervals": ("floor", 0.8, UNKNOWN, "holds"),
}


@pytest.mark.parametrize(("key", "value", "given", "state"), CASES.values(), ids=CASES)
def test_decide(key, value, given, state):
    verdict = decide(Limit(tier="tier1", metric="accuracy", key=key, value=value), record(**given))
    assert verdict.state == state
    assert verdict.reason


def test_an_unknown_interval_says_why_and_what_to_do():
    verdict = decide(Limit(tier="tier1", metric="accuracy", key="gain", value=0.1), record(**UNKNOWN))
    assert verdict.reason == (
        "gain +0.1000 ≥ +0.1, but its 95 % interval unknown: 6 effective groups: hold out rows of more groups"
    )


@pytest.mark.parametrize(("unscored", "state"), [(21, "holds"), (22, "inconclusive"), (400, "fails")])
def test_a_judge_that_graded_too_few_decides_nothing(unscored, state):
    judged = replace(record(n=400 - (400 if unscored == 400 else 0)), tier="tier3", unscored=unscored)
    assert decide(Limit(tier="tier3", metric="accuracy", key="floor", value=0.5), judged).state == state


def test_a_cost_that_this_machine_does_not_tell_is_skipped():
    unknown = replace(record(tuned=math.nan, n=0), tier="cost", metric="utilization")
    verdict = decide(Limit(tier="cost", metric="utilization", key="floor", value=0.1), unknown)
    assert verdict.state == "skipped"
    assert "utilization is not known here" in verdict.reason


def against(loss=0.02, alpha=0.05, test=None, same=False, **given):
    """A comparison of accuracy that found this loss, with a standard error of .005."""
    known = Estimate(loss, loss - 0.01, loss + 0.01, 0.01, 0.005, Error(0.005**2))
    test = test or Student(loss, Error(0.005**2), groups=400, changed=400, span=1.0)
    metric = Metric("accuracy", "tier1", lambda *_: None, mean)
    sides = (400, (1, 1), 0.8, 0.8 - loss, known, 0.9, alpha, (), ())
    found = Comparison(metric, "these adapters differ", *sides, test, room=0.8, same=same)
    return Against(**({"comparisons": {"accuracy": found}} | given))


LOST = {"loss": 1.0, "test": SignFlips(1.0, (0.0, 0.0), (1.0, 1.0))}
DROPS = {
    "no loss": ({"loss": -0.1}, "holds", "-0.1000 is shown not to exceed 0.01, p = 1.4e-107 ≤ 0.05"),
    "loss of exactly the limit": ({"loss": 0.01}, "inconclusive", "neither shown to exceed 0.01, p = 0.5 > 0.05"),
    "loss just shown": ({"loss": 0.0183}, "fails", "+0.0183 is shown to exceed 0.01, p = 0.048 ≤ 0.05"),
    "loss just not shown": ({"loss": 0.0182}, "inconclusive", "p = 0.051 > 0.05, nor shown not to, p = 0.95 > 0.05"),
    "loss just shown to lie within": ({"loss": 0.0017}, "holds", "shown not to exceed 0.01, p = 0.048 ≤ 0.05"),
    "five thresholds share the level": ({"alpha": 0.05 / 5}, "inconclusive", "p = 0.023 > 0.01, nor"),
    "which test it was": ({}, "fails", "(t over 400.0 effective groups)"),
    "everything lost over two groups": (LOST, "inconclusive", "the smallest p that these samples allow is 0.25 > 0.05"),
    "one group": (
        {"loss": 1.0, "test": SignFlips(1.0, (0.0,), (1.0,))},
        "inconclusive",
        "the smallest p that these samples allow is 0.5 > 0.05 (sign flips of 1 group); hold out rows of more groups; n is",
    ),
    "eight thresholds, everything lost over eight groups": (
        {"loss": 1.0, "alpha": 0.05 / 8, "test": SignFlips(1.0, (0.0,) * 8, (1.0,) * 8)},
        "fails",
        "is shown to exceed 0.01, p = 0.0039 ≤ 0.0063",
    ),
    "a cached rerun": ({"loss": 0.0, "same": True}, "holds", "the same adapters, and the same score of every sample"),
    "loss that is no number": ({"loss": math.nan}, "fails", "is not a number"),
    "damaged file": ({"fault": "x.json: was edited by hand"}, "fails", "was edited by hand"),
    "metric that the accepted run lacks": (
        {"comparisons": {}, "without": {"accuracy": "the accepted run has no accuracy"}},
        "not_comparable",
        "the accepted run has no accuracy",
    ),
}


@pytest.mark.parametrize(("given", "state", "reason"), DROPS.values(), ids=DROPS)
def test_drop(given, state, reason):
    limit = Limit(tier="tier1", metric="accuracy", key="drop", value=0.01)
    verdict = decide(limit, record(), against(**given))
    assert verdict.state == state
    assert reason in verdict.reason


def test_drop_says_what_it_would_have_caught():
    limit = Limit(tier="tier1", metric="accuracy", key="drop", value=0.0)
    verdict = decide(limit, record(), against())
    assert verdict.detectable == pytest.approx((1.645 + 0.842) * 0.005, rel=0.01)
    verdict = decide(limit.model_copy(update={"value": 0.05}), record(), against())
    assert verdict.detectable == pytest.approx(0.05 + (1.645 + 0.842) * 0.005, rel=0.01)


def test_a_loss_above_the_metrics_range_is_not_said_to_be_caught():
    limit = Limit(tier="tier1", metric="accuracy", key="drop", value=0.79)
    verdict = decide(limit, record(), against(loss=0.0))
    assert verdict.detectable == math.inf, "accuracy .8 has no more than .8 to lose"
    assert "n is too small to see any loss" in verdict.reason


def test_thresholds_measured_with_another_evaluation_are_skipped_never_applied(tmp_path):
    text = SPEC.format(data="rows.jsonl", model="fixtures/models/nano-text")
    spec = load_spec(write_spec(tmp_path, text.replace("[data]", '[data]\nmeasured_on = "abcdef01"')))
    rate = {"tier": "tier1", "metric": "unparsable_rate", "direction": "lower"}
    own, _ = decide_all(spec, [record(), replace(record(), **rate)])
    assert [verdict.state for verdict in own.verdicts] == ["holds", "fails"]
    other, _ = decide_all(spec, [record(digest="99999999"), replace(record(digest="99999999"), **rate)])
    assert [verdict.state for verdict in other.verdicts] == ["skipped", "skipped"]
    assert other.verdicts[0].reason == (
        "measured with another evaluation (rows, prompts, reading, metrics or [generate]): [data].measured_on = abcdef01, "
        "now 99999999; measure it again"
    )


MEASURED = [
    spec
    for path in find_specs(ROOT / "benchmarks" / "specs")
    if (spec := load_spec(path)).data.measured_on and (ROOT / spec.data.path).exists()
]


@pytest.mark.parametrize("measured", MEASURED, ids=[spec.id for spec in MEASURED])
def test_thresholds_of_bundled_rows_are_those_of_their_evaluation_now(tmp_path, measured):
    """No model is needed: the digest holds samples, prompts, readings and metrics, not answers.

    If it differs, the gate skips every threshold of the spec: measure it again (`prism thresholds`), and accept it.
    """
    task = load_task(measured)
    assert not measured.semantic, "its metric would be part of the evaluation"
    _, held_out = examples_of(measured, ROOT, pictures=tmp_path)
    now = evaluation_digest(measured, task.version, held_out, task.metrics)
    assert now.startswith(measured.data.measured_on)
