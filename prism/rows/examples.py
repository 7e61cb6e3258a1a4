"""Makes the training and held-out examples from the rows of a spec."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, Protocol

from prism.errors import DataError
from prism.progress import CONSOLE
from prism.rows import Example, Row
from prism.rows.files import columns_of, line_of, require_columns
from prism.rows.images import prepare, read_sources
from prism.rows.leaks import Kind, leaking_places
from prism.rows.parts import parts_of, read_part
from prism.rows.splits import split_places, unique_ids
from prism.rows.values import is_blank, is_nan, matcher, no_text
from prism.spec import Spec
from prism.store.hub import Say

SplitPlaces = Callable[[Sequence[Row], Mapping[str, Any], int], tuple[list[int], list[int]]]
LeakingPlaces = Callable[[Sequence[Example], Sequence[Example], Kind], Collection[int]]


class Reader(Protocol):
    """What `load_examples` needs of a task; `prism.tasks.Task` implements it."""

    @property
    def columns(self) -> Sequence[str]: ...

    @property
    def labels(self) -> Sequence[str]: ...  # empty if answers are free text

    @property
    def example(self) -> Callable[[Row, str], Example]: ...

    @property
    def lists(self) -> Sequence[str]: ...  # the columns of which a value may be a list of texts

    @property
    def named(self) -> Mapping[str, str]: ...  # by column that the spec names, where and how it does

    @property
    def rows(self) -> Callable[[Row, Spec], list[Row]]: ...

    @property
    def images(self) -> Sequence[str]: ...  # the columns that hold images

    @property
    def source(self) -> str: ...  # the digest of a file beside the spec; empty for PRISM's own


def load_examples(
    spec: Spec,
    task: Reader,
    root: Path,
    data: Path | None = None,
    places: SplitPlaces = split_places,
    leaking: LeakingPlaces = leaking_places,
    pictures: Path | None = None,
    say: Say = CONSOLE.say,
) -> tuple[list[Example], list[Example]]:
    """The training and the held-out examples of a spec, in a fixed order; no training ones if the spec names none.

    `data` is --prism-data: a folder whose subfolder [data].name replaces [data].path. `places` splits rows that have no
    official parts. `leaking` returns the indices of the training rows that [data].dedupe removes before train_rows is
    applied. `pictures` is the folder of prepared images, which a task with images needs; `say` is told where the hub
    keeps us waiting. Raises DataError if rows, columns, classes or images are missing, or an image cannot be used.
    """
    split = spec.data.split
    pool: list[Row]
    parts = [_read_rows(spec, task, root, data, name, say) for name in parts_of(spec, root, data)]
    if split is None or not spec.has_training_rows:
        pool, held_out_pool = [], _shuffled(parts[0].rows, spec.seed)
    elif split.train:
        pool, held_out_pool = (_shuffled(part.rows, spec.seed) for part in parts)
    else:
        rows = parts[0].rows
        train, test = places(rows, split.model_dump(exclude_none=True), spec.seed)
        pool, held_out_pool = [rows[i] for i in train], [rows[i] for i in test]
    prepared = _Prepared(spec, task, pictures, parts)
    held_out_rows = held_out_pool[: spec.data.eval_rows]
    if spec.data.dedupe:
        pool = _remove_leaks(spec, prepared, pool, held_out_rows, spec.data.dedupe, leaking)
    selected = pool[: spec.data.train_rows], held_out_rows
    for chosen in selected:
        prepared.require_texts(chosen)
    training, held_out = (prepared.examples(chosen) for chosen in selected)
    for part, name in ((training, "training"), (held_out, "held-out")):
        if name == "training" and not spec.has_training_rows:
            continue
        if not part:
            raise DataError(f"{spec.id}: there are no {name} rows; check [data]")
        classes = {example.reference for example in part}
        if task.labels and len(classes) < 2:
            raise DataError(
                f'{spec.id}: all {len(part)} {name} rows are "{classes.pop()}"; one class cannot be learned or measured'
            )
    return training, held_out


@dataclass(frozen=True)
class _Part:
    """The rows of one part, and where each stood: as number in its file, counted from 1."""

    rows: list[Row]
    numbers: list[int]
    name: str
    file: Path | None  # None for rows of the hub

    def where(self, place: int) -> str:
        """Where the row at an index stood, for messages. It reads the file again for the line."""
        number = self.numbers[place]
        line = line_of(self.file, number) if self.file else None
        return f"{self.name}, row {number}" + (f" (line {line})" if line else "")


@dataclass(frozen=True)
class _Prepared:
    """Makes examples of rows whose images are prepared first."""

    spec: Spec
    task: Reader
    folder: Path | None
    parts: Sequence[_Part]

    def require_texts(self, rows: Sequence[Row]) -> None:
        """Raise DataError for the first value that is no text in a column that the task writes into its examples.

        Only of rows that are trained or measured on: what a published set holds besides does not matter.
        """
        chosen = set(map(id, rows))
        columns = [column for column in self.task.columns if column not in self.task.images]
        flag = bool(self.task.labels)  # whose message names the labels
        for part in self.parts:
            for place, row in enumerate(part.rows):
                for column in columns if id(row) in chosen else ():
                    if reason := no_text(row[column], several=column in self.task.lists, flag=flag):
                        remedy = f'fill it, or leave such rows out by [data].without = {{ {column} = [""] }}'
                        raise DataError(
                            f'{part.where(place)}: column "{column}" is {reason}, not text; '
                            f"{remedy if is_blank(row[column]) else 'write the text itself into the column'}"
                        )

    def _where(self, row: Row) -> str:
        return next(part.where(i) for part in self.parts for i, known in enumerate(part.rows) if known is row)

    def examples(self, rows: Sequence[Row]) -> list[Example]:
        return [
            _make_example(self.task, self._row(row, row_id), row_id, partial(self._where, row))
            for row, row_id in zip(rows, unique_ids(rows))
        ]

    def _row(self, row: Row, row_id: str) -> Row:
        if not self.task.images:
            return row
        if self.spec.image is None or self.folder is None:
            raise DataError(f"{self.spec.id}: its task has images, so the spec needs the table [image]; add it")
        images = {
            column: prepare(row[column], self.spec.image, self.folder, f"sample {row_id}")
            for column in self.task.images
        }
        return {**row, **images}


def _remove_leaks(
    spec: Spec, prepared: _Prepared, pool: list[Row], held_out_rows: list[Row], kind: Kind, leaking: LeakingPlaces
) -> list[Row]:
    training, held_out = map(prepared.examples, (pool, held_out_rows))
    removed = leaking(training, held_out, kind)
    remaining = [row for index, row in enumerate(pool) if index not in removed]
    if not remaining:
        raise DataError(
            f'{spec.id}.toml [data].dedupe = "{kind}": each of {len(pool)} training rows has a held-out twin; '
            f"name parts with different rows in [data].split"
        )
    return remaining


def _make_example(task: Reader, row: Row, row_id: str, where: Callable[[], str]) -> Example:
    """The example of a row. In other columns than the task's own, NaN is null, as Parquet and pandas write it."""
    for value in row.values():
        if is_nan(value):
            row = {column: None if is_nan(value) else value for column, value in row.items()}
            break
    try:
        return task.example(row, row_id)
    except DataError as error:
        raise DataError(f"{where()}: {str(error).removeprefix(f'row {row_id}: ')}") from None


