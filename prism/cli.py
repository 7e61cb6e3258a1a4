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


@app.command("calibrate-judge")
def calibrate_judge(
    judge: Annotated[str | None, typer.Option(help="As --prism-judge; else PRISM_JUDGE.")] = None,
    file: Annotated[Path | None, typer.Option(help="Your own graded rows: question, answer, reference, grade.")] = None,
    metric: Annotated[str | None, typer.Option(help="The metric to calibrate; else each that the rows name.")] = None,
    scale: Annotated[tuple[float, float], typer.Option(help="Lowest and highest grade of --file.")] = (0.0, 1.0),
    repeats: Annotated[int, typer.Option(min=1, help="How often each answer is graded.")] = 3,
    budget: Annotated[str | None, typer.Option(help="A ceiling: 2.50 (dollars), or 200k tokens.")] = None,
    home: Annotated[Path | None, typer.Option(help="As --prism-home.")] = None,
    root: Annotated[Path, typer.Option(help="The checkout that holds the bundled rows.")] = Path("."),
) -> None:
    """Hold a judge's grades against known ones: agreement, bias by length, spread when asked again."""
    import os

    from tabulate import tabulate
    from tqdm import tqdm

    from prism.judge import DEFINITIONS, asking, calibration
    from prism.judge.grading import estimate
    from prism.judge.spending import Budget, Spending
    from prism.store import Store

    store = Store(Path(home or os.environ.get("PRISM_HOME") or "~/.cache/prism").expanduser().resolve())
    try:
        choice = asking.choose(judge)
        if choice is None:
            raise asking.JudgeError(asking.NOT_CONFIGURED.replace("--prism-judge", "--judge"))
        rows = calibration.read_graded(file or root / calibration.BUNDLED, scale, metric)
        spending = Spending(choice.price, Budget.parse(budget) if budget else None)
        for name in dict.fromkeys(row["metric"] for row in rows):
            if name not in DEFINITIONS:
                raise asking.JudgeError(f"metric {name!r}: not one of {', '.join(DEFINITIONS)}")
            own = [row for row in rows if row["metric"] == name]
            ahead = estimate(choice, DEFINITIONS[name], calibration.cases_of(own), store, repeats)
            typer.echo(f"{name}: about {ahead.sentence(choice.price)}", err=True)
            with tqdm(total=len(own) * repeats, disable=None, leave=False) as bar:
                found = calibration.calibrate(
                    choice,
                    DEFINITIONS[name],
                    own,
                    store,
                    source=file.name if file else "bundled",
                    constructed=file is None,
                    repeats=repeats,
                    spending=spending,
                    advance=bar.update,
                )
            typer.echo(f"{choice.name}, {name}: {found.sentence()}")
            typer.echo(tabulate(found.kinds, headers="keys", tablefmt="simple", floatfmt=".2f") + "\n")
        typer.echo(f"spent: {spending.spent.sentence(choice.price)}")
    except PrismError as error:
        typer.echo(f"prism: {error}", err=True)
        raise typer.Exit(2) from None
