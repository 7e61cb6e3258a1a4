"""Tier-1 metrics against scikit-learn's, unparsable answers included."""

import re
from dataclasses import replace

import numpy
import pytest
from sklearn.metrics import accuracy_score, f1_score, recall_score

from prism.errors import MetricError
from prism.metrics import Metric, classification, mean, per_sample
from prism.rows import Example
from prism.tasks.financial_sentiment import LABELS, METRICS
from prism.verdicts import controls
from prism.verdicts.scoring import score
from tests.scored import answers, tiny_spec
from tests.scored import examples as made


def examples_and_answers(n, seed):
    random = numpy.random.default_rng(seed)
    truth = random.choice(LABELS, n)
    answers = numpy.where(random.random(n) < 0.6, truth, random.choice([*LABELS, "gibberish"], n))
    examples = [
        Example(str(i), ({"role": "user", "content": "?"},), str(label), str(i)) for i, label in enumerate(truth)
    ]
    return examples, answers.tolist()


def test_p_of_a_gain_where_lower_is_better(tmp_path):
    """Nothing gained is no evidence of a gain, whichever way is better."""
    examples, said = examples_and_answers(60, 0)
    broken = ["gibberish"] * 12 + said[12:]
    spec = tiny_spec(tmp_path)
    for before, after, least, most in ((said, said, 0.99, 1.0), (broken, said, 0.0, 0.06), (said, broken, 0.9, 1.0)):
        records = {r.metric: r for r in score(spec, METRICS, examples, "0" * 64, before, {42: after}, {})}
        assert least <= records["unparsable_rate"].gain.p <= most


@pytest.mark.parametrize("seed", range(5))
def test_equal_to_scikit_learn(seed):
    examples, answers = examples_and_answers(200, seed)
    truth = [example.reference for example in examples]
    expected = {
        "accuracy": accuracy_score(truth, answers),
        "weighted_f1": f1_score(truth, answers, labels=LABELS, average="weighted", zero_division=0),
        "macro_f1": f1_score(truth, answers, labels=LABELS, average="macro", zero_division=0),
        "unparsable_rate": answers.count("gibberish") / len(answers),
        "knowledge_gain": accuracy_score(truth, answers),
        "worst_class_recall": recall_score(truth, answers, labels=LABELS, average=None).min(),
    }
    found = {m.name: float(m.value(m.statistics(examples, answers).sum(0))) for m in METRICS}
    assert found == pytest.approx(expected, abs=1e-12)


def test_no_parsable_answer_scores_zero_and_counts():
    examples, _ = examples_and_answers(20, 0)
    found = {m.name: float(m.value(m.statistics(examples, ["?"] * 20).sum(0))) for m in METRICS}
    assert found["accuracy"] == found["macro_f1"] == 0
    assert found["unparsable_rate"] == 1


def test_values_of_many_sums_at_once():
    examples, answers = examples_and_answers(50, 1)
    for metric in METRICS:
        statistics = metric.statistics(examples, answers)
        both = numpy.stack([statistics.sum(0), statistics[:25].sum(0)])
        assert metric.value(both).tolist() == [metric.value(both[0]), metric.value(both[1])]


def test_worst_class_recall_is_that_of_the_label_that_accuracy_hides():
    examples, _ = examples_and_answers(100, 2)
    worst = next(metric for metric in METRICS if metric.name == "worst_class_recall")
    said = ["bullish" if example.reference == "bearish" else example.reference for example in examples]
    assert worst.value(worst.statistics(examples, said).sum(0)) == 0
    two_labels = [example for example in examples if example.reference != "bearish"]
    truth = [example.reference for example in two_labels]
    assert worst.value(worst.statistics(two_labels, truth).sum(0)) == 1, "a label without samples has no recall"
    assert worst.value(numpy.zeros_like(worst.statistics(examples, said)[0])) == 0


def stated(examples, favour):
    """Log-likelihoods of a base that always prefers `favour`, and knows something: the right label gains by 1."""
    return [{label: 5.0 * (label == favour) + (label == example.reference) for label in LABELS} for example in examples]


