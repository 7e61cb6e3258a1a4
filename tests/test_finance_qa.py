"""How a TAT-QA row becomes questions, references and controls. No model."""

import random
from pathlib import Path

import pytest

from prism.errors import DataError
from prism.metrics.finance import evidence_overlap, exact_and_f1
from prism.rows.files import read_rows
from prism.rows.filings import tokens
from prism.spec import load_spec
from prism.tasks import finance_qa as task
from tests.conftest import ROOT, examples_of, write_rows

NANO = ROOT / "benchmarks" / "specs" / "phase3" / "nano.toml"


def context(uid, questions, rows=3):
    table = [["(in millions)", "2019", "2018"], *([f"Line {n}", f"{400 + n}.5", f"{300 + n}"] for n in range(rows))]
    return {
        "table": {"uid": uid, "table": table},
        "paragraphs": [
            {"order": 2, "text": "The segments are Retail and Online."},
            {"order": 1, "text": f"Report {uid}."},
        ],
        "questions": questions,
    }


def question(text, kind, answer, scale="", derivation=""):
    return {"question": text, "answer_type": kind, "answer": answer, "scale": scale, "derivation": derivation}


QUESTIONS = [
    question("What was line 1 in 2019?", "span", ["401.5"], "million"),
    question("What are the segments?", "multi-span", ["Retail", "Online"]),
    question("What was the change in line 2?", "arithmetic", 100.5, "million", "402.5-302"),
    question("What was the percentage change in line 2?", "arithmetic", 33.28, "percent", "(402.5-302)/302"),
    question("How many segments are there?", "count", "2", "", "Retail##Online"),
    question("What was line 9 in 2019?", "unanswerable", ["not stated"]),
    question("What is the average of line 1?", "arithmetic", 7, "million", "see the table"),
]
REFERENCES = [
    '401.5 million\n"Line 1 | 401.5 | 301"',
    'Retail; Online\n"The segments are Retail and Online."',
    '402.5 - 302 million\n"Line 2 | 402.5 | 302"',
    '(402.5 - 302) / 302 * 100 percent\n"Line 2 | 402.5 | 302"',
    '2\n"The segments are Retail and Online."',
    "not stated",
    "7 million",
]


@pytest.fixture
def examples():
    rows = [row for uid in ("a", "b") for row in task.rows(context(uid, QUESTIONS), load_spec(NANO))]
    return [task.example(row, f"{row['context']}{n}") for n, row in enumerate(rows)]


def test_a_context_becomes_a_row_a_question(examples):
    assert [example.reference for example in examples[:7]] == REFERENCES
    assert {example.group for example in examples} == {"a", "b"}
    system, user = examples[0].messages
    assert system["content"].startswith(task.SYSTEM)
    assert "\n\nReport a.\n| (in millions) | 2019 | 2018 |\n|---|---|---|\n| Line 0 |" in system["content"]
    assert user["content"] == QUESTIONS[0]["question"]


def test_every_reference_is_right_by_the_metric(examples):
    for example in examples:
        assert exact_and_f1(example, example.reference) == (1, 1)
    assert [evidence_overlap(example, example.reference) for example in examples[:5]] == [1] * 5


def test_a_long_context_is_cut_to_the_window(tmp_path):
    text = NANO.read_text().replace("max_seq_length = 512", "max_seq_length = 256")
    path = tmp_path / "phase3" / "small.toml"
    path.parent.mkdir()
    path.write_text(text)
    row = task.rows(
        context("long", [question("What was line 77 in 2019?", "span", ["477.5"])], rows=200), load_spec(path)
    )[0]
    asked = task.example(row, "a")
    assert "| Line 77 | 477.5 | 377 |" in row["report"].split("\n")
    assert sum(tokens(message["content"]) for message in asked.messages) <= 256 - 52
    assert all(line.count("|") == 4 for line in row["report"].split("\n") if line.startswith("|"))


def test_one_row_a_question_needs_no_table():
    row = {"report": "It runs 51 stores.", "question": "How many  stores?", "answer": "51"}
    assert task.rows(row, load_spec(NANO)) == [row]
    example = task.example(row, "a")
    assert example.reference == '51\n"It runs 51 stores."'
    told = {"answer": ["51"], "context": "It runs 51 stores.", "needed": ["51"]}
    assert example.facts == {"type": "span", "scale": ""} | told
    assert example.group == task.example({**row, "question": "Any others?"}, "b").group


def test_a_long_sentence_is_quoted_around_the_answer():
    words = " ".join(f"word{n}" for n in range(60))
    quote = task.example({"report": words, "question": "?", "answer": ["word40 word41"]}, "a").reference.split("\n")[1]
    assert "word40 word41" in quote
    assert len(quote.split()) == task.QUOTED


