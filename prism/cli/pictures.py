"""What `prism init` reads off rows with pictures: their column, the task that asks about them, how models see them."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path

from prism.cli.inferring import ANSWERS, QUESTIONS, Told
from prism.errors import DataError, ModelError
from prism.rows import Row
from prism.rows.files import columns_of
from prism.rows.values import is_blank
from prism.store import read_json

SUFFIX = re.compile(r"\.(png|jpe?g|webp|bmp|tiff?|gif)", re.IGNORECASE)
FIGURE = re.compile(r"[($€£¥]*[-+]?[$€£¥]?\d[\d,. ]*\s?(%|[kKmMbB]n?|million|billion)?\)?")
MAX_PIXELS = 200_704  # 448 × 448, 256 tokens of a Qwen2-VL: what phases 4 and 5 take
MORE = 8  # tokens around a picture


@dataclass(frozen=True)
class Seen:
    """How the model sees a picture: the table [image], and the tokens that one takes."""

    table: str
    tokens: int


def picture_column(rows: Sequence[Row], named: str | None) -> str | None:
    """The column whose values name pictures or hold their bytes; None if there is none.

    Raises DataError for several columns, or if the one that `named` names is none.
    """
    names = dict.fromkeys(name for row in rows for name in row if name)
    found = [name for name in names if _holds_pictures(rows, name)]
    if named is not None:
        if named not in found:
            why = "names no picture by its path (.png, .jpg, …)" if named in names else "is no column"
            raise DataError(f'--image "{named}": {why}; the rows have {columns_of(rows[0])}')
        return named
    if len(found) > 1:
        raise DataError(
            f"--data: the columns {', '.join(found)} all hold pictures, and a task reads one; name it by --image COLUMN"
        )
    return found[0] if found else None


def _holds_pictures(rows: Sequence[Row], name: str) -> bool:
    values = [row[name] for row in rows if not is_blank(row.get(name))]
    return bool(values) and all(
        bool(value.get("bytes") or value.get("path"))
        if isinstance(value, dict)
        else isinstance(value, str) and bool(SUFFIX.fullmatch(Path(value.strip()).suffix))
        for value in values
    )


def reads_pictures(task: str) -> bool:
    """Whether a task of PRISM's asks about pictures."""
    return bool(getattr(import_module(f"prism.tasks.{task}"), "IMAGES", ()))


def task_of(rows: Sequence[Row], column: str, answer: str | None, told: Told) -> str:
    """The task that asks about these pictures: finance_vqa if most answers are figures, or fields of receipts."""
    cells = [cell for row in rows for name, cell in row.items() if name == answer or (name or "").casefold() in ANSWERS]
    answers = [str(text).strip() for cell in cells for text in (cell if isinstance(cell, list) else [cell])]
    figures = sum(bool(FIGURE.fullmatch(text)) for text in answers)
    if fields := fields_of("finance_vqa", rows[0]):
        task, why = "finance_vqa", f"and {', '.join(fields)} are fields of receipts"
    elif 2 * figures > len(answers):
        task, why = "finance_vqa", f"and {figures:,} of {len(answers):,} answers are figures"
    else:
        task, why = "medical_vqa", "asked about in words; finance_vqa, by --task, is for figures"
    told.append(("task", f'{task}: "{column}" holds pictures, {why}'))
    return task


def fields_of(task: str, row: Row) -> tuple[str, ...]:
    """The fields of a receipt that a task makes questions of; empty where a row has a question."""
    if any((name or "").casefold() in QUESTIONS for name in row):
        return ()
    return tuple(field for field in getattr(import_module(f"prism.tasks.{task}"), "FIELDS", ()) if field in row)


def seen_by(model: str, folder: Path | None, task: str, told: Told) -> Seen:
    """[image] for a model, whose `folder` is None if it is not here. Raises ModelError if the model reads no pictures."""
    size, tokens, why = None, MAX_PIXELS // 28**2, "as the model is not here; if it takes one size, write size instead"
    if folder is not None:
        size, tokens, why = _tower(model, folder)
    key = f"size = {size}" if size else f"max_pixels = {MAX_PIXELS}"
    background, around = ("white", "pages and charts") if task == "finance_vqa" else ("black", "scans and photographs")
    told.append(("image", f'{key}, {why}; background = "{background}", for {around}'))
    return Seen(f'\n[image]\n{key}\nbackground = "{background}"\n', tokens + MORE)


def _tower(model: str, folder: Path) -> tuple[int | None, int, str]:
    """The side of a square that the vision tower takes (None: any size), the tokens of a picture, and why."""
    try:
        config = read_json((folder / "config.json").read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ModelError(f"{model}: its config.json cannot be read ({error}); restore the folder") from None
    vision = config.get("vision_config")
    if not isinstance(vision, dict):
        raise ModelError(
            f"{model}: reads no pictures (its config.json has no vision_config), but the rows have some; name a "
            f"vision-language model by --model, or a task of text by --task"
        )
    size, patch = vision.get("image_size"), vision.get("patch_size")
    patch = patch if isinstance(patch, int) and patch > 0 else 14
    if isinstance(size, int) and size > 0:
        tokens = config.get("image_seq_length")
        return size, tokens if isinstance(tokens, int) else (size // patch) ** 2, "the size of its vision tower"
    merged = patch * int(vision.get("spatial_merge_size") or 1)
    return None, MAX_PIXELS // merged**2, "as its vision tower takes any size"
