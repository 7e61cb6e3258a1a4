"""What the reports show of a vision-language spec: pictures, scores by kind, the study of its architecture."""

from __future__ import annotations

import base64
import io
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from prism.report import words
from prism.report.tables import Table
from prism.store import Store
from prism.verdicts.record import Result

SIDE = 176  # pixels of a picture on the page
FACTS = {"organ": "organ", "question_type": "type of question", "kind": "kind of picture"}


def pictures(names: Sequence[str], store: Store | None) -> list[str]:
    """The prepared images of these names as data URIs, small; one that the store no longer has is left out."""
    folder = store.home / "images" if store else None
    return [_uri(folder / name) for name in names if folder and (folder / name).is_file()]


def _uri(path: Path) -> str:
    from PIL import Image

    with Image.open(path) as picture:
        small = picture.convert("RGB")
    small.thumbnail((SIDE, SIDE))
    return _encoded(small)


def _encoded(picture: Any) -> str:
    buffer = io.BytesIO()
    picture.save(buffer, "JPEG", quality=85)
    return "data:image/jpeg;base64," + base64.b64encode(buffer.getvalue()).decode()


def by_kind(result: Result) -> list[tuple[str, Table]]:
    """Caption and table of the metrics by each fact of the examples, baseline → tuned."""
    answers = result.details.get("answers") or {}
    before, after = ((answers.get(name) or {}).get("by_kind") or {} for name in ("baseline", "tuned"))
    found = []
    for fact, rows in after.items():
        if not isinstance(rows, list):
            continue
        metrics = [key for key in rows[0] if key not in (fact, "n")]
        cells = [
            [str(row[fact]), f"{row['n']:,}", *(_both(old.get(m), row.get(m)) for m in metrics)]
            for old, row in zip(before[fact], rows)
        ]
        found.append(
            (f"By {FACTS.get(fact, fact)}, baseline → tuned", Table([FACTS.get(fact, fact), "n", *metrics], cells))
        )
    return found


def _both(old: float | None, new: float | None) -> str:
    return words.NOTHING if new is None else f"{words.number(old)} → {words.number(new)}"


def published(result: Result) -> Table | None:
    """The rules of the published script beside the strict ones, for the tuned answers."""
    rows = ((result.details.get("answers") or {}).get("tuned") or {}).get("published")
    if not rows:
        return None
    cells = [
        [
            row["rule"],
            f"{row['n']:,}",
            f"{row['counted']:,}",
            *(words.number(row[key]) for key in ("published", "strict")),
        ]
        for row in rows
    ]
    return Table(["rule", "n", "counted", "LLaVA-Med's script", "strict"], cells)


# The study of phase 4


def parts(result: Result) -> Table | None:
    """Parameters and time of each part."""
    found = _anatomy(result)
    if not found:
        return None
    total = sum(found["parameters"].values())
    spent = sum(found["seconds"].values()) or 1
    rows = [
        [
            part,
            f"{n:,}",
            f"{n / total:.1%}",
            f"{found['seconds'].get(part, 0) / spent:.0%}" if part in found["seconds"] else "",
        ]
        for part, n in found["parameters"].items()
        if n
    ]
    return Table(["part", "parameters", "share", "share of a forward pass"], rows)


def tokens(result: Result) -> Table | None:
    """Visual tokens, as counted in real input and by the published formula."""
    found = _anatomy(result)
    if not found:
        return None
    sizes = {(row["width"], row["height"]): row for row in found["tokens"]}
    rows = [[f"{w} × {h}", str(row["counted"]), str(row["formula"])] for (w, h), row in sorted(sizes.items())]
    return Table(["picture, pixels", "tokens counted", "by the formula"], rows)


def placements(result: Result) -> Table | None:
    """LoRA on each part: what is trained, its cost, its gain over the same baseline."""
    rows = (result.details.get("study") or {}).get("placements")
    if not rows:
        return None
    cells = [
        [
            row["placement"],
            f"{row['trainable']:,}",
            f"{row['trainable'] / row['parameters']:.2%}",
            words.duration(row["seconds"]),
            words.number(row["peak_memory_gib"]),
            f"{words.number(row['baseline'])} → {words.number(row['tuned'])}",
            words.from_json(row["gain"]),
        ]
        for row in rows
    ]
    metric = rows[0]["metric"]
    return Table(["LoRA on", "trainable", "share", "training", "peak memory, GiB", metric, "gain [95 %]"], cells)


def attention(result: Result) -> Table | None:
    """The share of the last token's attention that goes to the picture, layer by layer."""
    found = _anatomy(result)
    if not found:
        return None
    masses = found["attention"]["by_layer"]
    return Table(["layer", "attention on the picture"], [[str(n), words.number(m)] for n, m in enumerate(masses, 1)])


def blank(result: Result) -> str:
    found = _anatomy(result)
    if not found:
        return ""
    moved = found["blank"]
    return (
        f"With a blank picture the probabilities of the next token move by {words.number(moved['mean'])} on average "
        f"({words.number(moved['least'])} to {words.number(moved['most'])}; total variation, 0 to 1)."
    )


def overlays(result: Result, store: Store | None) -> list[tuple[str, str, str]]:
    """Question, picture, and picture under its attention, as data URIs."""
    found, folder = _anatomy(result), store.home / "images" if store else None
    if not found or folder is None:
        return []
    maps = [part for part in found["attention"]["maps"] if "question" in part and (folder / part["image"]).is_file()]
    return [(part["question"], _uri(folder / part["image"]), _overlaid(folder / part["image"], part)) for part in maps]


def _overlaid(path: Path, part: dict[str, Any]) -> str:
    """The picture, red where attention goes, as strong as the largest share."""
    import numpy
    from PIL import Image

    rows, columns = part["rows"], part["columns"]
    mass = numpy.zeros(rows * columns)
    mass[: len(part["mass"])] = part["mass"][: rows * columns]
    heat = Image.fromarray((255 * mass.reshape(rows, columns) / max(mass.max(), 1e-9)).astype("uint8"))
    with Image.open(path) as picture:
        under = picture.convert("RGB")
    alpha = numpy.asarray(heat.resize(under.size, Image.Resampling.BILINEAR), float)[..., None] / 255 * 0.75
    shaded = numpy.asarray(under, float) * (1 - alpha) + numpy.array([214, 60, 20]) * alpha
    shown = Image.fromarray(shaded.astype("uint8"))
    shown.thumbnail((SIDE, SIDE))
    return _encoded(shown)


def _anatomy(result: Result) -> dict[str, Any]:
    return (result.details.get("study") or {}).get("anatomy") or {}
