"""Thresholds out of seeds: every number can be worked out by hand, and a spec takes the TOML."""

import statistics
import tomllib

import numpy
import pytest
from scipy.stats import t

from prism.report.proposals import propose
from prism.tasks import load_task, metrics_of
from prism.tasks.check import load_checked_spec
from prism.verdicts.scoring import score
from tests.conftest import ROOT, SPEC, write_spec
from tests.scored import EVALUATION, answers, examples, scored, tiny_spec


def proposed(spec, said, n, before=None):
    """What is proposed for these answers; the baseline says nothing, unless `before` has its answers."""
    metrics = load_task(spec).metrics
    records = score(spec, metrics, examples(n), EVALUATION, before or answers(n, silent=range(n)), said, {})
    scores = scored(spec, said)
    return records, propose(spec, records, scores, metrics_of(scores, ROOT), other_drops=4)


@pytest.fixture(scope="module")
def measured(tmp_path_factory):
    """Five seeds of 300 samples, accuracy .8 to .84, and what is proposed from them."""
    spec = tiny_spec(tmp_path_factory.mktemp("spec"))
    random = numpy.random.default_rng(0)
    said = {42 + i: answers(300, wrong=set(random.permutation(300)[: 48 + 3 * i].tolist())) for i in range(5)}
    records, text = proposed(spec, said, 300)
    return records, text, tomllib.loads(text)["gate"]["tier1"]


def test_a_floor_is_what_the_next_seed_reaches(measured):
    _, text, gate = measured
    values = [0.84, 0.83, 0.82, 0.81, 0.8]
    low, _ = t.interval(0.98, 4, statistics.mean(values), statistics.stdev(values) * (1 + 1 / 5) ** 0.5)
    assert low - 0.001 < gate["accuracy"]["floor"] <= low
    assert "# accuracy floor: mean .820, sd .016 of 5 seeds; 99 of 100 next seeds reach .755" in text


def test_a_gain_lies_at_or_below_the_end_of_its_interval(measured):
    records, _, gate = measured
    accuracy = next(record for record in records if record.metric == "accuracy")
    assert 0.7 < gate["accuracy"]["gain"] <= accuracy.gain.ci[0]
    assert "knowledge_gain" not in gate, "there was no control to hold it against"


def test_a_rate_that_never_moved_gets_the_end_of_its_binomial_interval(measured):
    _, _, gate = measured
    assert gate["unparsable_rate"] == {"ceiling": pytest.approx(0.013)}  # 3.84 / (300 + 3.84), rounded up


def test_one_drop_a_tier_that_five_of_the_profile_share(measured):
    _, text, gate = measured
    assert [metric for metric, numbers in gate.items() if "drop" in numbers] == ["accuracy"]
    assert "(p ≤ .05/5, 300 samples)" in text
    assert 0.05 < gate["accuracy"]["drop"] < 0.3, "the one new seed's spread is assumed to be twice that of the others"


def test_what_is_proposed_is_a_good_spec(measured, tmp_path):
    bare = SPEC.partition("[gate.tier1]")[0].format(data="rows.jsonl", model="fixtures/models/nano-text")
    limits = load_checked_spec(write_spec(tmp_path, bare + measured[1])).limits()
    assert {limit.id for limit in limits} >= {"tier1-accuracy-drop", "tier1-macro_f1-floor"}


def test_rows_that_see_only_a_loss_as_large_as_the_gain_carry_no_drop(tmp_path):
    said = {42 + i: answers(90, wrong=range(36 + i % 2)) for i in range(6)}
    _, text = proposed(tiny_spec(tmp_path), said, 90, before=answers(90, wrong=range(45)))
    assert "drop" not in tomllib.loads(text)["gate"]["tier1"].get("accuracy", {})
    assert "# accuracy drop: these rows are too few for one: one seed against 5 shows losses from " in text
    assert "and the whole gain is +" in text


def test_rows_that_see_no_loss_within_the_metrics_range_carry_no_drop(tmp_path):
    said = {42 + i: answers(12, wrong=range(9 - i)) for i in range(3)}
    _, text = proposed(tiny_spec(tmp_path), said, 12)
    assert "drop" not in tomllib.loads(text)["gate"]["tier1"].get("accuracy", {})
    assert "# accuracy drop: no loss can be distinguished from chance" in text


def test_a_finished_adapter_is_one_measurement_and_gets_its_own_intervals(tmp_path):
    records, text = proposed(tiny_spec(tmp_path), {42: answers(300, wrong=range(60))}, 300)
    gate = tomllib.loads(text)["gate"]["tier1"]
    accuracy = next(record for record in records if record.metric == "accuracy")
    assert accuracy.tuned.ci[0] - 0.001 < gate["accuracy"]["floor"] <= accuracy.tuned.ci[0]
    assert accuracy.gain.ci[0] - 0.001 < gate["accuracy"]["gain"] <= accuracy.gain.ci[0]
    assert "the loss that this adapter against itself shows with 80 % power" in text
    assert text.startswith("# phase1/tiny: one adapter. In [data]: measured_on = ")
