"""Failure patterns: one answer of each kind, their order, and the table that the report shows."""

import json
from dataclasses import replace

import numpy
import pytest

from prism.metrics import coverage, patterns
from prism.rows import Example, Prediction

LEXICON = "femur\nhip joint\nulna\nradius\nforearm\nheart\nblood\naspirin\ninsulin\nscurvy\n"
ROWS = {
    "femur": "The longest bone of the body, from the hip joint to the knee.",
    "ulna": "The medial bone of the forearm, on the side of the little finger.",
    "radius": "The lateral bone of the forearm, on the side of the thumb, which turns around its neighbour.",
    "heart": "A hollow muscle that pumps blood through the vessels.",
    "insulin": "A pancreatic hormone that lowers glucose.",
}


@pytest.fixture
def lexicon(tmp_path):
    (tmp_path / "own.txt").write_text(LEXICON, encoding="utf-8")
    return coverage.load_lexicon(tmp_path / "own.txt")


@pytest.fixture
def examples():
    return [
        Example(f"id {term}", ({"role": "user", "content": f"What is the {term}?"},), reference, term)
        for term, reference in ROWS.items()
    ]


def predictions(answers, finish="stop"):
    return [Prediction(str(i), answer, 9, finish) for i, answer in enumerate(answers)]


ANSWERS = {  # to "What is the ulna?"
    "": ("empty",),
    " …\n": ("empty",),
    "the bone of the bone of the bone of the bone of the": ("repeats",),
    "The ulna is a bone. " + "It has many uses and several names in old books. " * 8: ("repeats", "verbose"),
    "The ulna " + " ".join(f"turns{i}" for i in range(40)): ("verbose",),
    "Families choose a new car.": ("off_topic",),
    "It is what it is.": ("off_topic",),
    "Scurvy.": ("off_topic", "hallucinates"),
    "The lateral bone of the forearm, on the side of the thumb.": ("confused",),
    "The lateral forearm bone on the thumb's side, full of aspirin.": ("confused", "hallucinates"),
    "A forearm bone which contains aspirin.": ("hallucinates",),
    "The medial bone of the forearm.": (),
    ROWS["ulna"]: (),
}


def answers_with(ulna):
    return [ulna if term == "ulna" else reference for term, reference in ROWS.items()]


@pytest.mark.parametrize(("answer", "found"), ANSWERS.items(), ids=lambda value: repr(value)[:40])
def test_patterns(examples, lexicon, answer, found):
    findings = patterns.find_patterns(examples, predictions(answers_with(answer)), lexicon)
    assert findings[1].patterns == found
    assert findings[1].main == (found[0] if found else "no_pattern")
    assert {finding.main for i, finding in enumerate(findings) if i != 1} == {"no_pattern"}


def test_what_was_confused_and_what_was_invented(examples, lexicon):
    answer = "The lateral forearm bone on the thumb's side, full of aspirin."
    finding = patterns.find_patterns(examples, predictions(answers_with(answer)), lexicon)[1]
    assert finding.confused_with == examples[2]
    assert finding.invented == ("aspirin",)


def test_another_reference_of_the_same_group_is_not_another_term(examples, lexicon):
    examples[2] = replace(examples[2], group="ulna")
    finding = patterns.find_patterns(examples, predictions(answers_with(ROWS["radius"])), lexicon)[1]
    assert finding.confused_with is None


def test_an_answer_cut_off_is_truncated_unless_it_loops(examples, lexicon):
    cut = predictions(answers_with("The medial bone of"), finish="length")
    assert patterns.find_patterns(examples, cut, lexicon)[1].main == "truncated"
    loop = predictions(answers_with("bone and bone and bone and bone and"), finish="length")
    assert patterns.find_patterns(examples, loop, lexicon)[1].patterns == ("repeats", "truncated")


def test_nothing_is_held_against_an_empty_reference(examples, lexicon):
    examples = [replace(example, reference="") for example in examples]
    said = predictions([f"aspirin {term} " + " ".join(f"word{i}" for i in range(40)) for term in ROWS])
    assert {finding.main for finding in patterns.find_patterns(examples, said, lexicon)} == {"no_pattern"}


