"""Commands that say what can be measured, or measure it: specs, thresholds, calibrate-judge."""

from __future__ import annotations

import textwrap
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from prism.cli.app import Home, Root, app, exit_on_error
from prism.store.homes import open_store
from prism.untrusted import terminal_safe

if TYPE_CHECKING:
    from prism.setting import Setting
    from prism.spec import Spec


@app.command()
def specs(
    root: Annotated[Path, typer.Option(help="The checkout with benchmarks/specs.")] = Path("."),
    data: Annotated[Path | None, typer.Option(help="As --prism-data.")] = None,
) -> None:
    """List every spec with its profile, its duration and whether it can run here."""
    from prism.plugin.scheduling import choose_profile, lacking
    from prism.report.tables import Table
    from prism.report.terminal import drawn, width
    from prism.spec import find_specs
    from prism.tasks.check import load_checked_spec

    rows = []
    lacking_here: dict[str, list[str]] = {}
    with exit_on_error():
        for path in find_specs(root / "benchmarks" / "specs"):
            spec = load_checked_spec(path)
            minutes = f"{spec.requires.minutes:g}" if spec.requires.minutes else ""
            why = lacking(spec, root.resolve(), data) or _without_rows(spec, root.resolve(), data)
            rows.append(["no" if why else "yes", spec.id, spec.profile, minutes, spec.title])
            if why:
                lacking_here.setdefault(why, []).append(spec.id)
    if not rows:
        typer.echo(
            f"prism: {root / 'benchmarks' / 'specs'} has no specs; run this in a checkout, or pass --root", err=True
        )
        raise typer.Exit(2)
    profile, why = choose_profile(None, find_specs(root / "benchmarks" / "specs"))
    typer.echo(f"profile here: {profile} ({why})\n")
    shown = drawn(Table(["runs", "spec", "profile", "min", "title"], rows, numbers=5), width())
    reasons = [
        textwrap.fill(f"{', '.join(ids)}: {why}", width(), subsequent_indent="  ", break_on_hyphens=False)
        for why, ids in lacking_here.items()
    ]
    typer.echo(terminal_safe("\n".join([*shown, *([""] if reasons else []), *reasons])))


def _without_rows(spec: Spec, root: Path, data: Path | None) -> str:
    from prism.rows.parts import is_hub_id, stand_in

    if stand_in(spec, data) or is_hub_id(spec.data.path, root):
        return ""
    return "" if (root / Path(spec.data.path).expanduser()).exists() else f"there is no {spec.data.path}"


@app.command("calibrate-judge")
def calibrate_judge(
    judge: Annotated[str | None, typer.Option(help="As --prism-judge; by default PRISM_JUDGE.")] = None,
    file: Annotated[
        Path | None, typer.Option(help="Your own graded rows: question, answer, reference (or context), grade.")
    ] = None,
    spec: Annotated[str | None, typer.Option(help="Grade by the evaluation steps of this spec: PHASE/NAME.")] = None,
    metric: Annotated[str | None, typer.Option(help="The metric to calibrate; by default all in the rows.")] = None,
    scale: Annotated[tuple[float, float], typer.Option(help="Lowest and highest grade of --file.")] = (0.0, 1.0),
    repeats: Annotated[int, typer.Option(min=1, help="How often each answer is graded.")] = 3,
    budget: Annotated[str | None, typer.Option(help="A ceiling: 2.50 (dollars), or 200k tokens.")] = None,
    home: Home = None,
    root: Annotated[Path, typer.Option(help="The checkout with the spec.")] = Path("."),
) -> None:
    """Compare a judge's grades with known ones: agreement, length bias, spread over repeats."""
    from tabulate import tabulate
    from tqdm import tqdm

    from prism.judge import DEFINITIONS, calibration, choosing, tier3
    from prism.judge.grading import estimate
    from prism.judge.spending import Budget, Spending
    from prism.tasks import load_task
    from prism.tasks.check import load_checked_spec

    with exit_on_error():
        store = open_store(home)
        choice = choosing.choose(judge)
        if choice is None:
            raise choosing.JudgeError(choosing.NOT_CONFIGURED.replace("--prism-judge", "--judge"))
        rows = calibration.read_graded(file or calibration.BUNDLED, scale, metric)
        spending = Spending(choice.price, Budget.parse(budget) if budget else None)
        known = dict(DEFINITIONS)
        if spec:
            loaded = load_checked_spec(root / "benchmarks" / "specs" / f"{spec}.toml")
            known |= {d.metric: d for d in tier3.definitions(loaded, load_task(loaded).judged)}
        for name in dict.fromkeys(row["metric"] for row in rows):
            if name not in known:
                raise choosing.JudgeError(f"metric {name!r}: not one of {', '.join(known)}")
            graded_rows = [row for row in rows if row["metric"] == name]
            cost = estimate(choice, known[name], calibration.cases_of(graded_rows), store, repeats)
            typer.echo(terminal_safe(f"{name}: about {cost.sentence(choice.price)}"), err=True)
            with tqdm(total=len(graded_rows) * repeats, disable=None, leave=False) as bar:
                found = calibration.calibrate(
                    choice,
                    known[name],
                    graded_rows,
                    store,
                    source=file.name if file else "bundled",
                    constructed=file is None,
                    repeats=repeats,
                    spending=spending,
                    advance=bar.update,
                )
            typer.echo(terminal_safe(f"{choice.name}, {name}: {found.sentence()}"))
            typer.echo(terminal_safe(tabulate(found.kinds, headers="keys", tablefmt="simple", floatfmt=".2f") + "\n"))
        typer.echo(terminal_safe(f"spent: {spending.spent.sentence(choice.price)}"))


