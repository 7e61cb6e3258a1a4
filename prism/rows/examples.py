"""From a spec's rows to the examples that a model is trained on and asked."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

from prism.errors import DataError
from prism.rows import Example, Row
from prism.rows.files import SUFFIXES, read_rows, require_columns
from prism.rows.leaks import Kind, leaking_places
from prism.rows.splits import split_places, unique_ids
from prism.spec import Spec
from prism.store.sources import is_local

Places = Callable[[Sequence[Row], Mapping[str, Any], int], tuple[list[int], list[int]]]
Leaking = Callable[[Sequence[Example], Sequence[Example], Kind], Collection[int]]


class Reader(Protocol):
    """What has to be known of a task to read its rows; `prism.tasks.Task` is one."""

    @property
    def columns(self) -> Sequence[str]: ...

    @property
    def labels(self) -> Sequence[str]: ...  # empty if the answer is not one of a closed set

    @property
    def example(self) -> Callable[[Row, str], Example]: ...

    @property
    def rows(self) -> Callable[[Row, Spec], list[Row]]: ...


def load_examples(
    spec: Spec,
    task: Reader,
    root: Path,
    data: Path | None = None,
    places: Places = split_places,
    leaking: Leaking = leaking_places,
) -> tuple[list[Example], list[Example]]:
    """The training and the held-out examples of a spec, in a fixed order.

    `data` is --prism-data: a folder whose subfolder [data].name replaces the spec's own path. `places` splits rows that
    have no official parts. `leaking` returns the places of the training rows that [data].dedupe removes before
    train_rows are taken. Raises DataError if rows, columns or classes are missing.
    """
    split = spec.data.split
    if split.train and split.test:
        parts = [_mapped(spec, task, _read_part(spec, root, data, name)) for name in (split.train, split.test)]
        order = _shuffled(parts[0], spec.seed), _shuffled(parts[1], spec.seed)
    else:
        rows = _mapped(spec, task, _read_part(spec, root, data, "train"))
        if task.labels:  # a label that nobody knows would else be said to have too few rows to split
            for number, row in enumerate(rows, start=1):
                _example(task, row, f"{spec.data.path}, row {number}")
        train, test = places(rows, split.model_dump(exclude_none=True), spec.seed)
        order = [rows[i] for i in train], [rows[i] for i in test]
    pool, measured = order[0], order[1][: spec.data.eval_rows]
    if spec.data.dedupe:
        pool = _without_leaks(spec, task, pool, measured, spec.data.dedupe, leaking)
    chosen = pool[: spec.data.train_rows], measured
    training, held_out = ([task.example(row, row_name) for row, row_name in _named(part)] for part in chosen)
    for part, name in ((training, "training"), (held_out, "held-out")):
        if not part:
            raise DataError(f"{spec.id}: no {name} rows; an empty set of samples cannot be measured")
        classes = {example.reference for example in part}
        if task.labels and len(classes) < 2:
            raise DataError(
                f'{spec.id}: all {len(part)} {name} rows are "{classes.pop()}"; one class cannot be learned or measured'
            )
    return training, held_out


def _without_leaks(
    spec: Spec, task: Reader, pool: list[Row], measured: list[Row], kind: Kind, leaking: Leaking
) -> list[Row]:
    rows, held_out = ([task.example(row, name) for row, name in _named(part)] for part in (pool, measured))
    removed = leaking(rows, held_out, kind)
    kept = [row for place, row in enumerate(pool) if place not in removed]
    if not kept:
        raise DataError(
            f'{spec.id}.toml [data].dedupe = "{kind}": each of {len(pool)} training rows has a twin that is '
            f"held out; name parts of different rows in [data].split"
        )
    return kept


def _example(task: Reader, row: Row, name: str) -> Example:
    try:
        return task.example(row, name)
    except DataError as error:
        raise DataError(str(error) if name in str(error) else f"{name}: {error}") from None


def _named(rows: Sequence[Row]) -> list[tuple[Row, str]]:
    return list(zip(rows, unique_ids(rows)))


def _shuffled(rows: Sequence[Row], seed: int) -> list[Row]:
    import numpy

    return [rows[i] for i in numpy.random.default_rng(seed).permutation(len(rows))]


def _mapped(spec: Spec, task: Reader, rows: Sequence[Row]) -> list[Row]:
    """Rows with the task's own column names, without those that [data].where and .without leave out."""
    where, without = spec.data.where, spec.data.without
    rows = [part for row in rows for part in task.rows(row, spec)]
    mapped = spec.data.columns
    for column in mapped.values():
        require_columns(rows, [column], spec.data.path)
    rows = [
        {column: value for column, value in row.items() if column not in mapped.values()}
        | {mine: row[theirs] for mine, theirs in mapped.items()}
        for row in rows
    ]
    require_columns(rows, [*task.columns, *where, *without], spec.data.path)
    kept = [
        row
        for row in rows
        if all(row[column] in values for column, values in where.items())
        and not any(row[column] in values for column, values in without.items())
    ]
    if not kept:
        given = f"where = {where}" + (f", without = {without}" if without else "")
        raise DataError(f"{spec.id}.toml [data].{given}: keeps none of {len(rows)} rows; widen it")
    return kept


def has_local_rows(spec: Spec, root: Path, data: Path | None) -> bool:
    """Whether the rows can be read without a network."""
    return stand_in(spec, data) is not None or is_local(spec.data.path, root)


def stand_in(spec: Spec, data: Path | None) -> Path | None:
    """The folder of --prism-data that stands in for the spec's own path; None where there is none."""
    folder = data / spec.data.name if data is not None and spec.data.name else None
    return folder if folder is not None and folder.is_dir() else None


def _read_part(spec: Spec, root: Path, data: Path | None, part: str) -> list[Row]:
    """One part's rows: from --prism-data, a local file or folder, or the hub."""
    if folder := stand_in(spec, data):
        return read_rows(_part_file(folder, part))
    if is_local(spec.data.path, root):
        path = (root / Path(spec.data.path).expanduser()).resolve()
        if path.is_file() and spec.data.split.train:
            raise DataError(
                f"{spec.data.path}: is one file, which has no parts {spec.data.split.train} and {spec.data.split.test}; "
                f"name the folder that holds one file a part, or give [data].split a test_size"
            )
        return read_rows(_part_file(path, part) if path.is_dir() else path)
    from datasets import load_dataset

    try:
        return load_dataset(spec.data.path, split=part).to_list()
    except Exception as error:  # noqa: BLE001  # an unreachable hub shows itself as any of a dozen types of three libraries
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise DataError(
            f"{spec.data.path}: cannot be had from the hub ({reason}); put the rows into DIR/{spec.data.name or 'NAME'}/"
            f"{part}.jsonl and pass --prism-data DIR"
        ) from None


def _part_file(folder: Path, part: str) -> Path:
    for suffix in SUFFIXES:
        if (folder / f"{part}{suffix}").is_file():
            return folder / f"{part}{suffix}"
    raise DataError(f"{folder}: holds no {part}.jsonl(.gz), .csv or .parquet; check [data].path and split")
