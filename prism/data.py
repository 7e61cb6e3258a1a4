"""Rows: where they come from, which are held out, and how each is named.

A row is a plain dict. Files are read with the standard library (Parquet with pyarrow), so that a run whose results are
all cached stays light; only a hub id goes through `datasets.load_dataset`.
"""

from __future__ import annotations

import csv
import gzip
import hashlib
import io
import json
import zlib
from collections import Counter
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from prism.errors import DataError
from prism.spec import Spec, is_local

Row = dict[str, Any]
Places = Callable[[Sequence[Row], Mapping[str, Any], int], tuple[list[int], list[int]]]
SUFFIXES = (".jsonl.gz", ".jsonl", ".csv", ".parquet")


@dataclass(frozen=True)
class Example:
    """One question as it is asked. `group` names what makes samples dependent; by default the sample itself.

    `facts` is what else the row says (type, scale, context …), for metrics, judges and controls: no model sees it.
    """

    id: str
    messages: tuple[Mapping[str, str], ...]
    reference: str
    group: str
    images: tuple[Path, ...] = ()
    facts: Mapping[str, Any] = field(default_factory=dict)


Kind = Literal["exact", "near"]
Leaking = Callable[[Sequence[Example], Sequence[Example], Kind], Collection[int]]


@dataclass(frozen=True)
class Prediction:
    """What a model answered to the example of the same id; `finish` is "stop", or "length" where it was cut off."""

    id: str
    answer: str
    tokens: int
    finish: str


def read_rows(path: Path) -> list[Row]:
    """Read one .jsonl, .jsonl.gz, .csv or .parquet file.

    Raises DataError naming file and line where a row cannot be read, and where there is no row at all.
    """
    if not path.name.endswith(SUFFIXES):
        raise DataError(f"{path}: not one of {', '.join(SUFFIXES)}; convert the file or name another")
    try:
        if path.name.endswith(".parquet"):
            import pyarrow.parquet

            rows = pyarrow.parquet.read_table(path).to_pylist()
        else:
            with gzip.open(path) if path.suffix == ".gz" else path.open("rb") as file:
                text = io.TextIOWrapper(file, encoding="utf-8-sig", newline="")
                rows = _csv_rows(path, text) if path.suffix == ".csv" else _json_lines(path, text)
    except FileNotFoundError:
        raise DataError(
            f"{path}: no such file; check [data].path, or point --prism-data at the folder above it"
        ) from None
    except UnicodeDecodeError as error:
        raise DataError(f"{path}: byte {error.start} is not UTF-8; save the file as UTF-8") from None
    except (OSError, EOFError, ValueError, zlib.error) as error:
        raise DataError(f"{path}: cannot be read ({error}); restore the file") from None
    if not rows:
        raise DataError(f"{path}: holds no rows; an empty set of samples cannot be measured")
    return rows


def _csv_rows(path: Path, lines: Any) -> list[Row]:
    reader = csv.DictReader(lines, strict=True)  # else a quotation mark that is not closed eats the rows after it
    rows = []
    try:
        for row in reader:
            if None in row:
                raise DataError(
                    f"{path}:{reader.line_num}: has more values than the header has columns; quote values that hold commas"
                )
            rows.append(row)
    except csv.Error as error:
        raise DataError(f"{path}:{reader.line_num}: {error}; look for a quotation mark that is not closed") from None
    return rows


def _json_lines(path: Path, lines: Any) -> list[Row]:
    rows = []
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
        except json.JSONDecodeError as error:
            raise DataError(f"{path}:{number}: not JSON ({error.msg}); each line must be one object") from None
        if not isinstance(row, dict):
            raise DataError(f"{path}:{number}: {type(row).__name__} in place of an object; each line must be one row")
        if "\\ud" in line.lower() and _surrogate(row):
            raise DataError(
                f"{path}:{number}: holds half of a surrogate pair (\\ud83d without the other); mend the text"
            )
        rows.append(row)
    return rows


def _surrogate(row: Row) -> bool:
    try:
        json.dumps(row, ensure_ascii=False).encode()
    except UnicodeEncodeError:
        return True
    return False