@app.command()
def thresholds(
    spec: Annotated[str, typer.Argument(help="The spec's name, or its id if several phases have that name.")],
    seeds: Annotated[str, typer.Option(help="As --prism-seeds: 5, 47-51 or 42,47.")] = "5",
    data: Annotated[Path | None, typer.Option(help="As --prism-data.")] = None,
    models: Annotated[Path | None, typer.Option(help="As --prism-models.")] = None,
    judge: Annotated[str | None, typer.Option(help="As --prism-judge; by default PRISM_JUDGE.")] = None,
    home: Home = None,
    root: Root = Path("."),
) -> None:
    """Measure several seeds and propose thresholds, each with its reason, as TOML to paste."""
    from prism.devices import use_one_gpu
    from prism.errors import SpecError
    from prism.experiment import Experiment
    from prism.plugin.scheduling import require, training_seeds
    from prism.report.proposals import FEWEST, propose
    from prism.tasks import metrics_of
    from prism.verdicts.accepted import competing_drops

    with exit_on_error():
        chosen, root = find_spec(spec, root), root.resolve()
        training = [chosen.seed] if chosen.adapter else training_seeds(seeds, chosen.seed)
        if len(training) < FEWEST and not chosen.adapter:
            raise SpecError(f"--seeds {seeds}: a spread between seeds needs at least {FEWEST} seeds")
        use_one_gpu()
        setting = setting_of(root, home, data, models, judge)
        require(chosen, setting.store.home)
        outcome = Experiment(chosen, setting, training).outcome
        others = competing_drops(root, chosen.profile, besides=chosen.id)
        typer.echo(
            terminal_safe(
                propose(chosen, outcome.result.records, outcome.scores, metrics_of(outcome.scores, root), others)
            )
        )


@app.command()
def power(
    spec: Annotated[str, typer.Argument(help="The spec's name, or its id if several phases have that name.")],
    drop: Annotated[float | None, typer.Option(help="A loss that 80 % of runs shall show.")] = None,
    gain: Annotated[float | None, typer.Option(help="A gain over the baseline that they shall show instead.")] = None,
    rows: Annotated[int | None, typer.Option(min=2, help="As if each metric scored this many rows.")] = None,
    groups: Annotated[int | None, typer.Option(min=1, help="As if they came from this many groups.")] = None,
    seeds: Annotated[int, typer.Option(min=1, help="Seeds of a later run: as --prism-seeds, a count.")] = 1,
    alarms: Annotated[Literal["run", "reference"], typer.Option(help="As --prism-alarms.")] = "run",
    root: Root = Path("."),
) -> None:
    """Show which losses `drop` can catch, and what rows, groups and seeds a smaller one takes."""
    from prism.errors import SpecError
    from prism.report.planning import Asked, power_table
    from prism.report.terminal import width
    from prism.tasks import metrics_of
    from prism.verdicts.accepted import competing_drops
    from prism.verdicts.alarms import parts
    from prism.verdicts.power import accepted_of, limits_of

    with exit_on_error():
        for option, value in {"--drop": drop, "--gain": gain}.items():
            if value is not None and not 0 < value < float("inf"):
                raise SpecError(f"{option} {value:g}: must be a difference above 0, in the metric's units")
        if drop is not None and gain is not None:
            raise SpecError(f"--drop {drop:g} --gain {gain:g}: ask for one of them at a time")
        chosen = find_spec(spec, root)
        scores = accepted_of(chosen, root)
        declared = sum(limit.key == "drop" for limit in chosen.limits())
        thresholds = competing_drops(root, chosen.profile) + (not declared)
        thresholds *= parts(1) if alarms == "reference" else 1
        asked = Asked(drop, gain, rows, groups, seeds)
        typer.echo(
            terminal_safe(
                power_table(scores, metrics_of(scores, root), limits_of(chosen, scores), thresholds, asked, width())
            )
        )


def setting_of(root: Path, home: str | None, data: Path | None, models: Path | None, judge: str | None) -> Setting:
    """Where and by which options a command measures."""
    from prism.judge.choosing import choose
    from prism.judge.spending import Spending
    from prism.progress import Console
    from prism.setting import Setting

    chosen = choose(judge)
    return Setting(
        root,
        open_store(home),
        Console(),
        data=data and data.resolve(),
        models=models and models.resolve(),
        judge=(chosen, Spending(chosen.price)) if chosen else None,
    )


def find_spec(name: str, root: Path) -> Spec:
    """The spec of this name or id."""
    from prism.errors import SpecError
    from prism.spec import find_specs
    from prism.tasks.check import load_checked_spec

    paths = [
        path
        for path in find_specs(root / "benchmarks" / "specs")
        if name in (path.stem, f"{path.parent.name}/{path.stem}")
    ]
    if len(paths) != 1:
        ids = ", ".join(f"{path.parent.name}/{path.stem}" for path in paths)
        raise SpecError(
            f"{name}: {f'matches {ids}; name one' if ids else 'no such spec; `prism specs` lists those that exist'}"
        )
    return load_checked_spec(paths[0])
