"""Tables and paragraphs as the model reads them: what is odd is handled or refused by name, and a cut is between rows."""

import os
import random
import subprocess
import sys

import pytest

from prism.errors import DataError
from prism.rows.filings import evidence, render, shuffled, tokens

TABLE = [["", "2019", "2018"], ["Net sales", "412", "385"], ["Cost of sales", "301", "290"]]
PARAGRAPHS = ["Results in millions:", "Sales rose. It runs 51 stores."]


def lines(table, paragraphs=(), question="", room=10_000):
    return render(table, paragraphs, question, room, "c1").split("\n")


def test_paragraphs_around_the_table():
    assert lines(TABLE, PARAGRAPHS) == [
        "Results in millions:",
        "|  | 2019 | 2018 |",
        "|---|---|---|",
        "| Net sales | 412 | 385 |",
        "| Cost of sales | 301 | 290 |",
        "Sales rose. It runs 51 stores.",
    ]
    assert lines([], PARAGRAPHS) == PARAGRAPHS
    assert lines(TABLE)[0] == "|  | 2019 | 2018 |"


HANDLED = {
    "ragged rows": ([["", "2019", "2018"], ["Net sales", "412"]], "| Net sales | 412 |  |"),
    "rows longer than the head": ([["", "2019"], ["Net sales", "412", "385"]], "|  | 2019 |  |"),
    "no head": ([["Net sales", "412", "385"]], "|  |  |  |"),
    "a head of labels": ([["(in millions)", "2019"], ["Net sales", "412"]], "| (in millions) | 2019 |"),
    "merged cells": ([["", "Years ended", None], ["", "2019", "2018"], ["Sales", "4", "3"]], "|  | Years ended |  |"),
    "numbers as numbers": ([["", 2019], ["Net sales", 41.5]], "| Net sales | 41.5 |"),
    "bars and line breaks": ([["", "2019"], ["Net | sales\n(total)", "4"]], "| Net / sales (total) | 4 |"),
    "an empty row": ([["", "2019"], [], ["Sales", "4"]], "| Sales | 4 |"),
}


@pytest.mark.parametrize(("table", "line"), HANDLED.values(), ids=HANDLED)
def test_odd_tables(table, line):
    shown = lines(table)
    assert line in shown
    assert shown[1].startswith("|---")
    assert len({row.count("|") for row in shown}) == 1


REFUSED = {
    "200 columns": ([["", *["x"] * 199]], "context c1: the table has 200 columns, more than 100"),
    "a cell that is a table": ([["", {"text": "2019", "colspan": 2}]], "c1: a cell in row 1 of the table is dict"),
    "a row that is a text": ([["", "2019"], "Net sales 412"], "c1: row 2 of the table is str 'Net sales 412'"),
    "a head larger than the window": ([["", *["December 31, 2019"] * 40], ["a", "4"]], "head alone takes"),
}


@pytest.mark.parametrize(("table", "sentence"), REFUSED.values(), ids=REFUSED)
def test_refused_by_name(table, sentence):
    with pytest.raises(DataError) as error:
        render(table, [], "", 300, "c1")
    assert sentence in str(error.value)


def test_a_long_context_keeps_whole_rows_and_what_the_question_is_about():
    table = [["", "2019", "2018"], *([f"Line number {n}", str(900 + n), "7"] for n in range(100))]
    paragraphs = ["Results.", "Nothing of note happened. " * 50 + "Goodwill was tested in June."]
    for room in (90, 150, 400):
        shown = render(table, paragraphs, "What was line number 73? Was goodwill tested?", room, "c1")
        assert tokens(shown) <= room
        assert "| Line number 73 | 973 | 7 |" in shown.split("\n")
        assert "Goodwill was tested in June." in shown
        whole = {f"| {' | '.join(row)} |" for row in table}
        assert all(line in whole for line in shown.split("\n") if line.startswith("| "))
        kept = [int(line.split()[3]) for line in shown.split("\n") if line.startswith("| Line")]
        assert kept == sorted(kept)


def test_the_cut_is_the_same_in_every_process():
    # "tax" is worth 1, and so are "net sales cost", which 2, 3 and 6 rows hold; but 1/2 + 1/3 + 1/6 is not always 1.
    code = (
        "from prism.rows.filings import render\n"
        "rows = ['net sales cost', 'tax', 'net', *['sales'] * 2, *['cost'] * 5]\n"
        "table = [['', 'x'], *([row, '1'] for row in rows)]\n"
        "print(render(table, [], 'net sales cost tax', 24, 'c1'))"
    )
    shown = {
        subprocess.run(
            [sys.executable, "-c", code], env={**os.environ, "PYTHONHASHSEED": seed}, capture_output=True, check=True
        ).stdout
        for seed in "12345678"
    }
    assert shown == {b"|  | x |\n|---|---|\n| net sales cost | 1 |\n"}


def test_evidence_is_the_row_or_sentence_that_holds_the_answer():
    report = render(TABLE, PARAGRAPHS, "", 10_000, "c1")
    assert evidence(report, "What were net sales?", ["412"]) == "Net sales | 412 | 385"
    assert evidence(report, "How many stores?", ["51"]) == "It runs 51 stores."
    assert evidence(report, "What else?", ["777"]) == ""


def test_shuffled_rows_are_the_same_rows_under_the_same_head():
    report = render(
        [["", "2019"], ["", "restated"], *([f"Line {n}", str(n)] for n in range(9))], PARAGRAPHS, "", 9_999, "c"
    )
    mixed = shuffled(report, random.Random(1))
    assert mixed != report
    assert sorted(mixed.split("\n")) == sorted(report.split("\n"))
    assert mixed.split("\n")[:4] == report.split("\n")[:4]
    assert mixed.split("\n")[-1] == PARAGRAPHS[1]
    assert shuffled("no table here", random.Random(1)) == "no table here"
