"""Reads rows from files with the standard library (Parquet with pyarrow), so that a fully cached run starts fast."""

from __future__ import annotations

import codecs
import csv
import difflib
import gzip
import io
import itertools
import json
import re
import zlib
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TextIO

from prism.errors import DataError
from prism.rows import Row

SUFFIXES = (".jsonl.gz", ".jsonl", ".csv", ".parquet")
SEPARATORS = {",": "commas", ";": "semicolons", "\t": "tabs"}  # the first one in the header separates
QUOTED = re.compile(r'"[^"]*"')
ESCAPED_QUOTE = '\\"'
Parsed = tuple[list[Row], list[int]]  # rows, and the line on which each starts; no lines of Parquet
SHOWN = 8  # names of columns in a message


def read_rows(path: Path) -> list[Row]:
    """Read one .jsonl, .jsonl.gz, .csv or .parquet file.

    Text is UTF-8, or UTF-16 with its byte-order mark. A .csv may be separated by commas, semicolons or tabs, as its
    header is. Raises DataError with file and line if a row cannot be read, or if the file has no rows.
    """
    return _parse(path)[0]


def line_of(path: Path, number: int) -> int | None:
    """The line on which row `number` of a file starts, both counted from 1; None for Parquet. It reads the file again."""
    return None if path.suffix == ".parquet" else _parse(path)[1][number - 1]


def _parse(path: Path) -> Parsed:
    rows: list[Row]
    lines: list[int]
    if path.exists() and not path.name.endswith(SUFFIXES):
        raise DataError(f"{path}: not one of {', '.join(SUFFIXES)}; convert the file")
    try:
        if path.suffix == ".parquet":
            import pyarrow.parquet

            rows, lines = pyarrow.parquet.read_table(path).to_pylist(), []
        elif path.suffix == ".csv":
            rows, lines = _parse_csv(path)
        else:
            rows, lines = _parse_json_lines(path)
    except FileNotFoundError:
        raise DataError(
            f"{path}: no such file{_nearest(path)}; check [data].path, or pass the parent folder as --prism-data"
        ) from None
    except UnicodeDecodeError:
        raise DataError(_undecodable(path)) from None
    except (OSError, EOFError, ValueError, KeyError, NotImplementedError, zlib.error) as error:  # pyarrow's among them
        raise DataError(f"{path}: cannot be read ({error}); restore the file") from None
    if not rows:
        raise DataError(f"{path}: contains no rows; add some")
    return rows, lines


@contextmanager
def _opened(path: Path) -> Iterator[TextIO]:
    with gzip.open(path) if path.suffix == ".gz" else path.open("rb") as file:
        yield io.TextIOWrapper(file, encoding=_encoding(file.peek(2)), newline="")


def _encoding(start: bytes) -> str:
    """Excel's "Unicode text" is UTF-16, which begins with a byte-order mark."""
    return "utf-16" if start[:2] in (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE) else "utf-8-sig"


def _undecodable(path: Path) -> str:
    """The line and byte that cannot be decoded. The decoder's own offset counts from the start of its last chunk."""
    try:
        with gzip.open(path) if path.suffix == ".gz" else path.open("rb") as file:
            content = file.read()
    except (OSError, EOFError, zlib.error) as error:  # behind the byte that could not be decoded
        return f"{path}: cannot be read ({error}); restore the file"
    encoding = _encoding(content)
    try:
        content.decode(encoding)
    except UnicodeDecodeError as error:
        if encoding == "utf-16":
            return f"{path}: byte {error.start:,} is not UTF-16, as the file begins; save the file as UTF-8"
        line = content.count(b"\n", 0, error.start) + 1
        return (
            f"{path}:{line}: byte {error.start:,} (0x{content[error.start]:02x}) is not UTF-8; save the file as UTF-8 (if "
            f"it comes from Windows: iconv -f WINDOWS-1252 -t UTF-8)"
        )
    return f"{path}: changed while it was read; run again"


def _nearest(path: Path) -> str:
    """The nearest existing name beside the first part of a path that does not exist, as part of a sentence."""
    missing = next(part for part in (*reversed(path.parents), path) if not part.exists())
    names = [file.name for file in missing.parent.iterdir()] if missing.parent.is_dir() else []
    found = difflib.get_close_matches(missing.name, names, 1)
    return f' (the nearest name in {missing.parent} is "{found[0]}")' if found else ""


