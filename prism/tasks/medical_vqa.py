"""Phase 5: a question about a radiology image, answered with yes, no or a few words.

Rows: `flaviagiammarino/vqa-rad` (CC0), columns `image`, `question` and `answer`; the full set has `answer_type`
(CLOSED, OPEN), `question_type` and `organ` as well. Or any rows with these columns; `image` is a path under the rows'
folder, or Parquet's {bytes, path}. All questions about one image stand or fall together, so the image is the group.
"""

from __future__ import annotations

from collections.abc import Sequence

from prism.judge import MEDICAL_CORRECTNESS
from prism.metrics import visual_gain, vqa
from prism.rows import Example, Row
from prism.verdicts import pictures
from prism.verdicts.controls import most_frequent

VERSION = 1
COLUMNS = ("image", "question", "answer")
IMAGES = ("image",)


def example(row: Row, id: str) -> Example:
    question, reference = (" ".join(str(row[column]).split()) for column in ("question", "answer"))
    answer_type = str(row.get("answer_type") or "")
    return Example(
        id,
        ({"role": "user", "content": question},),
        reference.lower() if reference.lower() in ("yes", "no") else reference,
        group=row["image"].stem,
        images=(row["image"],),
        facts={
            "closed": vqa.is_closed(reference, answer_type or None),
            "answer_type": answer_type,
            "question_type": str(row.get("question_type") or ""),
            "organ": str(row.get("organ") or ""),
        },
    )


def _organ(asked: Example) -> str:
    return asked.facts["organ"]


CONTROLS = pictures.controls(_organ)
CONTENDERS = {"most_frequent": most_frequent}
METRICS = (*vqa.METRICS, visual_gain(vqa.METRICS[0]))
JUDGED = (MEDICAL_CORRECTNESS,)


def is_judged(asked: Example) -> bool:
    """A judge grades open answers; a yes or no is decided without one."""
    return vqa.is_open(asked)


def details(examples: Sequence[Example], answers: Sequence[str]) -> dict:
    return {"by_kind": vqa.by_kind(examples, answers), "published": vqa.published(examples, answers)}
