"""The `prism` command: everything that does not run through pytest."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from prism.errors import PrismError

if TYPE_CHECKING:
    from prism.spec import Spec
    from prism.store import Store
    from prism.verdicts.scores import Scores

app = typer.Typer(add_completion=False, no_args_is_help=True, pretty_exceptions_enable=False)


Root = Annotated[Path, typer.Option(help="The checkout.")]


@contextmanager
def exit_on_error() -> Iterator[None]:
    """Print a `PrismError` as one sentence and exit with code 2."""
    try:
        yield
    except PrismError as error:
        typer.echo(f"prism: {error}", err=True)
        raise typer.Exit(2) from None


def _version(requested: bool) -> None:
    if requested:
        typer.echo(f"prism {version('prism-bench')}")
        raise typer.Exit


@app.callback()
def main(
    show: Annotated[bool, typer.Option("--version", callback=_version, is_eager=True, help="Print version.")] = False,
) -> None:
    """PRISM: LoRA fine-tuning benchmarks as pytest items. Run them with `pytest benchmarks`."""


@app.command()
def specs(
    root: Annotated[Path, typer.Option(help="The checkout with benchmarks/specs.")] = Path("."),
    data: Annotated[Path | None, typer.Option(help="As --prism-data.")] = None,
) -> None:
    """List every spec with its profile, its duration and whether it can run here."""
    from tabulate import tabulate

    from prism.plugin.scheduling import choose_profile, lacking
    from prism.spec import find_specs
    from prism.tasks.check import load_checked_spec

    rows = []
    with exit_on_error():
        for path in find_specs(root / "benchmarks" / "specs"):
            spec = load_checked_spec(path)
            minutes = f"{spec.requires.minutes:g}" if spec.requires.minutes else ""
            rows.append(
                [
                    spec.id,
                    spec.profile,
                    minutes,
                    spec.title,
                    lacking(spec, root.resolve(), data) or _without_rows(spec, root.resolve(), data) or "yes",
                ]
            )
    if not rows:
        typer.echo(
            f"prism: {root / 'benchmarks' / 'specs'} has no specs; run this in a checkout, or pass --root", err=True
        )
        raise typer.Exit(2)
    profile, why = choose_profile(None)
    typer.echo(f"profile here: {profile} ({why})\n")
    typer.echo(tabulate(rows, ["spec", "profile", "min", "title", "runs here"], tablefmt="simple"))


def _without_rows(spec: Spec, root: Path, data: Path | None) -> str:
    from prism.rows.examples import stand_in
    from prism.store.sources import is_local

    if stand_in(spec, data) or not is_local(spec.data.path, root):
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
    home: Annotated[Path | None, typer.Option(help="As --prism-home.")] = None,
    root: Annotated[Path, typer.Option(help="The checkout with the bundled rows.")] = Path("."),
) -> None:
    """Compare a judge's grades with known ones: agreement, length bias, spread over repeats."""
    from tabulate import tabulate
    from tqdm import tqdm

    from prism.judge import DEFINITIONS, asking, calibration, tier3
    from prism.judge.grading import estimate
    from prism.judge.spending import Budget, Spending
    from prism.tasks import load_task
    from prism.tasks.check import load_checked_spec

    store = _store(home)
    with exit_on_error():
        choice = asking.choose(judge)
        if choice is None:
            raise asking.JudgeError(asking.NOT_CONFIGURED.replace("--prism-judge", "--judge"))
        rows = calibration.read_graded(file or root / calibration.BUNDLED, scale, metric)
        spending = Spending(choice.price, Budget.parse(budget) if budget else None)
        known = dict(DEFINITIONS)
        if spec:
            loaded = load_checked_spec(root / "benchmarks" / "specs" / f"{spec}.toml")
            known |= {d.metric: d for d in tier3.definitions(loaded, load_task(loaded).judged)}
        for name in dict.fromkeys(row["metric"] for row in rows):
            if name not in known:
                raise asking.JudgeError(f"metric {name!r}: not one of {', '.join(known)}")
            graded_rows = [row for row in rows if row["metric"] == name]
            cost = estimate(choice, known[name], calibration.cases_of(graded_rows), store, repeats)
            typer.echo(f"{name}: about {cost.sentence(choice.price)}", err=True)
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
            typer.echo(f"{choice.name}, {name}: {found.sentence()}")
            typer.echo(tabulate(found.kinds, headers="keys", tablefmt="simple", floatfmt=".2f") + "\n")
        typer.echo(f"spent: {spending.spent.sentence(choice.price)}")


