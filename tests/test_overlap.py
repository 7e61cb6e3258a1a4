"""ROUGE against the package itself, references swapped between groups, and what content gain leaves of an answer."""

from collections import Counter

import numpy
import pytest
from rouge_score.rouge_scorer import RougeScorer

from prism.metrics.overlap import METRICS, rouge, rouge_l, shuffle_references, stems, strangers, unread
from prism.rows import Example

TEXT = """the a of in is and blood cell cells pressure heart hearts artery arteries running ran runs inflammation
inflamed disease diseases type-2 Crohn's 5-HT naïve β-blocker 12.5 mg, (see) tissue. which that it its"""
WORDS = TEXT.split()


def texts(n, seed, words=60):
    random = numpy.random.default_rng(seed)
    return [" ".join(random.choice(WORDS, random.integers(0, words))) for _ in range(n)]


def examples(references, groups=None):
    names = groups or [str(i) for i in range(len(references))]
    question = ({"role": "user", "content": "?"},)
    return [Example(str(i), question, text, group) for i, (text, group) in enumerate(zip(references, names))]


def value(metric, rows):
    return float(metric.value(numpy.nan_to_num(rows).sum(0)))


METRIC = {metric.name: metric for metric in METRICS}


def test_equal_to_rouge_score_to_the_last_digit():
    scorer = RougeScorer(["rouge1", "rouge2", "rougeL"], use_stemmer=True)
    awkward = ["", " ", "...", "word", "Word!", "the the the", "心筋梗塞", "a\nb\tc", "__x__", "ＡＢＣ", "İ", "1 2 3"]
    pairs = list(zip(texts(400, 1), texts(400, 2)))
    pairs += [(first, second) for first in awkward for second in [*awkward, *texts(3, 3)]]
    for reference, answer in pairs:
        theirs = scorer.score(reference, answer)
        assert rouge(reference, answer) == {name: theirs[name].fmeasure for name in theirs}


def test_metrics_average_the_scores():
    references, answers = texts(50, 4, words=20), texts(50, 5, words=20)
    scorer = RougeScorer(["rouge1", "rouge2", "rougeL"], use_stemmer=True)
    kept = [(r, a) for r, a in zip(references, answers) if r]
    for name in ("rouge1", "rouge2", "rougeL"):
        expected = numpy.mean([scorer.score(r, a)[name].fmeasure for r, a in kept])
        rows = METRIC[name].statistics(examples(references), answers)
        assert value(METRIC[name], rows) == pytest.approx(expected, abs=1e-12)


@pytest.mark.parametrize("metric", METRICS, ids=lambda metric: metric.name)
def test_an_empty_reference_is_unscored_and_an_empty_answer_is_zero(metric):
    rows = metric.statistics(examples(["", "...", "heart", "lung"]), ["heart", "heart", "", " \n"])
    assert numpy.isnan(rows).any(1).tolist() == [True, True, False, False]
    assert numpy.isnan(metric.value(rows)).tolist() == [True, True, False, False]
    assert value(metric, rows) == 0


@pytest.mark.parametrize("metric", METRICS, ids=lambda metric: metric.name)
def test_a_reference_in_a_script_that_rouge_drops_is_unscored(metric):
    references = ["骨头 7 长约 10 厘米。", "Кость 3 длинная", "COVID 是一种传染病", "β-blocker", "naïve café", "12.5"]
    rows = metric.statistics(examples(references), references)
    assert numpy.isnan(rows).any(1).tolist() == [True, True, True, False, False, False]
    assert unread(examples(references)) == 3


def test_a_very_long_answer_is_scored():
    reference, answer = "heart " * 60, "the heart " * 10_000  # 100,000 characters
    assert rouge(reference, answer)["rougeL"] == pytest.approx(2 * 60 / 20_060)


@pytest.mark.parametrize("seed", range(20))
def test_no_row_meets_a_reference_of_its_own_group(seed):
    random = numpy.random.default_rng(seed)
    names = random.choice(list("abcdefgh"), 60, p=[0.3, *[0.1] * 7]).tolist()
    rows = examples([f"{name} {i}" for i, name in enumerate(names)], names)
    found = shuffle_references(rows)
    assert all(other.reference.split()[0] != row.group for row, other in zip(rows, found))
    assert Counter(row.reference for row in found) == Counter(row.reference for row in rows)
    assert [row.id for row in found] == [row.id for row in rows]


def test_the_pairing_does_not_depend_on_the_order_of_rows():
    rows = examples([f"reference {i}" for i in range(40)], [f"group {i // 3}" for i in range(40)])
    expected = {row.id: row.reference for row in shuffle_references(rows)}
    shuffled = [rows[i] for i in numpy.random.default_rng(0).permutation(40)]
    assert {row.id: row.reference for row in shuffle_references(shuffled)} == expected


