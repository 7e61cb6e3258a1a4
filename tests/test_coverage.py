"""Keyword coverage: what counts as naming a term, what only looks like it, and what is left unscored."""

import itertools
import time

import numpy
import pytest

from prism.errors import DataError
from prism.metrics import coverage
from prism.rows import Example

LEXICON = """
# a comment
myocardial infarction = heart attack = MI   # and another
infarction
acute lymphoblastic leukemia = acute lymphoblastic leukaemia = ALL
AIDS = acquired immunodeficiency syndrome
operating room = OR
common cold
Crohn's disease
blood
blood pressure = BP
hearing aid
rib
colon
fibrosis
anemia
arthritis
diagnosis
vertebra
bacterium
cortex
larynx
foramen
biopsy
stroke
hives = urticaria
T-cell
anti-inflammatory
ligament of ovary
Sjögren's syndrome
non-small-cell lung cancer
COVID-19
5-HT = serotonin
vitamin K
potassium = K
mRNA
"""


@pytest.fixture(scope="module")
def path(tmp_path_factory):
    path = tmp_path_factory.mktemp("lexicons") / "own.txt"
    path.write_text(LEXICON, encoding="utf-8")
    return path


@pytest.fixture
def lexicon(path):
    return coverage.load_lexicon(path)


NAMED = {
    "An MI, or heart attack": ["myocardial infarction"],
    "heart attacks and MIs": ["myocardial infarction"],
    "MYOCARDIAL INFARCTION": ["myocardial infarction"],
    "an infarction of the myocardial wall": ["infarction"],
    "blood pressures of the blood": ["blood pressure", "blood"],
    "high blood-pressure": ["blood pressure"],
    "Crohn disease, Crohns disease, Crohn’s disease": ["Crohn's disease"],
    "the patient's rib’s and ribs": ["rib"],
    "two diagnoses": ["diagnosis"],
    "vertebrae; bacteria; cortices; larynges; foramina; biopsies": [
        "vertebra",
        "bacterium",
        "cortex",
        "larynx",
        "foramen",
        "biopsy",
    ],
    "fibrotic, anemic, arthritic": ["fibrosis", "anemia", "arthritis"],
    "T cell, T-cells": ["T-cell"],
    "Tcell": ["T-cell"],
    "antiinflammatory drugs": ["anti-inflammatory"],
    "anti inflammatories": ["anti-inflammatory"],
    "ligaments of ovary": ["ligament of ovary"],
    "sjogren syndrome": ["Sjögren's syndrome"],
    "non–small-cell lung cancers": ["non-small-cell lung cancer"],
    "COVID 19": ["COVID-19"],
    "5-HT receptors": ["5-HT"],
    "vitamin k and K": ["vitamin K", "potassium"],
    "mrna": ["mRNA"],
    "urticaria": ["hives"],
}


@pytest.mark.parametrize(("text", "concepts"), NAMED.items(), ids=repr)
def test_named(lexicon, text, concepts):
    assert list(lexicon.find(text)) == concepts


@pytest.fixture
def kinds(tmp_path):
    path = tmp_path / "kinds.txt"
    path.write_text("myalgia = muscle pain\nmuscle\npain\nhypertension = high blood pressure\nblood pressure\nblood\n")
    return coverage.load_lexicon(path)


def test_an_answer_also_names_what_its_terms_are_kinds_of(kinds):
    assert kinds.named("high blood pressure") == {"hypertension", "blood pressure"}
    assert kinds.named("blood pressure") == {"blood pressure"}, "a pressure is no blood"


def test_a_synonym_of_what_is_asked_about_is_looked_through(kinds):
    asked = Example("a", ({"role": "user", "content": "What is myalgia?"},), "Pain in a muscle.", "g")
    assert coverage.missing(kinds, [asked], ["Muscle pain."]) == [[]]
    assert coverage.missing(kinds, [asked] * 2, ["Myalgia.", "Pain."]) == [["pain", "muscle"], ["muscle"]]


def test_a_term_made_of_known_ones_is_not_invented(kinds):
    assert kinds.invented("muscle pain and high blood pressure", ["muscle", "pain"]) == ["hypertension"]


FALSE_FRIENDS = [
    "the nurse aids all patients, or so mi says",  # of AIDS, ALL, OR, MI
    "All in all. Or not?",
    "AIDs",
    "a cold compress",
    "rice and cola",  # of colon by a Latin ending
    "ribosome, cribs, ribbed",
    "diagnostic",
    "a bee hive",
    "it strokes and stroked",  # "strokes" is a plural of stroke
    "t cells' covid-19 with k",
    "",
    "   \n\t…",
]


@pytest.mark.parametrize("text", FALSE_FRIENDS, ids=repr)
def test_false_friends(lexicon, text):
    only_plural = {"it strokes and stroked": ("stroke",), "t cells' covid-19 with k": ("T-cell",)}
    assert lexicon.find(text) == only_plural.get(text, ())


def examples(*pairs):
    return [Example(str(i), ({"role": "user", "content": q},), r, str(i)) for i, (q, r) in enumerate(pairs)]