@app.command()
def accept(
    run: Annotated[str, typer.Argument(help="The folder or id of a run.")] = "reports/latest",
    force: Annotated[
        bool,
        typer.Option(
            "--force", help="Accept even if the run is partial, failed, has fewer seeds or had uncommitted changes."
        ),
    ] = False,
    root: Root = Path("."),
) -> None:
    """Accept a run: `drop` thresholds compare later runs with its scores."""
    from prism.report.comparison import acceptance_summary
    from prism.verdicts.accepted import accept as accept_run
    from prism.verdicts.accepted import locate

    with exit_on_error():
        for acceptance in accept_run(locate(run, root), root, force):
            typer.echo(acceptance_summary(acceptance) + "\n")
    typer.echo("Review the change and commit it: git diff --stat reports/reference")


@app.command()
def bundle(
    run: Annotated[str, typer.Argument(help="The folder or id of a run.")],
    out: Annotated[Path, typer.Argument(help="The file to write: NAME.tar.xz.")],
    home: Annotated[Path | None, typer.Option(help="As --prism-home: the store of that run.")] = None,
    root: Root = Path("."),
) -> None:
    """Pack a run's answers, without its models, to score them elsewhere."""
    from prism.bundle import pack
    from prism.verdicts.accepted import locate

    with exit_on_error():
        size = pack(locate(run, root), _store(home), out)
    typer.echo(f"{out}: {size / 2**20:.1f} MiB; score it with `prism rescore {out.name}`")


@app.command()
def rescore(
    bundles: Annotated[list[Path], typer.Argument(help="Bundles of runs; of one spec, each with other seeds.")],
    data: Annotated[Path | None, typer.Option(help="As --prism-data.")] = None,
    home: Annotated[Path | None, typer.Option(help="As --prism-home.")] = None,
    reports: Annotated[Path, typer.Option(help="As --prism-report.")] = Path("reports"),
    root: Root = Path("."),
) -> None:
    """Score the answers of bundles with this checkout's code and rows: a new run, without a model."""
    from prism.bundle import rescore as rescore_bundles
    from prism.progress import Console
    from prism.report.terminal import lines
    from prism.setting import Setting

    with exit_on_error():
        root = root.resolve()
        setting = Setting(root, _store(home), Console(), data=data and data.resolve())
        command = "prism rescore " + " ".join(path.name for path in bundles)
        run, folder = rescore_bundles(bundles, setting, (root / reports).resolve(), command)
    typer.echo("\n".join([*lines(run), f"report: {folder}/report.md, report.html"]))


@app.command()
def compare(
    before: Annotated[str, typer.Argument(metavar="A", help="A run, an accepted file, a folder of them, or git:REV.")],
    after: Annotated[str, typer.Argument(metavar="B", help="The same: the side that is compared with A.")],
    drop: Annotated[float, typer.Option(min=0, help="A loss that is tolerated.")] = 0.0,
    flips: Annotated[int, typer.Option(min=0, help="How many flipped samples to list in each direction.")] = 5,
    root: Root = Path("."),
) -> None:
    """Compare B with A, sample by sample. The exit code is 1 if B is significantly worse."""
    from prism.errors import ScoresError
    from prism.report.comparison import comparison_table, flipped_samples
    from prism.tasks import metrics_of
    from prism.verdicts.accepted import gather_scores
    from prism.verdicts.compare import compare as compare_scores
    from prism.verdicts.compare import differences

    worse = False
    with exit_on_error():
        pairs = _pairs(gather_scores(before, root), gather_scores(after, root), before, after)
        for old, new in pairs:
            # A metric against a control repeats another metric's scores and would count the same loss twice.
            metrics = [metric for metric in metrics_of(new, root) if metric.against == "baseline"]
            comparisons, without = compare_scores(old, new, metrics, len(metrics))
            if not comparisons:
                raise ScoresError(f"{new.name}: no metric can be compared ({'; '.join(without.values())})")
            typer.echo(comparison_table(new, list(comparisons.values()), drop))
            lines = [f"{name}: not comparable: {why}" for name, why in without.items()]
            lines += [f"{key}: {a or '–'} → {b or '–'}" for key, a, b in differences(old, new)]
            samples = _samples(new, root, after)
            typer.echo("\n".join([*lines, *flipped_samples(list(comparisons.values()), samples, flips), ""]))
            worse |= any(comparison.is_worse(drop) for comparison in comparisons.values())
    raise typer.Exit(int(worse))


