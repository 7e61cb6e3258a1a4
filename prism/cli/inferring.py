"""What `prism init` reads off rows: question, answer, labels, groups, split, each with where it was read.

Names decide first, then the values. What is taken may be wrong, so it is printed, and the spec is the owner's to edit.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from prism.errors import DataError
from prism.report import words
from prism.rows import Row
from prism.rows.files import SUFFIXES, columns_of, read_rows
from prism.rows.values import is_blank
from prism.tasks import prompts

# Column names that say what they hold, the likeliest first.
ANSWERS = [
    "label",
    "answer",
    "answers",
    "sentiment",
    "category",
    "class",
    "intent",
    "target",
    "topic",
    "output",
    "response",
]
QUESTIONS = ["question", "text", "instruction", "prompt", "message", "sentence", "query", "input", "review", "headline"]
CONTEXTS = ["context", "passage", "evidence", "document", "input"]
GROUPS = re.compile(
    r"(patient|customer|user|client|subject|document|doc|filing|case|study|conversation|thread)([ _-]?id)?"
)
HELD_OUT = ["test", "validation", "valid", "dev", "eval"]  # names of parts that are held out, the likeliest first

MOST_LABELS = 30
LONGEST_LABEL = 60  # characters
ROWS_A_LABEL = 5  # on average; with fewer, the column is no closed set
MOST_HELD_OUT = 1_000  # rows of a first run on a CPU

Told = list[tuple[str, str]]  # what was taken, and from where


@dataclass(frozen=True)
class Source:
    """The rows of --data: of one file, or of the parts of a folder that `split` names."""

    rows: list[Row]
    path: Path  # the file, or the folder
    train: str | None = None
    test: str | None = None


@dataclass(frozen=True)
class Columns:
    """The columns that a question and its answer are read from. `labels` is empty if answers are not a closed set."""

    question: str
    answer: str
    context: str | None
    group: str | None
    labels: tuple[str, ...]
    blank: tuple[str, ...]  # those of the above in which some rows have nothing
    rarest: int  # rows of the rarest label


def read_source(path: Path) -> Source:
    """The rows of a file, or of a folder's parts. Raises DataError if there are none, or not one pair of parts."""
    if not path.is_dir():
        return Source(read_rows(path), path)
    parts = {file.name.removesuffix(end): file for end in SUFFIXES for file in sorted(path.glob(f"*{end}"))}
    test = next((name for name in HELD_OUT if name in parts), None)
    if test and "train" in parts:
        return Source([*read_rows(parts["train"]), *read_rows(parts[test])], path, "train", test)
    if len(parts) != 1:
        found = f"has the parts {', '.join(sorted(parts))}" if parts else f"contains no {', '.join(SUFFIXES)} file"
        raise DataError(f"--data {path}: {found}; name one file, or a folder with the parts train and test")
    (file,) = parts.values()
    return Source(read_rows(file), file)


def infer_columns(
    rows: Sequence[Row],
    told: Told,
    *,
    question: str | None,
    answer: str | None,
    closed: bool | None,
    own: tuple[str, str] | None = None,
    image: str | None = None,
    lists: bool = False,
) -> Columns:
    """The columns of rows, and whether the answers are a closed set (None: decide). What is taken is added to `told`.

    `question` and `answer` are columns that the owner named, `own` those that the task calls so, `image` that of pictures.
    `lists` allows several right answers. Raises DataError if nothing says which column is which.
    """
    names = [name for name in _texts(rows, lists) if name != image]
    for option, name in {"--question": question, "--answer": answer}.items():
        if name is not None and name not in names:
            raise DataError(f'{option} "{name}": no row has text there; the rows have {columns_of(rows[0])}')
    values = {name: _values(rows, name) for name in names}
    groups = [name for name in names if GROUPS.fullmatch(name.casefold()) and _repeats(values[name])]
    free = [name for name in names if name not in groups]
    known = own if own and set(own) <= set(free) else (None, None)
    gold, why_gold = _named_by(answer, "--answer", known[1]) or _answer(free, values, question)
    asked, why_asked = _named_by(question, "--question", known[0]) or _question(free, values, gold)
    context = next((name for name in _named(free, CONTEXTS) if name not in (asked, gold) and not own), None)
    if context and len(values[context]) < len(rows):
        context = None
    counts = _labels(values[gold])
    if closed is None:
        closed = _is_closed(counts)
        kinds = f'"{gold}" has {len(counts)} values in {len(rows):,} rows'
        told.append(("task", f"{'classify' if closed else 'answer'}: {kinds}"))
    told.append(("question", f'"{asked}", by {why_asked}' + (f'; after "{context}", by its name' if context else "")))
    told.append(("answer", f'"{gold}", by {why_gold}'))
    if closed:
        shown = ", ".join(f"{label} ({counts[label]:,})" for label in sorted(counts))
        told.append(("labels", f'the values of "{gold}": {shown}'))
    used = [name for name in (context, asked, gold) if name]
    blank = tuple(name for name in (*used, image) if name and any(is_blank(row.get(name)) for row in rows))
    if blank:
        left = sum(any(is_blank(row.get(name)) for name in blank) for row in rows)
        told.append(("left out", f"{words.count(left, 'row')} without a value in {' or '.join(blank)}"))
    group = next((name for name in groups if name not in used), None)
    return Columns(asked, gold, context, group, tuple(sorted(counts)) if closed else (), blank, min(counts.values()))


