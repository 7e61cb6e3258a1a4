"""ANLS, case by case and against its definition written out. No model."""

import random
from functools import cache

import pytest

from prism.metrics import anls
from prism.metrics.anls import accepted, anls_score, levenshtein
from prism.rows import Example


def sample(*answers, reference=""):
    return Example("a", (), reference, "g", facts={"answers": list(answers)} if answers else {})


DISTANCES = {
    ("", ""): 0,
    ("", "abc"): 3,
    ("abc", ""): 3,
    ("abc", "abc"): 0,
    ("kitten", "sitting"): 3,
    ("saturday", "sunday"): 3,
    ("ab", "ba"): 2,  # a transposition is two
    ("abc", "c"): 2,
    ("flaw", "lawn"): 2,
    ("9.00", "8.00"): 1,
    ("caf\u00e9", "cafe\u0301"): 2,
    ("\U0001f600", "x"): 1,  # code points, not bytes
}


@pytest.mark.parametrize(("texts", "distance"), DISTANCES.items())
def test_levenshtein(texts, distance):
    assert levenshtein(*texts) == distance


SCORES = [
    ("9.00", "9.00", 1),
    ("9.00", "8.00", 0.75),  # another total
    ("25/12/2018", "25-12-2018", 0.8),
    ("25/12/2018", "25/12/2017", 0.9),
    ("Total", "TOTAL", 1),  # without case
    (" total ", "total", 1),
    ("net  total", "net\ttotal\n", 1),  # spaces collapse in the distance
    ("x", "y", 0),
    ("x", "   y   ", 1 - 1 / 7),  # by the raw length
    ("x", "   y", 0.75),
    ("x", " y", 0.5),
    ("   x   ", "y", 1 - 1 / 7),
    ("ab", "ax", 0.5),  # .5 itself stays
    ("abcd", "abxy", 0.5),
    ("abc", "axy", 0),  # a third is below
    ("abcde", "abxyz", 0),  # .4
    ("abcde", "abcxy", 0.6),
    ("abcdefghijk", "abcdefxxxxx", 6 / 11),
    ("abcdefghijk", "abcdexxxxxx", 0),
    ("", "", 1),
    ("", "   ", 1),
    ("   ", "", 1),
    ("", "anything", 0),
    ("anything", "", 0),
    ("anything", "   ", 0),
    ("", "ab ", 0),  # 1 - 2/3
    ("", " a ", 1 - 1 / 3),  # an answer against none, by its spaces
    ("caf\u00e9", "caf\u00e9", 1),
    ("caf\u00e9", "cafe\u0301", 0.6),  # NFC and NFD
    ("caf\u00e9", "cafe", 0.75),
    ("\u00df", "s", 0.5),  # upper case makes two letters of it
    ("\u00df", "ss", 0),  # lower case does not
    ("\u00df", "\u00df", 1),
    ("$9.00", "9.00", 0.8),
    ("1,000", "1000", 0.8),
    ("yes", "yes.", 0.75),
    ("42", "The total is 42", 0),  # a sentence around the answer
    ("42", "42" + " pages" * 5_000, 0),
    ("long" * 500, "long" * 500, 1),
]


@pytest.mark.parametrize(("gold", "said", "score"), SCORES)
def test_anls(gold, said, score):
    assert anls_score([gold], said) == pytest.approx(score, abs=1e-12)


@pytest.mark.parametrize(
    ("answers", "said", "score"),
    [
        (["12 May", "12 May 2018"], "12 May 2018", 1),
        (["zzzz", "abcd"], "abxy", 0.5),
        (["zzzz", "abcde"], "abxyz", 0),  # the best is below
        (["", "x"], "", 1),
        (["abcd", "abcx"], "abcx", 1),
    ],
)
def test_the_best_of_the_accepted_answers_counts(answers, said, score):
    assert anls_score(answers, said) == score


def test_what_a_row_accepts():
    assert accepted(sample("9.00", "9", reference="8")) == ("9.00", "9")
    assert accepted(sample(9, 2.5)) == ("9", "2.5")
    assert accepted(sample(reference="9.00")) == ("9.00",)
    assert accepted(Example("a", (), "9", "g", facts={"answers": []})) == ("9",)
    assert accepted(Example("a", (), "9", "g", facts={"answers": "12"})) == ("12",)  # not "1" and "2"


def definition(golds, said):
    @cache
    def distance(i, j):
        if i == 0 or j == 0:
            return i + j
        if gold[i - 1] == answer[j - 1]:
            return distance(i - 1, j - 1)
        return 1 + min(distance(i - 1, j - 1), distance(i - 1, j), distance(i, j - 1))

    values = []
    for raw in golds:
        gold, answer = (" ".join(text.strip().lower().split()) for text in (raw, said))
        longest = max(len(raw.upper()), len(said.upper()))
        distance.cache_clear()
        values.append(distance(len(gold), len(answer)) / longest if longest else 0.0)
    result = 1 - min(values)
    return result if result >= 0.5 else 0


def test_anls_is_its_definition_on_random_texts():
    rng = random.Random(13)

    def text():
        return "".join(rng.choices("aabB1. \u00df", k=rng.randrange(9)))

    for _ in range(1_500):
        golds, said = [text() for _ in range(rng.randrange(1, 4))], text()
        assert anls_score(golds, said) == definition(golds, said), (golds, said)


def test_the_metric():
    (metric,) = anls.METRICS
    rows = metric.statistics([sample("9.00"), sample("9.00"), sample(reference="x")], ["9.00", "8.00", "y"])
    assert rows.tolist() == [[1, 1], [0.75, 1], [0, 1]]
    assert float(metric.value(rows.sum(axis=0))) == pytest.approx(1.75 / 3)
    assert (metric.name, metric.tier, metric.sample) == ("anls", "tier1", "score")
