"""What the published work claims of cost, beside what was measured: in this run, and on a GPU (benchmarks/speed/GPU.md).

No number of a measurement is written here: each is read from a record, or from the committed table with its date.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from prism.report import words
from prism.verdicts.record import Result

TABLE = Path("benchmarks/speed/GPU.md")
RANK = 16
GIB = 2**30 / 1e9  # GB in a GiB
# Lines of the table, by how they begin.
PLAIN, PACKED, UNSLOTH = "plain TRL: 4-bit, padded", "plain TRL: 4-bit, packed", "Unsloth: 4-bit, packed, checkpointing"


@dataclass(frozen=True)
class Claim:
    """One claim in the published project's words, what was measured, and where."""

    claim: str
    measured: str
    source: str


def claims(root: Path, results: Sequence[Result]) -> tuple[Claim, ...]:
    """Every claim; what was not measured says so."""
    file = root / TABLE
    text = file.read_text(encoding="utf-8") if file.is_file() else ""
    return (_memory(text), _share(results), _speed(text))


def _memory(text: str) -> Claim:
    loaded = {name: _cell(text, name, "loaded, GiB") for name in (PLAIN, UNSLOTH)}
    return _from_table(
        text,
        "a base of 1.5 B parameters loads in 1.5 GB in 4 bits",
        [f"{value * GIB:.2f} GB ({name.partition(':')[0]})" for name, value in loaded.items() if value],
    )


def _share(results: Sequence[Result]) -> Claim:
    """The trainable share at r = RANK, of every adapter of this run that has that rank."""
    found = []
    note: Mapping[str, Any]
    for result in results:
        options = result.details.get("options") or {}
        note = next(iter((result.details.get("training") or {}).values()), {})
        if (options.get("lora") or {}).get("r") == RANK and note.get("parameters"):
            base = note["parameters"] - note["trainable"]
            share = note["trainable"] / note["parameters"]
            found.append(f"{words.share(share)} ({result.id}, a base of {words.parameters(base)})")
    none = f"not measured: no adapter of this run was trained at r = {RANK}"
    return Claim(
        f"under 1 % of all parameters train at r = {RANK}", "; ".join(found) or none, "this run" if found else ""
    )


def _speed(text: str) -> Claim:
    rates = {name: _cell(text, name, "tokens/s") for name in (PLAIN, PACKED, UNSLOTH)}
    ours = rates.pop(UNSLOTH)
    ratios = [
        f"{ours / rate:.2f} × ({UNSLOTH.partition(',')[0]}, packed, against {name})"
        for name, rate in rates.items()
        if ours and rate
    ]
    return _from_table(text, "Unsloth trains 4 × as fast", ratios)


def _from_table(text: str, claim: str, measured: Sequence[str]) -> Claim:
    if not measured:
        return Claim(claim, f"not measured: {TABLE} is missing or lacks that line", "")
    where = re.search(r"^(NVIDIA [^,]+), (\d{4}-\d\d-\d\d)", text, re.MULTILINE)
    return Claim(claim, "; ".join(measured), f"{TABLE}{f', {where[1]}, {where[2]}' if where else ''}")


def _cell(text: str, line: str, column: str) -> float | None:
    """The number in a Markdown table: of the first line that begins so, in the column of that name."""
    headers: list[str] = []
    for row in text.splitlines():
        cells = [cell.strip() for cell in row.strip().strip("|").split("|")]
        if column in cells:
            headers = cells
        elif headers and cells[0].startswith(line):
            number = cells[headers.index(column)].replace(",", "")
            return float(number) if re.fullmatch(r"[\d.]+", number) else None
    return None
