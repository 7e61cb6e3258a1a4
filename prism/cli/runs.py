"""Commands about runs that were made: accept, compare, history, and answers scored elsewhere."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from prism.cli.app import Home, Root, app, exit_on_error
from prism.cli.measuring import setting_of
from prism.store.homes import open_store
from prism.untrusted import terminal_safe

if TYPE_CHECKING:
    from prism.verdicts.compare import Comparison
    from prism.verdicts.history import Entry
    from prism.verdicts.scores import Scores


@app.command()
def accept(
    run: Annotated[str, typer.Argument(help="The folder or id of a run.")] = "reports/latest",
    force: Annotated[
        bool,
        typer.Option(
            "--force", help="Accept even if the run is partial, failed, has fewer seeds or had uncommitted changes."
        ),
    ] = False,
    fresh: Annotated[
        bool,
        typer.Option(
            "--fresh", help="Measure the run's specs with new seeds first, and accept that: no picked run is accepted."
        ),
    ] = False,
    data: Annotated[Path | None, typer.Option(help="With --fresh, as --prism-data.")] = None,
    models: Annotated[Path | None, typer.Option(help="With --fresh, as --prism-models.")] = None,
    judge: Annotated[str | None, typer.Option(help="With --fresh, as --prism-judge.")] = None,
    home: Annotated[
        str | None, typer.Option(metavar="DIR|URL", help="As --prism-home: the store of that run, which knows others.")
    ] = None,
    root: Root = Path("."),
) -> None:
    """Accept a run: `drop` thresholds compare later runs with its scores."""
    from prism.acceptance import accept as accept_run
    from prism.report.comparison import acceptance_summary
    from prism.report.terminal import width
    from prism.verdicts.accepted import locate

    with exit_on_error():
        folder = locate(run, root)
        if fresh:
            from prism.cli.fresh import measure_again
            from prism.devices import use_one_gpu

            use_one_gpu()
            root = root.resolve()
            setting = setting_of(root, home, data, models, judge)
            command = f"prism accept {run} --fresh"
            folder = measure_again(folder.resolve(), setting, root / "reports", command, force)
            typer.echo(f"report: {folder}/report.md, report.html\n")
        for acceptance in accept_run(folder, root, force, open_store(home)):
            typer.echo(terminal_safe(acceptance_summary(acceptance, width()) + "\n"))
    typer.echo("Review the change and commit it: git diff --stat reports/reference")


@app.command()
def bundle(
    run: Annotated[str, typer.Argument(help="The folder or id of a run.")],
    out: Annotated[Path, typer.Argument(help="The file to write: NAME.tar.xz.")],
    home: Annotated[str | None, typer.Option(metavar="DIR|URL", help="As --prism-home: the store of that run.")] = None,
    root: Root = Path("."),
) -> None:
    """Pack a run's answers, without its models, to score them elsewhere."""
    from prism.bundle import pack
    from prism.verdicts.accepted import locate

    with exit_on_error():
        size = pack(locate(run, root), open_store(home), out)
    typer.echo(terminal_safe(f"{out}: {size / 2**20:.1f} MiB; score it with `prism rescore {out.name}`"))


@app.command()
def rescore(
    bundles: Annotated[list[Path], typer.Argument(help="Bundles of runs; of one spec, each with other seeds.")],
    data: Annotated[Path | None, typer.Option(help="As --prism-data.")] = None,
    home: Home = None,
    reports: Annotated[Path, typer.Option(help="As --prism-report.")] = Path("reports"),
    root: Root = Path("."),
) -> None:
    """Score the answers of bundles with this checkout's code and rows: a new run, without a model."""
    from prism.bundle import rescore as rescore_bundles
    from prism.progress import Console
    from prism.report.terminal import lines, width
    from prism.setting import Setting

    with exit_on_error():
        root = root.resolve()
        setting = Setting(root, open_store(home), Console(), data=data and data.resolve())
        command = "prism rescore " + " ".join(path.name for path in bundles)
        run, folder = rescore_bundles(bundles, setting, (root / reports).resolve(), command)
    typer.echo(terminal_safe("\n".join([*lines(run, width()), f"report: {folder}/report.md, report.html"])))


@app.command()
def compare(
    before: Annotated[str, typer.Argument(metavar="A", help="A run, an accepted file, a folder of them, or git:REV.")],
    after: Annotated[str, typer.Argument(metavar="B", help="The same: the side that is compared with A.")],
    drop: Annotated[float, typer.Option(min=0, help="A loss that is tolerated.")] = 0.0,
    flips: Annotated[int, typer.Option(min=0, help="How many flipped samples to list in each direction.")] = 5,
    root: Root = Path("."),
) -> None:
    """Compare B with A, sample by sample. The exit code is 1 if B is shown to lose more than --drop."""
    from prism.errors import ScoresError
    from prism.report.comparison import closing_sentence, comparison_table, flipped_samples
    from prism.report.terminal import width
    from prism.tasks import metrics_of
    from prism.verdicts.accepted import gather_scores
    from prism.verdicts.compare import compare as compare_scores
    from prism.verdicts.compare import differences
    from prism.verdicts.possible import require_possible

    found: dict[str, list[Comparison]] = {}
    with exit_on_error():
        pairs = _pairs(gather_scores(before, root), gather_scores(after, root), before, after)
        for old, new in pairs:
            # A metric against a control repeats another metric's scores and would count the same loss twice.
            metrics = [metric for metric in metrics_of(new, root) if metric.against == "baseline"]
            for scores in (old, new):
                require_possible(scores, metrics)
            comparisons, without = compare_scores(old, new, metrics, len(metrics))
            if not comparisons:
                raise ScoresError(f"{new.name}: no metric can be compared ({'; '.join(without.values())})")
            found[new.name] = list(comparisons.values())
            typer.echo(terminal_safe(comparison_table(new, found[new.name], drop, width())))
            lines = [f"{name}: not comparable: {why}" for name, why in without.items()]
            lines += [f"{key}: {a or '–'} → {b or '–'}" for key, a, b in differences(old, new)]
            samples = _samples(new, root, after)
            typer.echo(
                terminal_safe("\n".join([*lines, *flipped_samples(list(comparisons.values()), samples, flips), ""]))
            )
        typer.echo(terminal_safe(closing_sentence(found, drop)))
    raise typer.Exit(int(any(each.is_worse(drop) for of_spec in found.values() for each in of_spec)))


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
    from prism.verdicts.accepted import locate
    from prism.verdicts.record import read_samples

    if run.startswith("git:"):
        return {}
    lines = read_samples(locate(run, root), scores.phase, scores.spec)
    return {name: {key: value for key, value in line.items() if isinstance(value, str)} for name, line in lines.items()}


@app.command()
def history(
    spec: Annotated[str | None, typer.Argument(help="One spec, such as phase1/nano.")] = None, root: Root = Path(".")
) -> None:
    """Show each metric over the accepted runs in git's history."""
    from prism.errors import ScoresError
    from prism.report.comparison import history_table
    from prism.report.terminal import width
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
        typer.echo(terminal_safe(f"{name}\n\n{history_table(found, _gains(found, root), width())}\n"))


def _gains(entries: Sequence[Entry], root: Path) -> set[str]:
    """The metrics that are named after their gain over a control: their score is another metric's."""
    from prism.errors import ScoresError
    from prism.tasks import metrics_of

    found = set()
    for entry in entries:
        with suppress(ScoresError):  # the task of an old run is gone
            found |= (
                {m.name for m in metrics_of(entry.scores, root) if m.against != "baseline"} if entry.scores else set()
            )
    return found