def split_line(source: Source, columns: Columns, finished: bool, told: Told) -> str:
    """[data].split as TOML, empty if all rows are held out: of a finished adapter nobody says what it was trained on."""
    group = f'rows of one "{columns.group}" are dependent' if columns.group else ""
    if finished:
        unsaid = "nobody says which rows the adapter was trained on"
        told.append(
            ("split", f"{source.test} is held out: {unsaid}" if source.test else f"all rows held out: {unsaid}")
        )
        if group:
            told.append(
                ("careful", f"{group}, which only a split by group can say; intervals take each row for itself")
            )
        return f'split = {{ test = "{source.test}" }}\n' if source.test else ""
    if source.test:
        told.append(("split", f"{source.train} and {source.test}, the files of {source.path.name}"))
        return f'split = {{ train = "{source.train}", test = "{source.test}" }}\n'
    key, why = "", "a fifth held out"
    if columns.group:
        key, why = f", group = {quoted(columns.group)}", f"a fifth held out, {group}, so they stay together"
    elif columns.labels and columns.rarest > 1:
        key, why = f", stratify = {quoted(columns.answer)}", f'a fifth held out, each label of "{columns.answer}" alike'
    told.append(("split", why))
    return f"split = {{ test_size = 0.2{key} }}\n"


def quoted(text: str) -> str:
    """A TOML string: JSON's notation is one, but for DEL."""
    import json

    return json.dumps(text, ensure_ascii=False).replace("\x7f", "\\u007f")


def _texts(rows: Sequence[Row], lists: bool) -> list[str]:
    """The columns that hold text or numbers, or `lists` of them, and no table."""
    names = dict.fromkeys(name for row in rows for name in row if name)
    cells = {name: [row[name] for row in rows if not is_blank(row.get(name))] for name in names}
    kinds = (str, int, float, list) if lists else (str, int, float)
    return [name for name, found in cells.items() if found and all(isinstance(cell, kinds) for cell in found)]


def _values(rows: Sequence[Row], name: str) -> list[str]:
    """The column as a task reads it, without blanks; of a list its texts, one after another."""
    cells = [row[name] for row in rows if not is_blank(row.get(name))]
    texts = [" ".join(map(str, c)) if isinstance(c, list) else prompts.value({name: c}, name) for c in cells]
    return [" ".join(text.split()) for text in texts]


def _named_by(option: str | None, why: str, own: str | None) -> tuple[str, str] | None:
    """The column that the owner or the task names, and why; None if neither does."""
    return (option, why) if option else (own, "its name") if own else None


def _labels(values: Sequence[str]) -> Counter[str]:
    """How often each value occurs, spellings that differ in case counted as the most frequent one."""
    counts = Counter(values)
    spelling: dict[str, str] = {}
    for value, _ in counts.most_common():
        spelling.setdefault(value.casefold(), value)
    return Counter(spelling[value.casefold()] for value in values)


def _is_closed(counts: Mapping[str, int]) -> bool:
    few = 2 <= len(counts) <= MOST_LABELS and sum(counts.values()) >= ROWS_A_LABEL * len(counts)
    return few and all(len(label) <= LONGEST_LABEL for label in counts)


def _repeats(values: Sequence[str]) -> bool:
    return 1 < len(set(values)) < len(values)


def _named(names: Sequence[str], known: Sequence[str]) -> list[str]:
    """Those of the names that are known ones, or end in one (customer_message), the likeliest first."""
    whole = [name for word in known for name in names if name.casefold() == word]
    return whole + [n for word in known for n in names if n not in whole and re.search(rf"[ _-]{word}$", n.casefold())]


def _answer(names: Sequence[str], values: Mapping[str, list[str]], question: str | None) -> tuple[str, str]:
    others = [name for name in names if name != question]
    if named := _named(others, ANSWERS):
        return named[0], "its name"
    closed = [name for name in others if _is_closed(_labels(values[name]))]
    if len(closed) == 1:
        return closed[0], "its few values"
    raise DataError(
        f"--data: no column is called like an answer ({', '.join(ANSWERS[:4])} …), and "
        f"{len(closed) or 'none'} of {', '.join(others)} {'have' if len(closed) > 1 else 'has'} few values; name it by "
        f"--answer COLUMN"
    )


def _question(names: Sequence[str], values: Mapping[str, list[str]], gold: str) -> tuple[str, str]:
    others = [name for name in names if name != gold]
    if not others:
        raise DataError(
            f'--data: there is no column beside "{gold}" to ask about; add one, or name it by --question COLUMN'
        )
    if named := _named(others, QUESTIONS):
        return named[0], "its name"
    return max(others, key=lambda name: sum(map(len, values[name]))), "its length: the longest texts"
