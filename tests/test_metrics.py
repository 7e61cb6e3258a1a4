"""Tier-1 metrics against scikit-learn's, unparsable answers included."""

import numpy
import pytest
from sklearn.metrics import accuracy_score, f1_score

from prism.errors import MetricError
from prism.metrics import Metric, mean
from prism.rows import Example
from prism.tasks.financial_sentiment import LABELS, METRICS
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


def test_an_infinite_score_is_named_and_never_summed(tmp_path):
    spec = tiny_spec(tmp_path)
    broken = Metric("depth", "tier3", lambda examples, answers: numpy.full((len(examples), 2), numpy.inf), mean)
    with pytest.raises(MetricError, match=r"depth: gives sample 0+ \(baseline\) an infinite score; fix the metric"):
        score(spec, [broken], made(10), "ab" * 32, answers(10), {42: answers(10)}, {})
