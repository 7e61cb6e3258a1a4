"""Write the reports of a run: `results.json` for programs, `report.md` for pull requests, `report.html` for everyone.

This package decides and measures nothing. Reports show records, the reasons of verdicts and counts of samples.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from prism.store import Store, write_text
from prism.verdicts.record import Run, run_to_json


def write(folder: Path, run: Run, samples: Mapping[str, Sequence[dict[str, Any]]], store: Store | None = None) -> None:
    """Write the three reports of a run into `folder`; `samples` maps `Result.id` to the rows of samples/*.jsonl.

    A `store` caches the figures, which take longest to draw.
    """
    from prism.report import markdown, page
    from prism.report.samples import changes

    changed = {result.id: changes(result, samples.get(result.id, ())) for result in run.results}
    write_text(folder / "results.json", json.dumps(run_to_json(run), indent=1, allow_nan=False) + "\n")
    write_text(folder / "report.md", markdown.render(run, changed))
    write_text(folder / "report.html", page.render(run, changed, store))
