"""Reads rows from files with the standard library (Parquet with pyarrow), so that a fully cached run starts fast."""

from __future__ import annotations

import csv
import gzip
import io
import json
import zlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from prism.errors import DataError
from prism.rows import Row

SUFFIXES = (".jsonl.gz", ".jsonl", ".csv", ".parquet")


def read_rows(path: Path) -> list[Row]:
    """Read one .jsonl, .jsonl.gz, .csv or .parquet file.

    Raises DataError with file and line if a row cannot be read, or if the file has no rows.
    """
    if not path.name.endswith(SUFFIXES):
        raise DataError(f"{path}: not one of {', '.join(SUFFIXES)}; convert the file")
    try:
        if path.name.endswith(".parquet"):
            import pyarrow.parquet

            rows = pyarrow.parquet.read_table(path).to_pylist()
        else:
            with gzip.open(path) if path.suffix == ".gz" else path.open("rb") as file:
                text = io.TextIOWrapper(file, encoding="utf-8-sig", newline="")
                rows = _parse_csv(path, text) if path.suffix == ".csv" else _parse_json_lines(path, text)
    except FileNotFoundError:
        raise DataError(f"{path}: no such file; check [data].path, or pass the parent folder as --prism-data") from None
    except UnicodeDecodeError as error:
        raise DataError(f"{path}: byte {error.start} is not UTF-8; save the file as UTF-8") from None
    except (OSError, EOFError, ValueError, zlib.error) as error:
        raise DataError(f"{path}: cannot be read ({error}); restore the file") from None
    if not rows:
        raise DataError(f"{path}: contains no rows; add some")
    return rows


def _parse_csv(path: Path, lines: Any) -> list[Row]:
    reader = csv.DictReader(lines, strict=True)  # without strict, an unclosed quotation mark swallows the rows after it
    rows = []
    try:
        for row in reader:
            if None in row:
                raise DataError(
                    f"{path}:{reader.line_num}: has more values than the header; quote values that contain commas"
                )
            rows.append(row)
    except csv.Error as error:
        raise DataError(f"{path}:{reader.line_num}: {error}; look for an unclosed quotation mark") from None
    return rows


def _parse_json_lines(path: Path, lines: Any) -> list[Row]:
    rows = []
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
        except json.JSONDecodeError as error:
            raise DataError(f"{path}:{number}: not JSON ({error.msg}); each line must be one object") from None
        if not isinstance(row, dict):
            raise DataError(f"{path}:{number}: {type(row).__name__}, not an object; each line must be one row")
        if "\\ud" in line.lower() and _has_lone_surrogate(row):
            raise DataError(f"{path}:{number}: contains half of a surrogate pair (\\ud83d alone); correct the text")
        rows.append(row)
    return rows


def _has_lone_surrogate(row: Row) -> bool:
    try:
        json.dumps(row, ensure_ascii=False).encode()
    except UnicodeEncodeError:
        return True
    return False


def require_columns(rows: Sequence[Row], columns: Sequence[str], source: str = "") -> None:
    """Raise DataError if a row lacks one of the columns; `source` names the file of the rows."""
    for number, row in enumerate(rows, start=1):
        missing = [column for column in columns if row.get(column) is None]
        if not missing:
            continue
        if missing[0] in row:
            remedy = "fill it, or delete the row"
        else:
            remedy = (
                "separate columns by commas" if any(";" in str(key) for key in row) else "name yours in [data].columns"
            )
        raise DataError(
            f'{source}{", " * bool(source)}row {number}: no value in column "{missing[0]}"; the row has '
            f"{', '.join(map(repr, row))}; {remedy}"
        )
