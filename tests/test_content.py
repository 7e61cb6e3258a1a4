"""What answers that know nothing score on the bundled rows: a parrot, a constant, a list of terms, a quotation, a figure.

The gold answers stand beside them, so that a metric that gives nothing to anybody does not pass.
"""

import itertools
import random
import re
from collections import Counter

import numpy
import pytest

from prism.metrics import coverage, finance
from prism.rows import filings
from prism.spec import load_spec
from prism.tasks import financial_sentiment, medical_chat
from prism.verdicts.controls import most_frequent
from prism.verdicts.scoring import score
from tests.conftest import ROOT, examples_of


def nano(phase):
    spec = load_spec(ROOT / "benchmarks" / "specs" / phase / "nano.toml")
    return spec, *examples_of(spec, ROOT)


def scored(metrics, name, examples, answers):
    metric = next(metric for metric in metrics if metric.name == name)
    rows = metric.statistics(examples, answers)
    return float(metric.value(rows[~numpy.isnan(rows).any(1)].sum(0)))


# phase 2: a question answered in one sentence


@pytest.fixture(scope="module")
def cards():
    return nano("phase2")


@pytest.fixture(scope="module")
def know_nothing(cards):
    _, training, held_out = cards
    lexicon = coverage.load_lexicon(medical_chat.LEXICON)
    asked = Counter(term for example in training for term in coverage.asked_for(lexicon, example))
    terms = [term for term, _ in asked.most_common(14)]
    words = Counter(word for example in training for word in example.reference.lower().split())

    def repeated(question):
        return " ".join(itertools.islice(itertools.cycle(question.split()), 40))

    answers = {
        "the question, to 40 words": [repeated(example.question) for example in held_out],
        "the 14 most common terms": [" ".join(terms)] * len(held_out),
        "the 4 most common terms": [" ".join(terms[:4])] * len(held_out),
        "the 20 most common words": [" ".join(word for word, _ in words.most_common(20))] * len(held_out),
    }
    for place in range(0, 200, 20):
        answers[f"training answer {place}"] = [training[place].reference] * len(held_out)
    return answers


def test_what_knows_nothing_of_a_card_has_no_content_and_hardly_names_its_terms(cards, know_nothing):
    _, _, held_out = cards
    gold = [example.reference for example in held_out]
    assert 0.83 < scored(medical_chat.METRICS, "content_gain", held_out, gold) < 0.91
    assert scored(medical_chat.METRICS, "keyword_coverage", held_out, gold) == 1
    for name, answers in know_nothing.items():
        assert abs(scored(medical_chat.METRICS, "content_gain", held_out, answers)) < 0.003, name
        assert scored(medical_chat.METRICS, "keyword_coverage", held_out, answers) < 0.06, name
    parrot = know_nothing["the question, to 40 words"]
    assert scored(medical_chat.METRICS, "content_gain", held_out, parrot) == 0
    assert scored(medical_chat.METRICS, "keyword_coverage", held_out, parrot) < 0.01


def test_half_an_answer_has_content_and_terms(cards):
    """Honest short answers are not what the metrics punish."""
    _, _, held_out = cards
    half = [" ".join(example.reference.split()[: len(example.reference.split()) // 2]) for example in held_out]
    assert scored(medical_chat.METRICS, "content_gain", held_out, half) > 0.5
    assert scored(medical_chat.METRICS, "keyword_coverage", held_out, half) > 0.5


# phase 3: a question about a filing


@pytest.fixture(scope="module")
def filed():
    return nano("phase3")[-1]


def lines(example):
    """The rows and sentences of a filing, without its table's head."""
    report = example.facts["context"]
    rows = [line.strip("| ") for line in report.split("\n") if line.startswith("| ") and not line.startswith("| $")]
    told = [part for line in report.split("\n") if not line.startswith("|") for part in line.split(". ")]
    return rows + told


def figure(text):
    return next(iter(re.findall(r"\d[\d,.]*\d|\d", text)), "none")


def quoted(text):
    return f'{figure(text)}\n"{text}"'


UNASKED = {
    "the first row with its figure": lambda example: quoted(lines(example)[0]),
    "any row or sentence with its figure": lambda example: quoted(random.Random(example.id).choice(lines(example))),
    "the longest one with its figure": lambda example: quoted(max(lines(example), key=len)),
    "the whole filing": lambda example: quoted(" ".join(example.facts["context"].split())),
    "not stated": lambda example: "not stated",
    "the question": lambda example: example.question,
    "1": lambda example: "1",
}


@pytest.mark.parametrize("name", UNASKED)
def test_a_quotation_or_a_figure_chosen_without_the_question_earns_little(filed, name):
    answers = [UNASKED[name](example) for example in filed]
    assert scored(finance.TIER2, "evidence_overlap", filed, answers) < 0.35
    assert scored(finance.TIER2, "number_grounding", filed, answers) < 0.25


def test_the_gold_answer_has_all_evidence_and_a_right_row_with_the_wrong_figure_has_grounded_numbers(filed):
    gold = [example.reference for example in filed]
    assert scored(finance.TIER2, "evidence_overlap", filed, gold) == 1
    assert scored(finance.TIER2, "number_grounding", filed, gold) == 1
    asked = [e for e in filed if e.facts["type"] == "arithmetic"]
    operand = [
        f'{figure(row)}\n"{row}"'
        for e in asked
        for row in [filings.evidence(e.facts["context"], e.question, e.facts["needed"])]
    ]
    assert scored(finance.TIER1, "exact_match", asked, operand) < 0.1
    assert scored(finance.TIER2, "number_grounding", asked, operand) == 1


# phase 1: a label


def test_a_constant_label_gains_no_knowledge_and_has_no_worst_class_recall():
    spec, training, held_out = nano("phase1")
    majority = most_frequent(training, held_out)
    rare = ["bearish"] * len(held_out)
    beside = {"label_likelihood": rare, "prior_corrected": rare, "majority_class": majority}
    found = score(spec, financial_sentiment.METRICS, held_out, "0" * 64, ["?"] * len(rare), {42: majority}, beside)
    records = {record.metric: record for record in found}
    assert records["accuracy"].tuned.value - records["accuracy"].controls["label_likelihood"].value > 0.1
    assert records["knowledge_gain"].against == "majority_class"
    assert records["knowledge_gain"].gain.value == 0
    assert records["worst_class_recall"].tuned.value == 0