def row_id(row: Row) -> str:
    """The name of a row: 12 hex digits of the SHA-256 of its content, so it outlives reordering and file names."""
    canonical = json.dumps(row, sort_keys=True, ensure_ascii=False, default=str)
    return hashlib.sha256(canonical.encode()).hexdigest()[:12]


def unique_ids(rows: Sequence[Row]) -> list[str]:
    """`row_id` of each row; a repeated row gets "-2", "-3" … so that every sample has a name of its own."""
    seen: Counter[str] = Counter()
    ids = []
    for row in rows:
        name = row_id(row)
        seen[name] += 1
        ids.append(name if seen[name] == 1 else f"{name}-{seen[name]}")
    return ids


def split_rows(rows: Sequence[Row], split: Mapping[str, Any], seed: int) -> tuple[list[Row], list[Row]]:
    """Rows divided into (training, held out) as `split_places` says."""
    train, test = split_places(rows, split, seed)
    return [rows[i] for i in train], [rows[i] for i in test]


def split_places(rows: Sequence[Row], split: Mapping[str, Any], seed: int) -> tuple[list[int], list[int]]:
    """Shuffle and divide rows with scikit-learn's splitters: the places of the training and of the held-out rows.

    `split` holds test_size (a share, or a number of rows; with `group` of its values) and at most one of `stratify` (a
    column whose shares stay equal: train_test_split) and `group` (a column whose values stay whole: GroupShuffleSplit).
    Both parts come out shuffled, so that their first N rows are a random sample.
    """
    import numpy
    from sklearn.model_selection import GroupShuffleSplit, train_test_split

    test_size = split["test_size"]
    for column in filter(None, (split.get("stratify"), split.get("group"))):
        require_columns(rows, [column])
    labels, groups = ([str(row[split[by]]) for row in rows] if split.get(by) else None for by in ("stratify", "group"))
    if groups and len(set(groups)) < 2:
        raise DataError(f'[data].split group = "{split["group"]}": one value only, so nothing can be held out')
    try:
        if groups:
            train, test = next(GroupShuffleSplit(1, test_size=test_size, random_state=seed).split(rows, groups=groups))
            shuffle = numpy.random.default_rng(seed).permutation
            return shuffle(train).tolist(), shuffle(test).tolist()
        train, test = train_test_split(range(len(rows)), test_size=test_size, random_state=seed, stratify=labels)
    except ValueError as error:
        raise DataError(f"[data].split of {len(rows)} rows: {error}; lower test_size or add rows") from None
    return list(train), list(test)


def load_examples(
    spec: Spec, root: Path, data: Path | None = None, places: Places = split_places, leaking: Leaking | None = None
) -> tuple[list[Example], list[Example]]:
    """The training and the held-out examples of a spec, in a fixed order.

    `data` is --prism-data: a folder whose subfolder [data].name stands in for the spec's own path. `places` splits rows
    that come without official parts. `leaking` tells the places of those training rows that [data].dedupe removes
    before train_rows are taken. Raises DataError where rows, columns or classes are missing.
    """
    task = spec.load_task()
    split = spec.data.split
    if split.train and split.test:
        parts = [_rename(spec, _rows(spec, root, data, name)) for name in (split.train, split.test)]
        order = _shuffled(parts[0], spec.seed), _shuffled(parts[1], spec.seed)
    else:
        rows = _rename(spec, _rows(spec, root, data, "train"))
        if hasattr(task, "LABELS"):  # a label that nobody knows would else be said to have too few rows to split
            for number, row in enumerate(rows, start=1):
                _example(task, row, f"{spec.data.path}, row {number}")
        train, test = places(rows, split.model_dump(exclude_none=True), spec.seed)
        order = [rows[i] for i in train], [rows[i] for i in test]
    pool, measured = order[0], order[1][: spec.data.eval_rows]
    if spec.data.dedupe:
        pool = _without_leaks(spec, pool, measured, spec.data.dedupe, leaking)
    chosen = pool[: spec.data.train_rows], measured
    training, held_out = ([task.example(row, row_name) for row, row_name in _named(part)] for part in chosen)
    for part, name in ((training, "training"), (held_out, "held-out")):
        if not part:
            raise DataError(f"{spec.id}: no {name} rows; an empty set of samples cannot be measured")
        classes = {example.reference for example in part}
        if hasattr(task, "LABELS") and len(classes) < 2:
            raise DataError(
                f'{spec.id}: all {len(part)} {name} rows are "{classes.pop()}"; one class cannot be learned or measured'
            )
    return training, held_out