def _pairs(old: list[Scores], new: list[Scores], before: str, after: str) -> list[tuple[Scores, Scores]]:
    """The specs that both sides measured, matched by evaluation if a side has several."""
    from prism.errors import ScoresError

    exact = {found.name: found for found in old}
    by_id = {found.id: found for found in old}
    pairs = [(exact.get(found.name) or by_id[found.id], found) for found in new if found.id in by_id]
    if not pairs:
        theirs, ours = (", ".join(sorted({found.id for found in side})) for side in (old, new))
        raise ScoresError(
            f"{before} ({theirs}) and {after} ({ours}): no spec in common; name two runs of the same spec"
        )
    return pairs


def _samples(scores: Scores, root: Path, run: str) -> dict[str, dict[str, str]]:
    """Question and answers by sample id, if the scores come from a run's folder."""
    from prism.rows.answers import read_json_lines
    from prism.verdicts.accepted import locate

    if run.startswith("git:"):
        return {}
    file = locate(run, root) / "samples" / f"{scores.phase}-{scores.spec}.jsonl"
    return {line["id"]: line for line in read_json_lines(file)} if file.is_file() else {}


@app.command()
def history(
    spec: Annotated[str | None, typer.Argument(help="One spec, such as phase1/nano.")] = None, root: Root = Path(".")
) -> None:
    """Show each metric over the accepted runs in git's history."""
    from prism.errors import ScoresError
    from prism.report.comparison import history_table
    from prism.verdicts.history import Entry
    from prism.verdicts.history import history as entries

    with exit_on_error():
        specs: dict[str, list[Entry]] = {}
        for entry in entries(root):
            name = f"{entry.file.parent.name}/{entry.file.name.partition('@')[0]}"
            if spec in (None, name, name.partition("/")[2]):
                specs.setdefault(name, []).append(entry)
        if not specs:
            raise ScoresError(
                f"no accepted run{f' of {spec}' if spec else ''} yet; `prism accept` a run, and commit the file"
            )
    for name, found in specs.items():
        typer.echo(f"{name}\n\n{history_table(found)}\n")


@app.command()
def thresholds(
    spec: Annotated[str, typer.Argument(help="The spec's name, or its id if several phases have that name.")],
    seeds: Annotated[str, typer.Option(help="As --prism-seeds: 5, 47-51 or 42,47.")] = "5",
    data: Annotated[Path | None, typer.Option(help="As --prism-data.")] = None,
    models: Annotated[Path | None, typer.Option(help="As --prism-models.")] = None,
    judge: Annotated[str | None, typer.Option(help="As --prism-judge; by default PRISM_JUDGE.")] = None,
    home: Annotated[Path | None, typer.Option(help="As --prism-home.")] = None,
    root: Root = Path("."),
) -> None:
    """Measure several seeds and propose thresholds, each with its reason, as TOML to paste."""
    from prism.errors import SpecError
    from prism.experiment import Experiment
    from prism.judge.asking import choose
    from prism.judge.spending import Spending
    from prism.plugin.scheduling import require, training_seeds
    from prism.plugin.workers import use_one_gpu
    from prism.progress import Console
    from prism.report.proposals import FEWEST, propose
    from prism.setting import Setting
    from prism.tasks import metrics_of
    from prism.verdicts.accepted import competing_drops

    with exit_on_error():
        chosen, screen, root = _spec(spec, root), Console(), root.resolve()
        training = [chosen.seed] if chosen.adapter else training_seeds(seeds, chosen.seed)
        if len(training) < FEWEST and not chosen.adapter:
            raise SpecError(f"--seeds {seeds}: a spread between seeds needs at least {FEWEST} seeds")
        use_one_gpu()
        chosen_judge = choose(judge)
        setting = Setting(
            root,
            _store(home),
            screen,
            data=data and data.resolve(),
            models=models and models.resolve(),
            judge=(chosen_judge, Spending(chosen_judge.price)) if chosen_judge else None,
        )
        require(chosen, setting.store.home)
        outcome = Experiment(chosen, setting, training).outcome
        others = competing_drops(root, chosen.profile, besides=chosen.id)
        typer.echo(propose(chosen, outcome.result.records, outcome.scores, metrics_of(outcome.scores, root), others))


def _spec(name: str, root: Path) -> Spec:
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


def _store(home: Path | None) -> Store:
    import os

    from prism.store import Store

    return Store(Path(home or os.environ.get("PRISM_HOME") or "~/.cache/prism").expanduser().resolve())


if __name__ == "__main__":
    app()
