"""The samples of one run, or of two beside each other, as one page that searches and filters them without a server."""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from prism.report import vision
from prism.report.samples import Sample, without_shared_prefix
from prism.report.templates import FOLDER, template
from prism.store import Store
from prism.untrusted import visible
from prism.verdicts.record import Result, Run

TEXT = 8_000  # characters of a question or an answer
PICTURES = 500  # in one page, each about 10 kB; the samples beyond show none
LABELS, LABEL = 30, 60  # distinct references of one spec that can be chosen from, and characters of one

Read = Callable[[str], str | None]  # an answer's label, as the task reads it


def render(
    runs: Sequence[Run],
    samples: Sequence[Mapping[str, Sequence[Sample]]],
    readers: Mapping[str, Read],
    store: Store | None = None,
) -> str:
    """The page of one run or two. `samples` are the rows of samples/*.jsonl by `Result.id`, of each run.

    `readers` find the label of an answer, by the id of a spec whose answers have one; `store` has the pictures. Of two
    runs, the samples that both measured are shown, and flipped means from the first run's adapter to the second's.
    """
    from markupsafe import Markup

    specs: list[dict[str, Any]] = []
    rows: list[dict[str, Any]] = []
    pictures: dict[str, str] = {}
    left_out = 0
    for result in runs[-1].results:
        sides = [{sample["id"]: sample for sample in side.get(result.id, ())} for side in samples]
        both = [name for name in sides[-1] if all(name in side for side in sides)]
        left_out += len(set().union(*sides)) - len(both)
        shown = dict(zip(both, without_shared_prefix([sides[-1][name] for name in both])))
        references = sorted({str(sides[-1][name].get("reference")) for name in both})
        short = [visible(label) for label in references if len(label) <= LABEL]
        labels = short if len(references) <= LABELS else []
        for name in both:
            row = _row(result, [side[name] for side in sides], readers.get(result.id))
            row |= {"spec": len(specs), "question": visible(shown[name].get("question"), TEXT)}
            rows.append(row)
            for picture in row["images"]:
                if (
                    picture not in pictures
                    and len(pictures) < PICTURES
                    and (found := vision.pictures([picture], store))
                ):
                    pictures[picture] = found[0]
        if both:
            specs.append({"id": visible(result.id), "labels": labels, "n": len(both)})
    if len(runs) == 2:
        left_out += sum(len(part) for name, part in samples[0].items() if name not in {r.id for r in runs[1].results})
    script = (FOLDER / "browse.js").read_text(encoding="utf-8")
    allowed = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    return template("browse.html.j2").render(
        runs=[{"id": visible(run.id), "verdict": run.verdict, "command": visible(run.command)} for run in runs],
        data={"specs": specs, "rows": rows, "pictures": pictures, "runs": [visible(run.id) for run in runs]},
        left_out=left_out,
        script=Markup(script),  # PRISM's own file
        allowed=allowed,
    )


def _row(result: Result, sides: Sequence[Sample], read: Read | None) -> dict[str, Any]:
    """What the page shows of one sample, and what it filters by."""
    first, last = sides[0], sides[-1]
    before = [(visible("baseline"), first.get("baseline"))] if len(sides) == 1 else []
    said = [
        *before,
        *((f"tuned, {'AB'[n]}" if len(sides) == 2 else "tuned", side.get("tuned")) for n, side in enumerate(sides)),
    ]
    scores = {}
    for record in result.records:
        pairs = [side.get("scores", {}).get(record.metric) for side in sides]
        if all(pairs):
            pair = pairs[0] if len(sides) == 1 else [part[1] for part in pairs if part]
            if any(value is not None for value in pair):
                scores[record.metric] = pair
    judged = last.get("judge") or {}
    return {
        "id": visible(last.get("id"), 80),
        "reference": visible(last.get("reference"), TEXT),
        "answers": [[name, visible(text, TEXT)] for name, text in said],
        "scores": {visible(name): pair for name, pair in scores.items()},
        "unparsable": read is not None and any(read(str(side.get("tuned") or "")) is None for side in sides),
        "images": [str(name) for name in last.get("images") or ()],
        "judge": [visible(f"{name}: {' · '.join(map(str, reasons))}", TEXT) for name, reasons in judged.items()],
    }
