"""The command `prism runs`: which runs the reports folder holds."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Any

import typer

from prism.cli.app import Root, app, exit_on_error

COLUMNS = ["verdict", "run", "date", "specs", "partial", "commit"]


@app.command()
def runs(
    reports: Annotated[Path, typer.Option(help="As --prism-report.")] = Path("reports"), root: Root = Path(".")
) -> None:
    """List the runs of the reports folder: verdict, date, specs, what is partial, commit; the latest one last."""
    from prism.errors import ScoresError
    from prism.report.tables import Table
    from prism.report.terminal import drawn, width

    with exit_on_error():
        folder = root / reports / "runs"
        found = sorted(path.parent for path in folder.glob("[!.]*/results.json"))
        if not found:
            raise ScoresError(f"{folder}: holds no run; `pytest benchmarks` makes one, or name its folder by --reports")
        rows = [_row(run) for run in found]
    typer.echo("\n".join(drawn(Table(COLUMNS, rows, numbers=len(COLUMNS)), width(), whole=2)))


def _row(run: Path) -> list[str]:
    """One line of the table; of a run that cannot be read, why."""
    from prism.untrusted import visible
    from prism.verdicts.record import SCHEMA

    try:
        told: dict[str, Any] = json.loads((run / "results.json").read_text(encoding="utf-8"))
        if told["schema"] != SCHEMA:
            return [f"unread: schema {told['schema']}, not {SCHEMA}", run.name, "", "", "", ""]
        known = told["provenance"]
        commit = f"{(known['commit'] or 'none')[:8]}{' + changes' if known['dirty'] else ''}"
        specs = ", ".join(f"{spec['phase']}/{spec['spec']}" for spec in told["specs"])
        cells = [told["verdict"], run.name, _date(run.name), specs, told["partial"], commit]
        return [visible(str(cell), 200) for cell in cells]
    except (OSError, ValueError, KeyError, TypeError) as error:
        return [f"unread: {type(error).__name__}", run.name, "", "", "", ""]


def _date(run: str) -> str:
    """When a run began, by its id: 20261126-041249-1c07."""
    day, _, rest = run.partition("-")
    time = rest.partition("-")[0]
    return f"{day[:4]}-{day[4:6]}-{day[6:8]} {time[:2]}:{time[2:4]}"
