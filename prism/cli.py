"""The `prism` command: what pytest is not asked for."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from prism.errors import PrismError

app = typer.Typer(add_completion=False, no_args_is_help=True, pretty_exceptions_enable=False)


@app.callback()
def main() -> None:
    """PRISM: LoRA fine-tuning benchmarks as pytest items. Run them with `pytest benchmarks`."""


@app.command()
def specs(
    root: Annotated[Path, typer.Option(help="The checkout that holds benchmarks/specs.")] = Path("."),
    data: Annotated[Path | None, typer.Option(help="As --prism-data.")] = None,
) -> None:
    """List every spec: its profile, how long it takes, and whether it can run here."""
    from tabulate import tabulate

    from prism.scheduling import choose_profile, lacking
    from prism.spec import find_specs, load_spec

    rows = []
    try:
        for path in find_specs(root / "benchmarks" / "specs"):
            spec = load_spec(path)
            minutes = f"{spec.requires.minutes:g}" if spec.requires.minutes else ""
            rows.append([spec.id, spec.profile, minutes, spec.title, lacking(spec, root.resolve(), data) or "yes"])
    except PrismError as error:
        typer.echo(f"prism: {error}", err=True)
        raise typer.Exit(2) from None
    if not rows:
        typer.echo(
            f"prism: {root / 'benchmarks' / 'specs'} holds no specs; run this in a checkout, or name --root", err=True
        )
        raise typer.Exit(2)
    profile, why = choose_profile(None)
    typer.echo(f"profile here: {profile} ({why})\n")
    typer.echo(tabulate(rows, ["spec", "profile", "min", "title", "runs here"], tablefmt="simple"))