def test_coverage_and_the_missing_terms(path, lexicon):
    metric = coverage.metric(path)
    asked = examples(
        ("What is it?", "A heart attack with fibrosis and anemia."),
        ("What is a stroke?", "A stroke is an infarction."),  # the question gives stroke away
        ("What is a stroke?", "A stroke."),
        ("What?", "No term."),
        ("What?", ""),
        ("What?", "The ribs."),
    )
    answers = ["An MI in an anemic patient.", "A stroke.", "stroke", "MI", "MI", ""]
    rows = metric.statistics(asked, answers)
    assert rows[:2].tolist() == [[0.8, 1], [0, 1]]  # recall 2/3, precision 1
    assert numpy.isnan(rows[2:5]).all()
    assert rows[5].tolist() == [0, 1]
    assert numpy.isnan(metric.value(rows)).tolist() == [False, False, True, True, True, False]
    assert coverage.missing(lexicon, asked, answers) == [["fibrosis"], ["infarction"], [], [], [], ["rib"]]
    assert coverage.most_missed(lexicon, asked, answers, limit=1) == [{"term": "fibrosis", "asked": 1, "missed": 1}]


PRECISE = {
    "An MI.": 2 / 3,  # half of the two terms, nothing else
    "An MI and fibrosis.": 1,
    "An MI and fibrosis of the rib.": 0.8,  # a further term costs little beside two right ones
    "A stroke and an infarction.": 0,  # the question's term, and what a myocardial infarction is a kind of
    "A myocardial infarction, fibrosis, an infarction, a stroke": 1,
    "MI, fibrosis, ALL, AIDS, blood, rib, colon, anemia, biopsy, hives, cortex, larynx": 2 * 2 / (2 + 12),
}


@pytest.mark.parametrize(("answer", "f1"), PRECISE.items())
def test_further_terms_cost_precision(path, answer, f1):
    asked = examples(("Is it a stroke?", "No, a heart attack with fibrosis."))
    assert coverage.metric(path).statistics(asked, [answer])[0, 0] == pytest.approx(f1)


def test_a_list_of_common_terms_is_worth_less_than_one_right_term_an_answer(path):
    terms = ["rib", "colon", "fibrosis", "anemia", "arthritis", "biopsy", "larynx", "hives", "cortex", "foramen"]
    asked = examples(*(("What is it?", f"{one} and {other}") for one, other in itertools.pairwise(terms)))
    listed = coverage.metric(path).statistics(asked, [", ".join(terms)] * len(asked))[:, 0].mean()
    half_right = coverage.metric(path).statistics(asked, terms[:-1])[:, 0].mean()
    assert listed == pytest.approx(2 * 2 / (2 + 10))
    assert half_right == pytest.approx(2 / 3)


def test_a_reference_in_another_script_is_unscored(path):
    rows = coverage.metric(path).statistics(examples(("?", "BP 是血压"), ("?", "BP é alta")), ["BP", "BP"])
    assert numpy.isnan(rows).any(1).tolist() == [True, False]


def test_the_reference_as_answer_covers_everything(path, lexicon):
    texts = [text for text, concepts in NAMED.items() if concepts]
    rows = coverage.metric(path).statistics(examples(*(("?", text) for text in texts)), texts)
    assert rows.tolist() == [[1, 1]] * len(texts)


def test_another_lexicon_is_another_version(path, tmp_path):
    other = tmp_path / "other.txt"
    other.write_text(LEXICON + "lung\n", encoding="utf-8")
    assert coverage.metric(path).version != coverage.metric(other).version


BAD = {
    "lung = heart\nliver = Heart": r"bad.txt:2: 'Heart' already names 'lung'",
    "lung = = heart": "bad.txt:1: '' has no letter",
    "lung\n\n+ = heart": r"bad.txt:3: '\+' has no letter",
    "# nothing\n": "contains no concept",
}


@pytest.mark.parametrize(("text", "message"), BAD.items(), ids=repr)
def test_a_bad_lexicon_is_named_with_its_line(tmp_path, text, message):
    path = tmp_path / "bad.txt"
    path.write_text(text, encoding="utf-8")
    with pytest.raises(DataError, match=message):
        coverage.load_lexicon(path)


def test_a_lexicon_that_is_missing_or_not_utf8(tmp_path):
    (tmp_path / "latin.txt").write_bytes("Sjögren".encode("latin-1"))
    with pytest.raises(DataError, match="byte 2 is not UTF-8"):
        coverage.load_lexicon(tmp_path / "latin.txt")
    with pytest.raises(DataError, match="there are: latin"):
        coverage.metric(tmp_path / "none.txt").statistics(examples(("?", "lung")), ["lung"])


def test_what_is_written_out_wins_over_an_inflection(tmp_path):
    (tmp_path / "testes.txt").write_text("testis\ntestes = gonads\n", encoding="utf-8")
    assert coverage.load_lexicon(tmp_path / "testes.txt").find("testes") == ("testes",)


def test_a_large_lexicon_and_a_very_long_answer(tmp_path):
    words = [f"{chr(97 + i % 26)}word{i}" for i in range(5_000)]
    (tmp_path / "large.txt").write_text("\n".join(f"{word} cell = {word}" for word in words), encoding="utf-8")
    assert coverage.load_lexicon(tmp_path / "large.txt").find("aword0 cell " * 9_000) == ("aword0 cell",)


def test_a_very_long_answer_takes_no_longer_than_its_length():
    lexicon = coverage.load_lexicon(coverage.LEXICONS / "medical.txt")  # it has "5-HT"
    began = time.process_time()
    lexicon.named("5%" * 50_000)
    assert time.process_time() - began < 3