def _without_leaks(spec: Spec, pool: list[Row], measured: list[Row], kind: Kind, leaking: Leaking | None) -> list[Row]:
    if leaking is None:
        raise ValueError(f"{spec.id} asks for dedupe, and nobody looked for leaks: pass leaking = leaks.places")
    task = spec.load_task()
    rows, held_out = ([task.example(row, name) for row, name in _named(part)] for part in (pool, measured))
    removed = leaking(rows, held_out, kind)
    kept = [row for place, row in enumerate(pool) if place not in removed]
    if not kept:
        raise DataError(
            f'{spec.id}.toml [data].dedupe = "{kind}": each of {len(pool)} training rows has a twin that is '
            f"held out; name parts of different rows in [data].split"
        )
    return kept


def _example(task: Any, row: Row, name: str) -> Example:
    try:
        return task.example(row, name)
    except DataError as error:
        raise DataError(str(error) if name in str(error) else f"{name}: {error}") from None


def _named(rows: Sequence[Row]) -> list[tuple[Row, str]]:
    return list(zip(rows, unique_ids(rows)))


def _shuffled(rows: Sequence[Row], seed: int) -> list[Row]:
    import numpy

    return [rows[i] for i in numpy.random.default_rng(seed).permutation(len(rows))]


def _rename(spec: Spec, rows: Sequence[Row]) -> list[Row]:
    """Rows with the task's own column names, less those that [data].where and .without leave out."""
    task, where, without = spec.load_task(), spec.data.where, spec.data.without
    if hasattr(task, "rows"):
        rows = [part for row in rows for part in task.rows(row, spec)]
    mapped = spec.data.columns
    for column in mapped.values():
        require_columns(rows, [column], spec.data.path)
    rows = [
        {column: value for column, value in row.items() if column not in mapped.values()}
        | {mine: row[theirs] for mine, theirs in mapped.items()}
        for row in rows
    ]
    require_columns(rows, [*task.COLUMNS, *where, *without], spec.data.path)
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


def _rows(spec: Spec, root: Path, data: Path | None, part: str) -> list[Row]:
    """One part's rows: from --prism-data, a local file or folder, or the hub."""
    if folder := stand_in(spec, data):
        return read_rows(_file(folder, part))
    if is_local(spec.data.path, root):
        path = (root / Path(spec.data.path).expanduser()).resolve()
        if path.is_file() and spec.data.split.train:
            raise DataError(
                f"{spec.data.path}: is one file, which has no parts {spec.data.split.train} and {spec.data.split.test}; "
                f"name the folder that holds one file a part, or give [data].split a test_size"
            )
        return read_rows(_file(path, part) if path.is_dir() else path)
    from datasets import load_dataset

    try:
        return load_dataset(spec.data.path, split=part).to_list()
    except Exception as error:  # noqa: BLE001  # an unreachable hub shows itself as any of a dozen types of three libraries
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise DataError(
            f"{spec.data.path}: cannot be had from the hub ({reason}); put the rows into DIR/{spec.data.name or 'NAME'}/"
            f"{part}.jsonl and pass --prism-data DIR"
        ) from None


def _file(folder: Path, part: str) -> Path:
    for suffix in SUFFIXES:
        if (folder / f"{part}{suffix}").is_file():
            return folder / f"{part}{suffix}"
    raise DataError(f"{folder}: holds no {part}.jsonl(.gz), .csv or .parquet; check [data].path and split")


def require_columns(rows: Sequence[Row], columns: Sequence[str], source: str = "") -> None:
    """Raise DataError where a row lacks one of the columns; `source` is what the rows were read from."""
    for number, row in enumerate(rows, start=1):
        missing = [column for column in columns if row.get(column) is None]
        if not missing:
            continue
        if missing[0] in row:
            remedy = "Fill it, or delete the row"
        else:
            remedy = (
                "Separate columns by commas" if any(";" in str(key) for key in row) else "Name yours in [data].columns"
            )
        raise DataError(
            f'{source}{", " * bool(source)}row {number}: no value in column "{missing[0]}"; the row has '
            f"{', '.join(map(repr, row))}. {remedy}"
        )