def _parse_csv(path: Path) -> Parsed:
    """Rows of a .csv file; where quotation marks in quotation marks are not doubled, they may be escaped by \\."""
    csv.field_size_limit(2**31 - 1)  # a report in one field is longer than the default of 131,072 characters
    try:
        return _parse_delimited(path)
    except DataError:
        if ESCAPED_QUOTE in _text(path):
            with suppress(DataError):
                return _parse_delimited(path, escapechar="\\")
        raise


def _text(path: Path) -> str:
    with _opened(path) as lines:
        return lines.read()


def _parse_delimited(path: Path, escapechar: str | None = None) -> Parsed:
    with _opened(path) as lines:
        blank = 0
        for first in lines:
            if first.strip():
                break
            blank += 1
        else:
            first = ""
        delimiter, spaced = _separator(first)
        # Without strict, an unclosed quotation mark swallows the rows after it.
        reader = csv.reader(
            itertools.chain([first], lines),
            delimiter=delimiter,
            skipinitialspace=spaced,
            escapechar=escapechar,
            strict=True,
        )
        rows: list[Row] = []
        starts: list[int] = []
        start = blank + 1
        try:
            header = [name.strip() for name in next(reader, [])]
            width = len(header)
            if repeated := next((name for name in header if name and header.count(name) > 1), ""):
                raise DataError(f'{path}:{start}: several columns are called "{repeated}"; rename one')
            start = blank + reader.line_num + 1
            for values in reader:
                if len(values) > width and any(values[width:]):
                    raise DataError(
                        f"{path}:{start}: has more values than the header; quote values that contain "
                        f"{SEPARATORS[delimiter]}"
                    )
                if values:
                    rows.append(dict(zip(header, values)) if len(values) >= width else _short(header, values))
                    starts.append(start)
                start = blank + reader.line_num + 1
        except csv.Error as error:
            raise DataError(f"{path}:{start}: {error}; look for an unclosed quotation mark") from None
    return rows, starts


def _short(header: Sequence[str], values: Sequence[str]) -> Row:
    return dict(itertools.zip_longest(header, values))


def _separator(header: str) -> tuple[str, bool]:
    """The character that separates the columns of a header, and whether a space follows it."""
    unquoted = QUOTED.sub("", header)
    found = next((character for character in unquoted if character in SEPARATORS), ",")
    return found, f"{found} " in unquoted


def _parse_json_lines(path: Path) -> Parsed:
    rows: list[Row] = []
    numbers: list[int] = []
    with _opened(path) as lines:
        for number, line in enumerate(lines, start=1):
            if not line.strip():
                continue
            try:
                row = json.loads(line)
            except json.JSONDecodeError as error:
                raise DataError(f"{path}:{number}: not JSON ({error.msg}); each line must be one object") from None
            except RecursionError:
                raise DataError(f"{path}:{number}: is nested too deep to be a row; correct the line") from None
            if not isinstance(row, dict):
                raise DataError(f"{path}:{number}: {type(row).__name__}, not an object; each line must be one row")
            if "\\ud" in line.lower() and _has_lone_surrogate(row):
                raise DataError(f"{path}:{number}: contains half of a surrogate pair (\\ud83d alone); correct the text")
            rows.append(row)
            numbers.append(number)
    return rows, numbers


def _has_lone_surrogate(row: Row) -> bool:
    try:
        json.dumps(row, ensure_ascii=False).encode()
    except UnicodeEncodeError:
        return True
    return False


def _row(place: int) -> str:
    return f"row {place + 1}"


def require_columns(rows: Sequence[Row], columns: Sequence[str], where: Callable[[int], str] = _row) -> None:
    """Raise DataError if a row lacks one of the columns. `where` names, for messages, the row at an index."""
    for column in columns:
        for place, row in enumerate(rows):
            if row.get(column) is None:
                raise DataError(f'{where(place)}: no value in column "{column}"; {_remedy(row, column)}')


def columns_of(row: Row) -> str:
    """The names of a row's columns for a message: the first few of many."""
    more = f" and {len(row) - SHOWN} more" if len(row) > SHOWN else ""
    return ", ".join(map(repr, itertools.islice(row, SHOWN))) + more


def _remedy(row: Row, column: str) -> str:
    known = f"the row has {columns_of(row)}"
    if column in row:
        return f"{known}; fill it, or delete the row"
    if close := next((name for name in row if name.lower() == column.lower()), None):
        return f'{known}; set [data].columns = {{ {column} = "{close}" }}'
    return f"{known}; name yours in [data].columns"