def _shuffled(rows: Sequence[Row], seed: int) -> list[Row]:
    import numpy

    return [rows[i] for i in numpy.random.default_rng(seed).permutation(len(rows))]


def _read_rows(spec: Spec, task: Reader, root: Path, data: Path | None, part: str, say: Say) -> _Part:
    """The rows of a part, one a question, with the task's column names and their images found."""
    rows, name, file, folder = read_part(spec, root, data, part, say)
    questions: list[Row] = []
    numbers: list[int] = []
    for number, row in enumerate(rows, start=1):
        try:
            found = task.rows(row, spec)
        except DataError as error:
            raise DataError(f"{name}, row {number}: {error}") from None
        questions += found
        numbers += [number] * len(found)
    selected = _selected(spec, task, _Part(questions, numbers, name, file))
    if task.labels:  # report an unknown label as such; the split would report too few rows
        for i, row in enumerate(selected.rows):
            _make_example(task, row, "", partial(selected.where, i))
    return replace(selected, rows=read_sources(selected.rows, task.images, folder, spec.data.path))


def _selected(spec: Spec, task: Reader, part: _Part) -> _Part:
    """The rows, with the task's column names, that match [data].where and do not match [data].without."""
    where, without, columns = spec.data.where, spec.data.without, spec.data.columns
    rows = part.rows
    if columns:
        for own_column in columns.values():
            if not any(own_column in row for row in rows):
                require_columns(rows, [own_column], part.where)
        rows = [
            {column: value for column, value in row.items() if column not in columns.values()}
            | {task_column: row.get(own_column) for task_column, own_column in columns.items()}
            for row in rows
        ]
    _require_named(spec, task, rows)
    filters = [(column, matcher(values), True) for column, values in where.items()]
    filters += [(column, matcher(values), False) for column, values in without.items()]
    for column, _, _ in filters:
        if not any(column in row for row in rows):
            require_columns(rows, [column], part.where)
    kept = [i for i, row in enumerate(rows) if all(test(row.get(column)) is keep for column, test, keep in filters)]
    if not kept:
        shown = f"where = {where}" + (f", without = {without}" if without else "")
        raise DataError(f"{spec.id}.toml [data].{shown}: keeps none of {len(rows)} rows; allow more values")
    selected = _Part([rows[i] for i in kept], [part.numbers[i] for i in kept], part.name, part.file)
    # Only now: a row that is left out may lack what it likes.
    require_columns([part.rows[i] for i in kept], list(columns.values()), selected.where)
    require_columns(selected.rows, task.columns, selected.where)
    if spec.data.split and spec.data.split.group:
        require_columns(selected.rows, [spec.data.split.group], selected.where)
    return selected


def _require_named(spec: Spec, task: Reader, rows: Sequence[Row]) -> None:
    """Raise DataError if no row has a column that the spec names in its prompt or its split."""
    split = spec.data.split
    named = dict(task.named)
    for key in ("stratify", "group"):
        column = getattr(split, key, None)
        if column and column not in task.columns:  # whose absence is said with its row and the nearest name
            named[column] = f'[data].split {key} = "{column}"'
    for column, written in named.items():
        if not any(column in row for row in rows):
            raise DataError(
                f"{spec.id}.toml {written}: the rows have no such column, they have "
                f"{columns_of(rows[0])}; name one of these, or map yours in [data].columns"
            )
