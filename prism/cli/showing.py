"""Commands that show what was made: demo, view."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from prism.cli.app import Home, Root, app, exit_on_error
from prism.cli.measuring import setting_of
from prism.store.homes import open_store

if TYPE_CHECKING:
    from prism.verdicts.record import Run


@app.command()
def demo(
    spec: Annotated[str | None, typer.Option(help="One spec, PHASE/NAME; by default all that have adapters.")] = None,
    adapter: Annotated[Path | None, typer.Option(help="A PEFT folder that answers the questions of --spec.")] = None,
    host: Annotated[str, typer.Option(help="The address to listen on; 0.0.0.0 lets others in.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=1, max=65535)] = 7860,
    data: Annotated[Path | None, typer.Option(help="As --prism-data.")] = None,
    models: Annotated[Path | None, typer.Option(help="As --prism-models.")] = None,
    home: Home = None,
    reports: Annotated[Path, typer.Option(help="As --prism-report.")] = Path("reports"),
    root: Root = Path("."),
) -> None:
    """Serve a web page where the base and its adapters answer side by side (extra: demo)."""
    from prism.demo import serve
    from prism.devices import use_one_gpu

    with exit_on_error():
        root = root.resolve()
        use_one_gpu()
        setting = setting_of(root, home, data, models, None)
        serve(setting, (root / reports).resolve(), spec, adapter and adapter.resolve(), host, port)


@app.command()
def view(
    run: Annotated[str, typer.Argument(help="The folder or id of a run.")] = "reports/latest",
    other: Annotated[str | None, typer.Argument(metavar="[RUN2]", help="A second run, shown beside the first.")] = None,
    out: Annotated[Path | None, typer.Option(help="The file to write; by default reports/view.html.")] = None,
    home: Annotated[
        str | None,
        typer.Option(metavar="DIR|URL", help="As --prism-home: the store of that run, which has its pictures."),
    ] = None,
    root: Root = Path("."),
) -> None:
    """Write the samples of a run, or of two, as one page that searches and filters them, without a server."""
    from prism.errors import ScoresError
    from prism.report import browse
    from prism.store import unwritable, write_text
    from prism.verdicts.accepted import locate
    from prism.verdicts.record import read_run, read_samples

    with exit_on_error():
        folders = [locate(where, root) for where in (run, other) if where]
        runs = [read_run(folder) for folder in folders]
        samples = [
            {result.id: list(read_samples(folder, result.phase, result.spec).values()) for result in found.results}
            for folder, found in zip(folders, runs)
        ]
        shared = (
            set.intersection(*({sample["id"] for sample in side.get(name, ())} for side in samples))
            for name in samples[-1]
        )
        if not any(shared):
            raise ScoresError(
                f"{run}{f' and {other}' if other else ''}: no samples in common; name runs of the same spec"
            )
        page = browse.render(runs, samples, _readers(runs[-1], root), open_store(home))
        file = out or root / "reports" / "view.html"
        try:
            write_text(file, page)
        except OSError as error:
            raise unwritable(file.parent, error, "--out") from error
    typer.echo(f"{file}: {sum(map(len, samples[-1].values())):,} samples; open it in a browser")


def _readers(run: Run, root: Path) -> dict[str, Callable[[str], str | None]]:
    """How the answers of a run's specs are read as labels; nothing for a spec that is gone, or whose answers are free."""
    from prism.spec import load_spec
    from prism.tasks import load_task

    found = {}
    for result in run.results:
        path = root / "benchmarks" / "specs" / f"{result.id}.toml"
        if path.is_file() and (read := load_task(load_spec(path)).parse):
            found[result.id] = read
    return found
