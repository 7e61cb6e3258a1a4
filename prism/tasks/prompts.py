"""The prompts of `classify` and `answer`: text of a spec with {column} placeholders, filled in for each row."""

from __future__ import annotations

import string
from collections.abc import Mapping
from dataclasses import dataclass

from prism.errors import DataError, SpecError
from prism.rows import Row
from prism.spec import Spec

Parts = tuple[tuple[str, str | None], ...]  # text, and the column whose value comes after it


@dataclass(frozen=True)
class Prompts:
    """The messages that a row becomes, and the columns that they and the gold answer are read from.

    `place` is the table of the spec. `group` is the column that [data].split keeps whole, which makes rows dependent.
    """

    place: str
    user: Parts
    system: Parts
    gold: str
    group: str | None

    @property
    def columns(self) -> tuple[str, ...]:
        named = [name for _, name in (*self.user, *self.system) if name is not None]
        return tuple(dict.fromkeys([*named, self.gold]))

    def messages(self, row: Row) -> tuple[dict[str, str], ...]:
        """Raises DataError if a value is a list, a dict or bytes."""
        system = [{"role": "system", "content": _fill(self.system, row)}] if self.system else []
        return (*system, {"role": "user", "content": _fill(self.user, row)})

    def group_of(self, row: Row, id: str) -> str:
        return str(row[self.group]) if self.group else id

    @property
    def named(self) -> dict[str, str]:
        """By column, how the spec names it."""
        return {name: f"[{self.place}] {{{name}}}" for name in self.columns} | {
            self.gold: f'[{self.place}] column = "{self.gold}"'
        }


def read(spec: Spec, place: str, prompt: str, system: str | None, gold: str, given: Mapping[str, str]) -> Prompts:
    """The prompts of a table of the spec. `given` are the placeholders that are the same in every row.

    Raises SpecError if a placeholder is no column's name, if the prompt is the same in every row or holds the answer.
    """
    user = _parts(prompt, f"[{place}] prompt", given)
    group = spec.data.split.group if spec.data.split else None
    prompts = Prompts(place, user, _parts(system or "", f"[{place}] system", given), gold, group)
    if not any(name for _, name in user):
        raise SpecError(
            f"[{place}] prompt: names no column, so every question would be the same; add {{text}} or yours"
        )
    if gold in (name for _, name in (*user, *prompts.system)):
        raise SpecError(
            f"[{place}] prompt: {{{gold}}} is the column of the answer, which the model must not see; delete it"
        )
    return prompts


def value(row: Row, column: str) -> str:
    """A cell as text, a whole number without its decimal point. Raises DataError if it is a list, a dict or bytes."""
    cell = row[column]
    if isinstance(cell, dict | list | tuple | bytes):
        raise DataError(f'column "{column}" holds a {type(cell).__name__}, not text; write it as text, or name another')
    return str(int(cell) if isinstance(cell, float) and cell.is_integer() else cell).strip()


def _parts(text: str, place: str, given: Mapping[str, str]) -> Parts:
    """The text as literals and columns, with `given` filled in."""
    remedy = "write a placeholder as {column}, and braces that are text as {{ and }}"
    try:
        found = list(string.Formatter().parse(text))
    except ValueError as error:
        raise SpecError(f"{place}: {error}; {remedy}") from None
    parts: list[tuple[str, str | None]] = []
    for literal, name, form, conversion in found:
        if name is not None and (not name.strip() or form or conversion):
            written = "{" + name + (f"!{conversion}" if conversion else "") + (f":{form}" if form else "") + "}"
            raise SpecError(f"{place}: {written} is no placeholder; {remedy}")
        parts.append((literal, name) if name is None or name not in given else (literal + given[name], None))
    return tuple(parts)


def _fill(parts: Parts, row: Row) -> str:
    return "".join(literal + ("" if name is None else value(row, name)) for literal, name in parts)