def test_a_set_that_one_group_dominates_has_no_shuffled_references():
    rows = examples(["one", "two", "three"], ["a", "a", "b"])
    assert {row.reference for row in shuffle_references(rows)} == {""}
    assert shuffle_references([]) == []


def test_rows_left_out_neither_give_nor_get_a_reference():
    rows = examples(["one", "", "two", "three"])
    found = shuffle_references(rows, [True, False, True, True])
    assert found[1].reference == ""
    assert sorted(row.reference for row in found) == ["", "one", "three", "two"]


def asked(pairs, groups=None):
    """Examples of (question, reference)."""
    names = groups or [str(i) for i in range(len(pairs))]
    return [
        Example(str(i), ({"role": "user", "content": question},), reference, group)
        for i, ((question, reference), group) in enumerate(zip(pairs, names))
    ]


def content(rows, answers):
    found = METRIC["content_gain"].statistics(rows, answers)
    return float(METRIC["content_gain"].value(found[~numpy.isnan(found[:, 0])].sum(0)))


def test_rouge_l_of_words_is_rouge_score_s():
    scorer = RougeScorer(["rougeL"], use_stemmer=True)
    for reference, answer in [*zip(texts(300, 11), texts(300, 12)), ("", "heart"), ("heart", ""), ("", "")]:
        expected = scorer.score(reference, answer)["rougeL"].fmeasure
        assert rouge_l(stems(reference), stems(answer)) == pytest.approx(expected, abs=1e-12)


DISEASES = {"mumps": "glands", "measles": "skin", "gout": "joints", "asthma": "airways"}
ASKED = asked(
    [
        *(
            (f"What are the signs of {name}?", f"The signs of {name} are changes in the {part}")
            for name, part in DISEASES.items()
        ),
        *((f"Who treats {name}?", f"{name} is treated by a doctor for the {part}") for name, part in DISEASES.items()),
    ],
    [*DISEASES, *DISEASES],
)


def test_the_stranger_is_the_row_of_another_group_that_asks_most_alike_and_each_serves_once():
    found = strangers(ASKED)
    assert sorted(found) == list(range(8))
    assert all(ASKED[i].question.split()[0] == ASKED[other].question.split()[0] for i, other in enumerate(found))
    assert all(ASKED[i].group != ASKED[other].group for i, other in enumerate(found))


def test_strangers_do_not_depend_on_the_order_of_rows():
    expected = {ASKED[i].id: ASKED[other].id for i, other in enumerate(strangers(ASKED))}
    mixed = [ASKED[i] for i in numpy.random.default_rng(0).permutation(8)]
    assert {mixed[i].id: mixed[other].id for i, other in enumerate(strangers(mixed))} == expected


def test_what_knows_only_the_question_and_the_phrases_of_answers_has_no_content():
    """Of an adapter that learned the phrases ROUGE-L says .83; what is left is the one word that it does not know."""
    phrases = [row.reference.rsplit(" ", 1)[0] for row in ASKED]
    assert float(METRIC["rougeL"].statistics(ASKED, phrases)[:, 0].mean()) > 0.8
    assert content(ASKED, phrases) == pytest.approx(0)
    assert content(ASKED, [row.question for row in ASKED]) == 0
    assert content(ASKED, [" ".join([row.question] * 8) for row in ASKED]) == 0
    assert content(ASKED, [row.reference for row in ASKED]) > 0.2


def test_a_constant_answer_gains_nothing_whatever_it_says():
    rows = asked([(f"What is word{i}?", text) for i, text in enumerate(texts(200, 6)) if text])
    for constant in texts(50, 7):
        assert content(rows, [constant] * len(rows)) == pytest.approx(0, abs=0.002)


def test_a_reference_that_says_nothing_but_the_question_is_unscored():
    rows = asked(
        [("Is gout a disease?", "Gout is a disease."), ("What is mumps?", "A virus."), ("What is AIDS?", "Late HIV")]
    )
    found = METRIC["content_gain"].statistics(rows, ["Gout is a disease.", "", "Late HIV"])
    assert found[0].tolist() != found[0].tolist()
    assert found[1:].tolist() == [[0, 1], [1, 1]]


def test_where_one_group_has_most_rows_its_strangers_serve_again_and_one_group_alone_is_unscored():
    rows = asked([(f"q{i}", text) for i, text in enumerate(["one", "two", "three", "four"])], ["a", "a", "a", "b"])
    assert strangers(rows)[:3] == [3, 3, 3]
    assert strangers(rows[:3]) == [-1, -1, -1]
    assert numpy.isnan(METRIC["content_gain"].statistics(rows[:3], ["one", "two", "three"])).all()
    assert strangers([]) == []


def test_values_of_many_sums_at_once():
    for metric in METRICS:
        sums = metric.statistics(examples(["heart a", "lung b", "liver c"]), ["heart", "lung b", "c"]).cumsum(0)
        assert metric.value(sums).tolist() == [metric.value(row) for row in sums]
