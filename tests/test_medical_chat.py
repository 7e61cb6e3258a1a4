"""Phase 2's task: how a flashcard is asked, what groups it, and what the report gets."""

import json

import numpy
import pytest

from prism.metrics import coverage
from prism.rows import Prediction
from prism.spec import load_spec
from prism.tasks import medical_chat as task
from prism.tasks.check import load_checked_spec
from prism.verdicts.scoring import samples
from tests.conftest import ROOT

CARDS = ROOT / "fixtures" / "data" / "medical-flashcards" / "train.jsonl"
ROW = {"question": " What is  the\nulna? ", "answer": "The medial bone of the forearm.\n"}


def test_a_row_becomes_a_question_under_a_system_prompt():
    example = task.example(ROW, "id")
    assert [message["role"] for message in example.messages] == ["system", "user"]
    assert example.messages[1]["content"] == "What is the ulna?"
    assert example.reference == "The medial bone of the forearm."


@pytest.mark.parametrize(
    ("row", "asked"),
    [
        (ROW, "Answer the medical question in one sentence."),
        (ROW | {"topic": None}, "Answer the medical question in one sentence."),
        (ROW | {"topic": "  "}, "Answer the medical question in one sentence."),
        (ROW | {"topic": " drug  class\n"}, "Answer the drug class question in one sentence."),
    ],
)
def test_the_system_prompt_names_the_topic_of_a_row_that_has_one(row, asked):
    assert task.example(row, "id").messages[0]["content"] == asked


@pytest.mark.parametrize(
    ("row", "group"),
    [
        (ROW | {"term": " Ulna "}, "ulna"),
        (ROW | {"term": ""}, "what is the ulna?"),
        (ROW | {"term": None}, "what is the ulna?"),
        (ROW, "what is the ulna?"),
    ],
)
def test_rows_are_grouped_by_term_or_else_by_question(row, group):
    assert task.example(row, "id").group == group


def test_the_metrics_are_tier_2():
    names = [metric.name for metric in task.METRICS if metric.tier == "tier2"]
    rates = ["empty_rate", "repeats_rate", "verbose_rate", "off_topic_rate", "confused_rate", "hallucinates_rate"]
    assert names == ["rouge1", "rouge2", "rougeL", "content_gain", "keyword_coverage", *rates]


def test_the_bundled_lexicons_load_and_know_their_false_friends():
    medical, financial = (coverage.load_lexicon(coverage.LEXICONS / f"{name}.txt") for name in ("medical", "financial"))
    assert medical.find("An MI, that is two heart attacks.") == ("myocardial infarction",)
    assert medical.find("The nurse aids patients of all ages, or so mi says; a cold compress; rice and cola.") == ()
    assert medical.find("A gall bladder; the bladder; a breastbone; azole antifungals and their bones.") == (
        "gallbladder",
        "urinary bladder",
        "sternum",
        "azole antifungal",
        "bone",
    )
    assert financial.find("Please see the sec column, all in one car; she eps.") == ()


@pytest.mark.parametrize(
    ("limit", "message"),
    [
        ("hallucinates_rate = { floor = 0.5 }", "hallucinates_rate.floor: has no effect, as lower is better"),
        ("rougeL = { floor = 1.5 }", "must be in"),
        ("rouge3 = { floor = 0.1 }", "those are rouge1, rouge2"),
    ],
)
def test_thresholds_of_a_spec_are_checked(tmp_path, limit, message):
    path = tmp_path / "phase2" / "own.toml"
    path.parent.mkdir()
    path.write_text(SPEC + limit, encoding="utf-8")
    with pytest.raises(Exception, match=message):
        load_checked_spec(path)


def test_the_published_columns_are_mapped(tmp_path):
    path = tmp_path / "phase2" / "own.toml"
    path.parent.mkdir()
    path.write_text(SPEC + "content_gain = { floor = -0.5, gain = 0.01 }", encoding="utf-8")
    assert set(load_spec(path).data.columns) == set(task.COLUMNS)


SPEC = """
title = "own"
task = "medical_chat"
profile = "nano"
adapter = "fixtures/none"
generate = { max_new_tokens = 8 }
[data]
path = "medalpaca/medical_meadow_medical_flashcards"
split = { test_size = 0.1 }
columns = { question = "input", answer = "output" }
[model]
model_name = "none"
max_seq_length = 64
[gate.tier2]
"""


def test_tables_for_the_report(tmp_path, monkeypatch):
    (tmp_path / "own.txt").write_text("ulna\nforearm\naspirin\n", encoding="utf-8")
    monkeypatch.setattr(task, "LEXICON", tmp_path / "own.txt")
    examples = [task.example(ROW, "one"), task.example({"question": "What is a femur?", "answer": ""}, "two")]
    answers = ["Aspirin of the ulna", "A bone"]
    assert task.details(examples, answers) == {
        "most_missed": [{"term": "forearm", "asked": 1, "missed": 1}],
        "unread": 0,
    }
    said = [Prediction(example.id, answer, 3, "stop") for example, answer in zip(examples, answers)]
    found = task.failures(examples, said, said)
    assert {row["pattern"]: row["tuned"] for row in found["patterns"] if row["tuned"]} == {
        "hallucinates": 1,
        "off_topic": 1,
    }


def test_a_row_without_an_answer_is_unscored():
    examples = [task.example(ROW | {"answer": answer, "term": str(i)}, str(i)) for i, answer in enumerate(["a", "b"])]
    examples.append(task.example(ROW | {"answer": "  "}, "empty"))
    rouge = task.METRICS[0].statistics(examples, ["a", "a", "a"])
    assert numpy.isnan(rouge[:, 0]).tolist() == [False, False, True]


def test_the_bundled_cards_can_be_asked_and_scored():
    rows = [json.loads(line) for line in CARDS.read_text(encoding="ascii").splitlines()]
    for column in ("term", "question", "answer"):
        assert len({row[column].lower() for row in rows}) == len(rows) == 1_680
    assert [row["answer"] for row in rows if row["answer"].rstrip(".").count(". ") or row["answer"][-1] != "."] == []
    built = [task.example(row, row["term"]) for row in rows if row["topic"] in ("terminology", "drug class")]
    lexicon = coverage.load_lexicon(task.LEXICON)
    assert len(built) == 520
    assert [example.id for example in built if not coverage.asked_for(lexicon, example)] == []


def test_each_sample_lists_the_terms_that_its_answers_lack():
    row = {"question": "What is myocarditis?", "answer": "Inflammation, often with fever"}
    examples = [task.example(row, "one"), task.example({"question": "Is it?", "answer": "Yes"}, "two")]
    found = samples(task.METRICS, examples, ["", "no"], ["A fever", "yes"])
    assert task.missing(examples, ["", "no"]) == [["inflammation", "fever"], []]
    assert task.missing(examples, ["A fever", "yes"]) == [["inflammation"], []]
    assert found[0]["scores"]["keyword_coverage"] == [0, pytest.approx(2 / 3)]
    assert found[1]["scores"]["keyword_coverage"] == [None, None]
