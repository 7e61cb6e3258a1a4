"""Rows: where they come from, which are held out, and how each is named.

A row is a plain dict. Files are read with the standard library (Parquet with pyarrow), so that a run whose results are
all cached stays light; only a hub id goes through `datasets.load_dataset`.
"""

from __future__ import annotations

import csv
import gzip
import hashlib
import json
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from prism.errors import DataError

Row = dict[str, Any]
SUFFIXES = (".jsonl.gz", ".jsonl", ".csv", ".parquet")


@dataclass(frozen=True)
class Example:
    """One question as it is asked. `group` names what makes samples dependent; by default the sample itself."""

    id: str
    messages: tuple[Mapping[str, str], ...]
    reference: str
    group: str
    images: tuple[Path, ...] = ()


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
            opened = gzip.open(path, "rt", encoding="utf-8") if path.suffix == ".gz" else open(path, encoding="utf-8-sig")
            with opened as file:
                rows = list(csv.DictReader(file)) if path.suffix == ".csv" else _json_lines(path, file)
    except FileNotFoundError:
        raise DataError(f"{path}: no such file; check [data].path, or point --prism-data at the folder above it") from None
    except UnicodeDecodeError as error:
        raise DataError(f"{path}: byte {error.start} is not UTF-8; save the file as UTF-8") from None
    except (OSError, EOFError, ValueError) as error:
        raise DataError(f"{path}: cannot be read ({error}); restore the file") from None
    if not rows:
        raise DataError(f"{path}: holds no rows; an empty set of samples cannot be measured")
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
        rows.append(row)
    return rows


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
    """Shuffle and divide rows into (training, held out) with scikit-learn's splitters.

    `split` holds test_size (a share, or a number of rows) and at most one of `stratify` (a column whose shares stay
    equal: train_test_split) and `group` (a column whose values stay whole: GroupShuffleSplit). Both parts come out
    shuffled, so that their first N rows are a random sample.
    """
    import numpy
    from sklearn.model_selection import GroupShuffleSplit, train_test_split

    test_size = split["test_size"]
    for column in filter(None, (split.get("stratify"), split.get("group"))):
        require_columns(rows, [column])
    if split.get("group"):
        groups = [str(row[split["group"]]) for row in rows]
        if len(set(groups)) < 2:
            raise DataError(f'[data].split group = "{split["group"]}": one value only, so nothing can be held out')
        train, test = next(GroupShuffleSplit(1, test_size=test_size, random_state=seed).split(rows, groups=groups))
        shuffle = numpy.random.default_rng(seed).permutation
        return [rows[i] for i in shuffle(train)], [rows[i] for i in shuffle(test)]
    labels = [str(row[split["stratify"]]) for row in rows] if split.get("stratify") else None
    try:
        train, test = train_test_split(range(len(rows)), test_size=test_size, random_state=seed, stratify=labels)
    except ValueError as error:
        raise DataError(f"[data].split of {len(rows)} rows: {error}; lower test_size or add rows") from None
    return [rows[i] for i in train], [rows[i] for i in test]


def require_columns(rows: Sequence[Row], columns: Sequence[str]) -> None:
    """Raise DataError where a row lacks one of the columns."""
    for number, row in enumerate(rows, start=1):
        missing = [column for column in columns if row.get(column) is None]
        if missing:
            raise DataError(
                f'row {number}: no value in column "{missing[0]}"; the row has {", ".join(map(repr, row))}. '
                f"Name your columns in [data].columns"
            )
