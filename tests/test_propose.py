"""Thresholds out of seeds: every number can be worked out by hand, and a spec takes the TOML."""

import statistics
import tomllib
from dataclasses import asdict

import numpy
import pytest
from scipy.stats import t

from prism.propose import propose
from prism.score import score
from prism.spec import load_spec
from tests.conftest import SPEC, write_spec
from tests.scored import EVALUATION, answers, examples, scored, tiny_spec


@pytest.fixture(scope="module")
def measured(tmp_path_factory):
    """Five seeds of 300 samples, accuracy .8 to .84, and what is proposed from them."""
    spec = tiny_spec(tmp_path_factory.mktemp("spec"))
    random = numpy.random.default_rng(0)
    said = {42 + i: answers(300, wrong=set(random.permutation(300)[: 48 + 3 * i].tolist())) for i in range(5)}
    records = [
        asdict(record) for record in score(spec, examples(300), EVALUATION, answers(300, silent=range(300)), said, {})
    ]
    text = propose(spec, records, scored(spec, said), other_drops=4)
    return records, text, tomllib.loads(text)["gate"]["tier1"]


def test_a_floor_is_what_the_next_seed_reaches(measured):
    _, text, gate = measured
    values = [0.84, 0.83, 0.82, 0.81, 0.8]
    low, _ = t.interval(0.98, 4, statistics.mean(values), statistics.stdev(values) * (1 + 1 / 5) ** 0.5)
    assert low - 0.001 < gate["accuracy"]["floor"] <= low
    assert "# accuracy floor: mean .820, sd .016 of 5 seeds; 99 of 100 next seeds reach .755" in text


def test_a_gain_lies_at_or_below_the_end_of_its_interval(measured):
    records, _, gate = measured
    accuracy = next(record for record in records if record["metric"] == "accuracy")
    assert 0.7 < gate["accuracy"]["gain"] <= accuracy["gain"]["ci"][0]
    assert "knowledge_gain" not in gate, "there was no control to hold it against"


def test_a_rate_that_never_moved_gets_the_end_of_its_binomial_interval(measured):
    _, _, gate = measured
    assert gate["unparsable_rate"] == {"ceiling": pytest.approx(0.013)}  # 3.84 / (300 + 3.84), rounded up


def test_one_drop_a_tier_that_five_of_the_profile_share(measured):
    _, text, gate = measured
    assert [metric for metric, numbers in gate.items() if "drop" in numbers] == ["accuracy"]
    assert "(p ≤ .05/5, 300 samples)" in text
    assert 0.05 < gate["accuracy"]["drop"] < 0.2


def test_what_is_proposed_is_a_good_spec(measured, tmp_path):
    bare = SPEC.partition("[gate.tier1]")[0].format(data="rows.jsonl", model="fixtures/models/nano-text")
    limits = load_spec(write_spec(tmp_path, bare + measured[1])).limits()
    assert {limit.id for limit in limits} >= {"tier1-accuracy-drop", "tier1-macro_f1-floor"}
