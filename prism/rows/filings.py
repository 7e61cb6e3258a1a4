"""A filing's paragraphs and table as the text that a model reads: Markdown, cut to its window by a rule.

The rule: the table's head stays; then table rows and sentences as long as they fit, those first that share most with the
question, a word counting the more the fewer of them hold it. What stays keeps its order. Nothing is cut in the middle
of a row or of a sentence.
"""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Iterator, Sequence
from typing import Any

from prism.errors import DataError

COLUMNS = 100  # a wider table is refused: nothing is left to read of rows that long

_SENTENCE = re.compile(r"(?<=[.!?])\s+(?=[A-Z\"“‘'(])")
_WORD = re.compile(r"[^\W_]+")
_PIECE = re.compile(r"\d|[^\W\d_]+|[^\w\s]|_+|\n")
_VALUE = re.compile(r"[\W\d]*\d[\W\d]*")
_YEAR = re.compile(r"(19|20)\d\d")


def render(table: Sequence[Sequence[Any]], paragraphs: Sequence[str], question: str, room: int, name: str) -> str:
    """The first paragraph, the table and the other paragraphs, in at most `room` tokens. `name` is for errors.

    Ragged rows are filled up, merged cells (empty, or null) stay empty, a table without a head gets an empty one.
    Raises DataError for a table that is none, is too wide, or whose head alone does not fit.
    """
    head, rows = _table(table, name)
    sentences = [(n, sentence) for n, paragraph in enumerate(paragraphs) for sentence in _split(paragraph)]
    left = room - tokens("\n".join(head))
    if left < 0:
        raise DataError(
            f"context {name}: the table's head alone takes {room - left} of {room} tokens; raise [model].max_seq_length, "
            f"or leave the context out by [data].without"
        )
    units = [*rows, *(sentence for _, sentence in sentences)]
    shared = [_words(question) & _words(unit) for unit in units]
    holding = Counter(word for words in shared for word in words)
    # fsum: a plain sum would depend on the order of the set, which is another one in each process
    order = sorted(range(len(units)), key=lambda i: (-math.fsum(1 / holding[word] for word in shared[i]), i))
    kept = set()
    for i in order:
        cost = tokens(units[i]) + 1  # the line break
        if cost <= left:
            kept.add(i)
            left -= cost
    texts: dict[int, list[str]] = {0: []}
    for i, (n, sentence) in enumerate(sentences, start=len(rows)):
        if i in kept:
            texts.setdefault(n, []).append(sentence)
    first, *others = (" ".join(text) for text in texts.values())
    return "\n".join([*filter(None, [first]), *head, *(row for i, row in enumerate(rows) if i in kept), *others])


def tokens(text: str) -> int:
    """About how many tokens a text takes, without a tokenizer: a digit or sign one, a word one for three letters.

    Rather too many than too few: with the nano base's 6,144 tokens, the smallest vocabulary here, TAT-QA's contexts
    take .80 of the count in the median and .995 at most.
    """
    return sum(1 + (len(piece) - 1) // 3 if piece[0].isalpha() else 1 for piece in _PIECE.findall(text))


def _words(text: str) -> set[str]:
    return set(_WORD.findall(text.lower()))


def _split(paragraph: str) -> list[str]:
    return [sentence for sentence in _SENTENCE.split(" ".join(paragraph.split())) if sentence]


def _table(table: Sequence[Sequence[Any]], name: str) -> tuple[list[str], list[str]]:
    """The lines of the head, with the rule under it, and of the rows; both empty where there is no table."""
    if not table:
        return [], []
    cells = [[_cell(cell, name, row) for cell in line] for row, line in enumerate(_lines(table, name), start=1)]
    width = max(map(len, cells))
    if width > COLUMNS:
        raise DataError(
            f"context {name}: a table of {width} columns, and {COLUMNS} is the most; leave out those that no question "
            f"asks about, or the context by [data].without"
        )
    grid = [[*line, *[""] * (width - len(line))] for line in cells]
    if _is_data(grid[0]):
        grid.insert(0, [""] * width)
    lines = ["| " + " | ".join(line) + " |" for line in grid]
    rest = 1
    while rest < len(grid) and not grid[rest][0]:
        rest += 1  # a head of several lines: years, then units
    rest = rest if rest < len(grid) else 1
    return [lines[0], "|" + "---|" * width, *lines[1:rest]], lines[rest:]


def _lines(table: Sequence[Any], name: str) -> Iterator[Sequence[Any]]:
    for number, line in enumerate(table, start=1):
        if not isinstance(line, list | tuple):
            raise DataError(
                f"context {name}: row {number} of the table is {type(line).__name__} {str(line)[:40]!r} in place of a "
                f"list of cells; mend the row"
            )
        if line:
            yield line


def _cell(cell: Any, name: str, row: int) -> str:
    if isinstance(cell, dict | list | tuple):
        raise DataError(
            f"context {name}: a cell in row {row} of the table is {type(cell).__name__} {str(cell)[:40]!r}; write its "
            f"text, and leave the other cells that it is merged with empty"
        )
    return "" if cell is None else " ".join(str(cell).replace("|", "/").split())


def _is_data(line: Sequence[str]) -> bool:
    """Whether a row holds a label and numbers, so is no head: years are none."""
    values = [cell for cell in line[1:] if cell]
    return bool(line[0]) and bool(values) and all(_VALUE.fullmatch(cell) and not _YEAR.search(cell) for cell in values)


def evidence(report: str, question: str, needed: Sequence[str]) -> str:
    """The row or sentence of a report that holds most of what an answer needs; of several the one most like the question.

    Empty where none holds any of it.
    """
    best, found = (0, 0), ""
    for line in report.split("\n"):
        row = line.startswith("| ")
        for unit in [line.strip("| ")] if row else _split(line):
            held = sum(text in unit for text in needed)
            rank = held, len(_words(question) & _words(unit))
            if held and rank > best:
                best, found = rank, unit
    return found


def shuffled(report: str, order: Any) -> str:
    """The report with the rows of its table in another order, by `random.Random.shuffle`; its head stays on top."""
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
