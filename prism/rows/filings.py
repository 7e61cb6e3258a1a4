"""Renders a filing's paragraphs and table as Markdown and cuts it to the model's context window.

The table head always stays. Whole table rows and sentences are added while they fit, ranked by the words that they
share with the question; a word weighs more the fewer rows and sentences contain it. The output preserves their order.
"""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Iterator, Sequence
from typing import Any

from prism.errors import DataError

COLUMNS = 100  # wider tables are an error: hardly any rows that long would fit

_SENTENCE = re.compile(r"(?<=[.!?])\s+(?=[A-Z\"“‘'(])")
_WORD = re.compile(r"[^\W_]+")
_PIECE = re.compile(r"\d|[^\W\d_]+|[^\w\s]|_+|\n")
_VALUE = re.compile(r"[\W\d]*\d[\W\d]*")
_YEAR = re.compile(r"(19|20)\d\d")


def render(table: Sequence[Sequence[Any]], paragraphs: Sequence[str], question: str, room: int, name: str) -> str:
    """The first paragraph, the table and the other paragraphs, in at most `room` tokens. Errors mention `name`.

    Ragged rows are padded, merged cells (empty, or null) stay empty, a table without a head gets an empty one.
    Raises DataError if the table is malformed or too wide, or if its head alone does not fit.
    """
    head, rows = _table_lines(table, name)
    sentences = [(n, sentence) for n, paragraph in enumerate(paragraphs) for sentence in _sentences(paragraph)]
    remaining = room - tokens("\n".join(head))
    if remaining < 0:
        raise DataError(
            f"context {name}: the table's head alone takes {room - remaining} of {room} tokens; "
            f"raise [model].max_seq_length, or exclude the context with [data].without"
        )
    units = [*rows, *(sentence for _, sentence in sentences)]
    asked = _words(question)
    shared = [asked & _words(unit) for unit in units]
    unit_counts = Counter(word for words in shared for word in words)
    # fsum: a plain sum depends on the order of the set, which differs between processes
    order = sorted(range(len(units)), key=lambda i: (-math.fsum(1 / unit_counts[word] for word in shared[i]), i))
    selected = set()
    for i in order:
        cost = tokens(units[i]) + 1  # the line break
        if cost <= remaining:
            selected.add(i)
            remaining -= cost
    texts: dict[int, list[str]] = {0: []}
    for i, (n, sentence) in enumerate(sentences, start=len(rows)):
        if i in selected:
            texts.setdefault(n, []).append(sentence)
    first, *others = (" ".join(text) for text in texts.values())
    return "\n".join([*filter(None, [first]), *head, *(row for i, row in enumerate(rows) if i in selected), *others])


def tokens(text: str) -> int:
    """Estimates the number of tokens without a tokenizer: one per digit or sign, and one per three letters of a word.

    It overestimates: with the nano base, whose vocabulary of 6,144 tokens is the smallest here, TAT-QA's contexts take
    .80 of the estimate in the median and .995 at most.
    """
    return sum(1 + (len(piece) - 1) // 3 if piece[0].isalpha() else 1 for piece in _PIECE.findall(text))


def _words(text: str) -> set[str]:
    return set(_WORD.findall(text.lower()))


def _sentences(paragraph: str) -> list[str]:
    return [sentence for sentence in _SENTENCE.split(" ".join(paragraph.split())) if sentence]


def _table_lines(table: Sequence[Sequence[Any]], name: str) -> tuple[list[str], list[str]]:
    """Markdown lines of the head (with the rule below it) and of the rows; both empty if there is no table."""
    if not table:
        return [], []
    cells = [
        [_cell_text(cell, name, row) for cell in line] for row, line in enumerate(_table_rows(table, name), start=1)
    ]
    width = max(map(len, cells), default=0)
    if not width:
        return [], []
    if width > COLUMNS:
        raise DataError(
            f"context {name}: the table has {width} columns, more than {COLUMNS}; delete those that no question asks "
            f"about, or exclude the context with [data].without"
        )
    grid = [[*line, *[""] * (width - len(line))] for line in cells]
    if _is_data_row(grid[0]):
        grid.insert(0, [""] * width)
    lines = ["| " + " | ".join(line) + " |" for line in grid]
    body = 1
    while body < len(grid) and not grid[body][0]:
        body += 1  # the head has several lines: years, then units
    body = body if body < len(grid) else 1
    return [lines[0], "|" + "---|" * width, *lines[1:body]], lines[body:]


def _table_rows(table: Sequence[Any], name: str) -> Iterator[Sequence[Any]]:
    for number, line in enumerate(table, start=1):
        if not isinstance(line, list | tuple):
            raise DataError(
                f"context {name}: row {number} of the table is {type(line).__name__} {str(line)[:40]!r}, not a list "
                f"of cells; correct the row"
            )
        if line:
            yield line


def _cell_text(cell: Any, name: str, row: int) -> str:
    if isinstance(cell, dict | list | tuple):
        raise DataError(
            f"context {name}: a cell in row {row} of the table is {type(cell).__name__} {str(cell)[:40]!r}; write its "
            f"text, and leave the cells merged with it empty"
        )
    return "" if cell is None else " ".join(str(cell).replace("|", "/").split())


def _is_data_row(line: Sequence[str]) -> bool:
    """Whether a row has a label and numbers, so it is not a head; years do not count as numbers."""
    values = [cell for cell in line[1:] if cell]
    return bool(line[0]) and bool(values) and all(_VALUE.fullmatch(cell) and not _YEAR.search(cell) for cell in values)


def evidence(report: str, question: str, needed: Sequence[str]) -> str:
    """The row or sentence of a report with the most of the `needed` texts; ties go to the one most like the question.

    Empty if none contains any of them.
    """
    best_rank, best_unit, asked = (0, 0), "", _words(question)
    for line in report.split("\n"):
        row = line.startswith("| ")
        for unit in [line.strip("| ")] if row else _sentences(line):
            matches = sum(text in unit for text in needed)
            rank = matches, len(asked & _words(unit))
            if matches and rank > best_rank:
                best_rank, best_unit = rank, unit
    return best_unit


def shuffled(report: str, order: Any) -> str:
    """The report with its table rows shuffled by `order`, a `random.Random`; the table head stays on top."""
    lines = report.split("\n")
    rule = next((i for i, line in enumerate(lines) if line.startswith("|---")), None)
    if rule is None:
        return report
    first = rule + 1
    while first < len(lines) and lines[first].startswith("|  |"):
        first += 1
    end = next((i for i in range(first, len(lines)) if not lines[i].startswith("|")), len(lines))
    rows = lines[first:end]
    order.shuffle(rows)
    return "\n".join([*lines[:first], *rows, *lines[end:]])