def test_an_untaught_model_is_asked_for_its_likeliest_label_with_and_without_its_preference():
    examples, _ = examples_and_answers(90, 3)
    found = controls.untaught(examples, examples, stated(examples, "neutral"))
    truth = [example.reference for example in examples]
    assert found["label_likelihood"] == ["neutral"] * 90
    assert found["prior_corrected"] == truth
    assert found["majority_class"] == [max(LABELS, key=truth.count)] * 90
    assert found.keys() == {*classification.UNTAUGHT}
    assert controls.untaught([], examples, stated(examples, "neutral")).keys() == {
        "label_likelihood",
        "prior_corrected",
    }


@pytest.mark.parametrize("hardest", classification.UNTAUGHT)
def test_knowledge_gain_is_held_against_the_best_of_what_needs_no_tuning(tmp_path, hardest):
    """A constant answer gained .05 and more over an untuned model that likes a rare label."""
    examples = made(60)
    right = [example.reference for example in examples]
    beside = {name: ["bearish"] * 60 for name in classification.UNTAUGHT} | {"classical": right}
    beside[hardest] = [*right[:30], *["?"] * 30]
    records = {r.metric: r for r in score(tiny_spec(tmp_path), METRICS, examples, "0" * 64, right, {42: right}, beside)}
    assert records["knowledge_gain"].against == hardest
    assert records["knowledge_gain"].baseline.value == records["accuracy"].controls[hardest].value == 0.5
    assert records["knowledge_gain"].gain.value == 0.5


def test_a_constant_answer_gains_no_knowledge(tmp_path):
    truth = ["bullish"] * 33 + ["bearish"] * 15 + ["neutral"] * 12
    examples = [replace(example, reference=label) for example, label in zip(made(60), truth)]
    beside = controls.untaught(examples, examples, stated(examples, "neutral")[:60])
    beside["prior_corrected"] = ["neutral"] * 60  # of a base that knows nothing
    constant = ["bullish"] * 60
    found = score(tiny_spec(tmp_path), METRICS, examples, "0" * 64, ["?"] * 60, {42: constant}, beside)
    gain = next(record for record in found if record.metric == "knowledge_gain")
    assert (gain.against, gain.gain.value) == ("majority_class", 0)


def test_without_any_control_there_is_no_knowledge_gain(tmp_path):
    found = score(tiny_spec(tmp_path), METRICS, made(12), "0" * 64, answers(12), {42: answers(12)}, {})
    assert "knowledge_gain" not in {record.metric for record in found}


def test_an_infinite_score_is_named_and_never_summed(tmp_path):
    spec = tiny_spec(tmp_path)
    broken = Metric("depth", "tier3", lambda examples, answers: numpy.full((len(examples), 2), numpy.inf), mean)
    with pytest.raises(MetricError, match=r"depth: gives sample 0+ \(baseline\) an infinite score; fix the metric"):
        score(spec, [broken], made(10), "ab" * 32, answers(10), {42: answers(10)}, {})


@pytest.mark.parametrize(
    ("score_of", "declared", "sentence"),
    [
        (37.5, {}, "statistics outside [0, 1]"),
        (0.5, {"sample": "right or wrong"}, "a score of 0.5, which is neither right (1) nor wrong (0)"),
        (-2.0, {"range": (-1.0, 1.0)}, "statistics outside [-1, 1]"),
        (2.0, {"bounds": (0.0, 9.0)}, "a score of 2, outside its range [0, 1]"),
    ],
)
def test_a_score_that_its_metric_declares_impossible_is_named(tmp_path, score_of, declared, sentence):
    """Its intervals and tests would be wrong, and a reference with it would be refused."""
    spec = tiny_spec(tmp_path)
    broken = per_sample("depth", "tier1", lambda example, answer: score_of, **declared)
    with pytest.raises(MetricError, match=r"depth: gives sample 0+ \(baseline\) " + re.escape(sentence)):
        score(spec, [broken], made(10), "ab" * 32, answers(10), {42: answers(10)}, {})
    wide = per_sample("depth", "tier1", lambda example, answer: 37.5, range=(0.0, 100.0))
    [found] = score(spec, [wide], made(10), "ab" * 32, answers(10), {42: answers(10)}, {})
    assert found.tuned.value == 37.5
