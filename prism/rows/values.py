"""Values of rows as files have them: the same value in another type, and what is no text although text belongs there."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from datetime import date
from typing import Any


def is_nan(value: Any) -> bool:
    return isinstance(value, float) and math.isnan(value)


def is_blank(value: Any) -> bool:
    """Whether a value is what files have for nothing: null, NaN, no text or white space only."""
    return value is None or is_nan(value) or (isinstance(value, str) and not value.strip())


def matcher(values: Sequence[Any]) -> Callable[[Any], bool]:
    """Whether a row's value is one of these, whatever type its file gave it: 2022, 2022.0 and "2022" are one value.

    Two texts are compared as they are ("007" is not "7"), and "" is any value for nothing.
    """
    texts = {value for value in values if isinstance(value, str)}
    read = {plain(value) for value in values}  # what a number in a row is compared with
    others = {plain(value) for value in values if not isinstance(value, str)}
    blank = "" in texts

    def matches(value: Any) -> bool:
        if isinstance(value, str):
            return value in texts or (bool(others) and plain(value) in others) or (blank and is_blank(value))
        return plain(value) in read or (blank and is_blank(value))

    return matches


def plain(value: Any) -> str:
    """A value without the type that its file gave it: "1.0" and 1 are "1", " Bullish" is "bullish"."""
    if isinstance(value, date):  # of Parquet and TOML
        return value.isoformat()
    text = str(value).strip().lower()
    if not text.isascii() or "_" in text:  # which int and float would take
        return text
    try:
        return str(int(text))
    except ValueError:
        pass
    try:
        number = float(text)
    except ValueError:
        return text
    return str(int(number)) if number.is_integer() else str(number)


def no_text(value: Any, *, several: bool = False, flag: bool = False) -> str:
    """Why a value is no text, in words; empty if it is. A number is. `several` allows a list of texts, `flag` a boolean.

    Tasks write values into prompts with `str`, so a model would learn "nan" or Python's notation of a dictionary.
    """
    if isinstance(value, str):
        return "" if value and not value.isspace() else "blank"
    if value is None:
        return "null"
    if is_nan(value):
        return "NaN"
    if isinstance(value, bool) and not flag:
        return f"a boolean ({str(value).lower()})"
    if isinstance(value, list | tuple) and several:
        reasons = [no_text(part) for part in value]
        if worse := next((reason for reason in reasons if reason not in ("", "blank")), ""):
            return f"a list with {worse}"
        return "" if "" in reasons else "an empty list"
    if isinstance(value, dict | list | tuple | set | bytes):
        shown = repr(value)
        kind = {dict: "a dictionary", bytes: "bytes"}.get(type(value), "a list")
        return f"{kind} ({shown if len(shown) <= 60 else shown[:60] + '…'})"
    return ""