def test_analysis(examples, lexicon):
    before = predictions(["Families choose a new car."] * 4 + [""])
    after = predictions(answers_with("A forearm bone which contains aspirin."))
    table = patterns.analysis(examples, before, after, lexicon)
    assert json.loads(json.dumps(table)) == table
    rows = {row["pattern"]: row for row in table["patterns"]}
    assert list(rows) == [*patterns.PATTERNS, "no_pattern"]
    assert {name: (row["baseline"], row["tuned"]) for name, row in rows.items() if row["baseline"] or row["tuned"]} == {
        "empty": (1, 0),
        "off_topic": (4, 0),
        "hallucinates": (0, 1),
        "no_pattern": (0, 4),
    }
    (worst,) = rows["hallucinates"]["worst"]
    assert worst["id"] == "id ulna"
    assert worst["baseline_pattern"] == "off_topic"
    assert worst["invented"] == ["aspirin"]
    assert worst["missing"] == {"baseline": ["forearm"], "tuned": []}
    assert 0 == worst["rougeL"][0] < worst["rougeL"][1] < 0.5
    assert len(rows["no_pattern"]["worst"]) == patterns.SHOWN


def test_the_rate_of_each_pattern_is_a_metric_that_can_be_gated(examples, lexicon, tmp_path):
    metrics = {metric.name: metric for metric in patterns.metrics(tmp_path / "own.txt")}
    assert [*metrics] == [f"{pattern}_rate" for pattern in patterns.PATTERNS if pattern != "truncated"]
    assert {metric.direction for metric in metrics.values()} == {"lower"}
    answers = ["", "Scurvy.", ROWS["ulna"], ROWS["heart"], "A hormone full of aspirin."]
    found = patterns.find_patterns(examples, predictions(answers), lexicon)
    for name, metric in metrics.items():
        rate = float(metric.value(metric.statistics(examples, answers).sum(0)))
        assert rate == sum(name == f"{pattern}_rate" for finding in found for pattern in finding.patterns) / 5
    rates = {name: float(metric.value(metric.statistics(examples, answers).sum(0))) for name, metric in metrics.items()}
    assert rates["hallucinates_rate"] == 0.4
    assert rates["empty_rate"] == rates["confused_rate"] == 0.2


def test_no_rate_counts_an_answer_whose_reference_has_no_word_that_rouge_reads(examples, lexicon, tmp_path):
    examples[:2] = [replace(examples[0], reference="大腿骨"), replace(examples[1], reference="")]
    for metric in patterns.metrics(tmp_path / "own.txt"):
        rows = metric.statistics(examples, ["大腿骨", "", "", "", ""])
        assert numpy.isnan(rows).any(1).tolist() == [True, True, False, False, False]
        assert metric.statistics([], []).shape == (0, 2)


def test_answers_to_other_rows_are_matched_anew(examples, lexicon, tmp_path):
    """What is kept for the next pattern's metric must not serve for another group, reference, answer or lexicon."""
    confused = next(m for m in patterns.metrics(tmp_path / "own.txt") if m.name == "confused_rate")
    answers = answers_with(ROWS["radius"])
    assert confused.statistics(examples, answers)[1].tolist() == [1, 1]
    examples[2] = replace(examples[2], group="ulna")
    assert confused.statistics(examples, answers)[1].tolist() == [0, 1]


def test_another_lexicon_is_another_version_of_every_rate(lexicon, tmp_path):
    (tmp_path / "other.txt").write_text(LEXICON + "knee\n", encoding="utf-8")
    versions = [{m.version for m in patterns.metrics(tmp_path / f"{name}.txt")} for name in ("own", "other")]
    assert [len(found) for found in versions] == [1, 1]
    assert versions[0] != versions[1]


def test_worst_first_and_clipped(examples, lexicon):
    after = predictions([ROWS["femur"], "ulna", ROWS["radius"], "The heart is a muscle.", "insulin " + "x" * 100_000])
    rows = {row["pattern"]: row for row in patterns.analysis(examples, after, after, lexicon)["patterns"]}
    shown = [worst["rougeL"][1] for worst in rows["no_pattern"]["worst"]]
    assert shown == sorted(shown)
    assert all(len(worst["tuned"]) <= patterns.CLIP + 1 for worst in rows["no_pattern"]["worst"])
