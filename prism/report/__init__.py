"""Records to reports: `results.json` for programs, `report.md` for a pull request, `report.html` for everyone else.

Nothing is decided or measured here. What a report says is a record, a verdict's own reason, or a count of samples.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from prism.store import Store, write_text
from prism.verdicts.record import Run, run_to_json


def write(folder: Path, run: Run, samples: Mapping[str, Sequence[dict[str, Any]]], store: Store | None = None) -> None:
    """Write the three reports of a run into `folder`; `samples` maps `Result.id` to what samples/*.jsonl holds.

    A `store` keeps the pictures, which take longest, for the next report that holds the same ones.
    """
    from prism.report import markdown, page
    from prism.report.samples import changes

    changed = {result.id: changes(result, samples.get(result.id, ())) for result in run.results}
    write_text(folder / "results.json", json.dumps(run_to_json(run), indent=1, allow_nan=False) + "\n")
    write_text(folder / "report.md", markdown.render(run, changed))
    write_text(folder / "report.html", page.render(run, changed, store))
