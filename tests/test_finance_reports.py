"""The bundled reports are what their recipe makes, and their answers follow from their tables."""

import json
from collections import Counter

import pytest

from fixtures.make import finance_reports
from prism.metrics import arithmetic
from prism.metrics.finance import answerable, evidence_overlap, exact_and_f1, grounded, needed
from prism.spec import load_spec
from tests.conftest import ROOT, examples_of


@pytest.fixture(scope="module")
def contexts():
    return [json.loads(line) for line in finance_reports.OUT.read_text(encoding="utf-8").splitlines()]


def test_made_again_byte_for_byte():
    assert finance_reports.OUT.read_bytes() == finance_reports.lines().encode()


def test_as_many_as_the_datasheet_says(contexts):
    types = Counter(question["answer_type"] for context in contexts for question in context["questions"])
    assert len(contexts) >= 300
    assert types.total() >= 2000
    sheet = (finance_reports.OUT.parent / "README.md").read_text(encoding="utf-8")
    for kind, n in {**types, "contexts": len(contexts), "questions": types.total()}.items():
        assert f"| {kind} | {n:,} |" in sheet


def test_answers_follow_from_the_tables(contexts):
    for context in contexts:
        head, *rows = context["table"]["table"]
        cells = {(row[0].lower(), year): value for row in rows for year, value in zip(head[1:], row[1:])}
        told = context["paragraphs"][1]["text"].lower()
        for question in context["questions"]:
            asked, kind = question["question"].lower(), question["answer_type"]
            if kind == "arithmetic":
                assert arithmetic.compute(question["derivation"]) == pytest.approx(question["answer"], abs=0.005)
            if kind == "unanswerable":
                named = [cell for cell in cells if f" {cell[0]} in {cell[1]}?" in asked]
                assert not named
            elif " in 20" in asked and asked.startswith(("what was", "how much")):
                line, year = next(cell for cell in cells if f" {cell[0]} in {cell[1]}?" in asked)
                assert question["answer"] == [cells[line, year]]
            elif asked.startswith("which line was"):
                year, (line,) = asked.removesuffix("?").split()[-1], question["answer"]
                if "highest" in asked:
                    assert cells[line.lower(), year] == max((v for (_, y), v in cells.items() if y == year), key=float)
                else:
                    assert [key for key, value in cells.items() if f"was {value} in {key[1]}?" in asked] == [
                        (line.lower(), year)
                    ]
            if kind in ("multi-span", "count") and "year" not in asked:
                answers = question["answer"] if kind == "multi-span" else question["derivation"].split("##")
                assert all(answer.lower() in told for answer in answers)
                assert kind == "multi-span" or int(question["answer"]) == len(answers)


def test_references_are_right_quoted_and_grounded():
    spec = load_spec(ROOT / "benchmarks" / "specs" / "phase3" / "nano.toml")
    everything = spec.data.model_copy(update={"train_rows": None, "eval_rows": None})
    for example in [e for part in examples_of(spec.model_copy(update={"data": everything}), ROOT) for e in part]:
        assert exact_and_f1(example, example.reference) == (1, 1)
        assert evidence_overlap(example, example.reference) == answerable(example)
        a_year = example.facts["answer"][0].isdigit() and "year" in example.question  # it stands in the table's head
        assert bool(needed(example)) == answerable(example) or a_year
        right, numbers = grounded(example, example.reference)
        assert right == numbers or example.facts["type"] == "count"
