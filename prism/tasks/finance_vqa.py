"""Phase 6: a question about a chart, a document or a receipt, answered with a value or a few words.

Rows in one of three layouts. ChartQA (`HuggingFaceM4/ChartQA`, GPL-3.0): `image`, `query` and `label`, a list. DocVQA:
`image`, `question` and `answers`, a list. SROIE: `image` and the key fields `company`, `date`, `address` and `total`,
each of which becomes a question. `image` is a path under the rows' folder, or Parquet's {bytes, path}. All questions
about one image stand or fall together, so the image is the group.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from prism.errors import DataError
from prism.metrics import anls, charts, visual_gain
from prism.rows import Example, Row
from prism.verdicts import pictures
from prism.verdicts.controls import most_frequent

if TYPE_CHECKING:
    from prism.spec import Spec

VERSION = 1
COLUMNS = ("image", "query", "label")
IMAGES = ("image",)
LISTS = ("label",)
FIELDS = {  # of a receipt
    "company": "Which company issued the receipt?",
    "date": "What is the date?",
    "address": "What is the address?",
    "total": "What is the total?",
}


def rows(row: Row, spec: Spec) -> list[Row]:
    """ChartQA's columns, whichever of the three layouts a row has; a receipt becomes one row a key field."""
    if "query" in row or "query" in spec.data.columns:  # mapped after this
        return [row]
    if "question" in row:
        answers = row.get("answers", row.get("answer"))
        return [{**row, "query": row["question"], "label": answers}]
    kept = {column: row[column] for column in row if column not in FIELDS}
    return [
        {**kept, "query": question, "label": [row[field]], "field": field, "kind": "receipt"}
        for field, question in FIELDS.items()
        if row.get(field)
    ]


def example(row: Row, id: str) -> Example:
    answers = row["label"] if isinstance(row["label"], list | tuple) else [row["label"]]
    accepted = tuple(" ".join(str(answer).split()) for answer in answers)
    if not accepted or not all(accepted):
        raise DataError(f"row {id}: label {row['label']!r} holds an empty answer; fill it, or delete the row")
    return Example(
        id,
        ({"role": "user", "content": " ".join(str(row["query"]).split())},),
        accepted[0],
        group=row["image"].stem,
        images=(row["image"],),
        facts={
            "answers": accepted,
            "kind": str(row.get("kind") or ""),
            "question_type": str(row.get("question_type") or row.get("field") or ""),
            "field": _field(row),
        },
    )


def _field(row: Row) -> str:
    """The key field of a receipt that is asked for, also where rows name it by the type of question."""
    kind = str(row.get("field") or row.get("question_type") or "")
    return kind if kind in FIELDS else ""


def _kind(asked: Example) -> str:
    return asked.facts["kind"]


CONTROLS = pictures.controls(_kind)
CONTENDERS = {"most_frequent": most_frequent}
METRICS = (*charts.METRICS, *anls.METRICS, visual_gain(charts.METRICS[0]))


def details(examples: Sequence[Example], answers: Sequence[str]) -> dict:
    return {"by_kind": charts.by_kind(examples, answers)}