BAD = {
    "another locale": ({"answer": "1.234,56"}, "row a: answer '1.234,56' is in another locale; write it as 1,234.56"),
    "a decimal comma": ({"answer": ["12,5"]}, "in another locale"),
    "no such type": ({"answer_type": "essay"}, "row a: 'essay' is not one of span, multi-span"),
    "no such scale": ({"scale": "lakh"}, "row a: 'lakh' is not one of thousand"),
    "a calculation in words": (
        {"answer": "n/a", "answer_type": "arithmetic"},
        "answer 'n/a' of a calculation is not a number",
    ),
    "no answer": ({"answer": "", "answer_type": "arithmetic"}, "row a: answer '' is empty; fill it"),
    "no spans": ({"answer": []}, "row a: answer [] is empty"),
    "an endless count": ({"answer": "inf", "answer_type": "count"}, "answer 'inf' of a count is not a number"),
    "a broken count": ({"answer": 2.6, "answer_type": "count"}, "answer 2.6 of a count is not a whole number"),
    "a superscript": ({"answer": "²", "answer_type": "count"}, "answer '²' of a count is not a number"),
    "a count in words": ({"answer": "three", "answer_type": "count"}, "answer 'three' of a count is not a number"),
}


@pytest.mark.parametrize(("change", "sentence"), BAD.values(), ids=BAD)
def test_rows_that_are_refused(change, sentence):
    with pytest.raises(DataError) as error:
        task.example({"report": "", "question": "?", "answer": "1"} | change, "a")
    assert sentence in str(error.value)


FIGURES = {
    "23.4%": ("(1,234 - 1,000) / 1,000", "(1,234 - 1,000) / 1,000 * 100 percent"),
    "2,234": ("1,234 + 1,000", "1,234 + 1,000"),
    "$234": ("1,234 - 1,000", "1,234 - 1,000"),
    "(234)": ("1,000 - 1,234", "1,000 - 1,234"),
    "234 million": ("1,234 - 1,000", "1,234 - 1,000 million"),
}


@pytest.mark.parametrize(("answer", "derivation", "reference"), [(a, *said) for a, said in FIGURES.items()])
def test_a_calculation_whose_answer_is_written_as_people_do(answer, derivation, reference):
    row = {"report": "", "question": "?", "answer": answer, "answer_type": "arithmetic", "derivation": derivation}
    example = task.example(row, "a")
    assert example.reference == reference
    assert exact_and_f1(example, example.reference)[0] == 1


TATQA = ROOT.parent / "shared/data/tat-qa"


@pytest.mark.skipif(not TATQA.exists(), reason="TAT-QA does not lie in ../shared/data")
@pytest.mark.parametrize("part", ["dev", "test_gold"])
def test_each_gold_answer_of_tatqa_is_right_verbatim(part):
    spec = load_spec(NANO.with_name("nano-tatqa.toml"))
    rows = [row for context in read_rows(TATQA / f"{part}.jsonl.gz") for row in task.rows(context, spec)]
    for number, row in enumerate(rows):
        example = task.example(row, str(number))
        said = f"{'; '.join(example.facts['answer'])} {example.facts['scale']}".strip()
        assert exact_and_f1(example, said)[0] == 1, said
        assert exact_and_f1(example, example.reference)[0] == 1, example.reference


def test_controls_change_the_evidence_and_nothing_else(examples):
    asked = {name: [alter(example, examples) for example in examples] for name, alter in task.CONTROLS.items()}
    for altered in asked.values():
        assert [e.messages[1] for e in altered] == [e.messages[1] for e in examples]
        assert [(e.id, e.reference, e.facts) for e in altered] == [(e.id, e.reference, e.facts) for e in examples]
    assert {e.messages[0]["content"] for e in asked["without_context"]} == {task.SYSTEM}
    for example, other in zip(examples, asked["other_context"]):
        assert f"Report {'ba'['ab'.index(example.group)]}." in other.messages[0]["content"]
    for example, mixed in zip(examples, asked["shuffled_rows"]):
        lines = [e.messages[0]["content"].split("\n") for e in (example, mixed)]
        assert sorted(lines[0]) == sorted(lines[1])
    assert any(a.messages != b.messages for a, b in zip(examples, asked["shuffled_rows"]))


def test_contexts_are_left_out_by_name_and_lie_in_one_part_only(tmp_path):
    numbered = [context(f"c{n}", QUESTIONS) for n in random.Random(1).sample(range(30), 30)]
    write_rows(tmp_path / "train.jsonl", numbered)
    text = NANO.read_text().replace("fixtures/data/finance-reports", str(tmp_path))
    text = text.replace("train_rows = 1_000", 'without = { context = ["c7", "c8"] }').replace("eval_rows  = 250\n", "")
    path = tmp_path / "phase3" / "small.toml"
    path.parent.mkdir()
    path.write_text(text)
    training, held_out = examples_of(load_spec(path), Path())
    groups = [{example.group for example in part} for part in (training, held_out)]
    assert groups[0].isdisjoint(groups[1])
    assert groups[0] | groups[1] == {f"c{n}" for n in range(30)} - {"c7", "c8"}
    assert len(training) + len(held_out) == 28 * 7
