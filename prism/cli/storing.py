"""The `prism store` commands: what a store holds, listed, cleared, verified, copied."""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from prism.cli.app import Home, Root, app, exit_on_error
from prism.store.homes import open_store
from prism.untrusted import terminal_safe

if TYPE_CHECKING:
    from prism.store.keeping import Item

store = typer.Typer(no_args_is_help=True, help="List, clear, verify and copy stores: folders and URLs alike.")
app.add_typer(store, name="store")


@store.command("ls")
def ls(
    kind: Annotated[str | None, typer.Argument(help="List each of a kind: adapters, predictions, tables …")] = None,
    home: Home = None,
    reports: Annotated[Path, typer.Option(help="As --prism-report: its runs say whose an artifact is.")] = Path(
        "reports"
    ),
    root: Root = Path("."),
) -> None:
    """List what a store holds: number, size and age by kind, or each artifact of one kind."""
    from tabulate import tabulate

    from prism.errors import StoreError
    from prism.store.keeping import contents

    with exit_on_error():
        opened = open_store(home)
        items = contents(opened)
        if kind:
            chosen = [each for each in items if each.kind == kind]
            if not chosen:
                kinds = ", ".join(sorted({each.kind for each in items if each.kind})) or "nothing"
                raise StoreError(f"{opened.name}: holds no {kind!r}, but {kinds}")
            owners = _owners(root / reports)
            rows: list[tuple[str, ...]] = [
                (each.digest[:16], each.state, _mib(each.size), _age(each.time), owners.get(each.artifact, ""))
                for each in sorted(chosen, key=lambda each: -each.time)
            ]
            table = tabulate(rows, headers=["digest", "state", "MiB", "age", "of"], tablefmt="simple")
        else:
            by_kind: dict[str, list[Item]] = {}
            for each in items:
                by_kind.setdefault(each.kind or "(rest)", []).append(each)
            rows = [_summary(name, found) for name, found in sorted(by_kind.items())]
            headers = ["kind", "whole", "files", "unfinished", "left", "MiB", "newest", "oldest"]
            table = tabulate([*rows, _summary("total", items)], headers=headers, tablefmt="simple")
    typer.echo(terminal_safe(f"{opened.name}\n\n{table}"))


def _summary(name: str, items: Sequence[Item]) -> tuple[str, ...]:
    states = [each.state for each in items]
    counts = (str(states.count(state)) for state in ("whole", "file", "partial", "leftover"))
    times = [each.time for each in items]
    ages = (_age(max(times)), _age(min(times))) if times else ("", "")
    return (name, *counts, _mib(sum(each.size for each in items)), *ages)


def _mib(size: int) -> str:
    return f"{size / 2**20:,.1f}"


def _age(when: float) -> str:
    hours = max(0.0, time.time() - when) / 3_600
    return f"{hours:.0f} h" if hours < 48 else f"{hours / 24:.0f} d"


def _owners(reports: Path) -> dict[str, str]:
    """The spec and stage of each artifact that a run under `reports` names; the newest run's word counts."""
    from prism.errors import ScoresError
    from prism.verdicts.record import read_run

    owners: dict[str, str] = {}
    for folder in sorted((reports / "runs").glob("[0-9]*")):
        try:
            run = read_run(folder)
        except ScoresError:
            continue  # of another version
        for result in run.results:
            for stage, artifact in result.details.get("artifacts", {}).items():
                owners[str(artifact)] = f"{result.id}, {stage}"
    return owners


@store.command()
def gc(
    home: Home = None,
    older_than: Annotated[
        float | None,
        typer.Option(
            min=1, metavar="DAYS", help="Also artifacts that were not used for as long (URL: written before)."
        ),
    ] = None,
    over: Annotated[
        float | None, typer.Option(min=0, metavar="GIB", help="Also the oldest artifacts, until the rest fit in this.")
    ] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Say what would be deleted, and delete nothing.")] = False,
    yes: Annotated[bool, typer.Option("--yes", help="Do not ask.")] = False,
) -> None:
    """Delete what nothing needs: damaged, replaced, and left half-done for a week. What is in use stays."""
    from prism.store.keeping import clear, contents, unneeded

    with exit_on_error():
        opened = open_store(home)
        gone = unneeded(contents(opened), older_than, over)
        whole = sum(each.state == "whole" for each in gone)
        size = _mib(sum(each.size for each in gone))
        typer.echo(
            terminal_safe(f"{opened.name}: {whole} artifacts and {len(gone) - whole} leftovers to delete, {size} MiB")
        )
        if not gone or dry_run:
            for each in gone:
                typer.echo(terminal_safe(f"{each.name}  {_mib(each.size)} MiB, {_age(each.time)}"))
            return
        if not yes and not typer.confirm("delete them?"):
            raise typer.Exit(2)
        typer.echo(f"{clear(opened, gone)} deleted")


@store.command()
def verify(home: Home = None) -> None:
    """Check every artifact against the checksums of its manifest. The exit code is 1 if one is damaged."""
    from tqdm import tqdm

    from prism.store.keeping import contents, damaged

    with exit_on_error():
        opened = open_store(home)
        whole = [each for each in contents(opened) if each.state == "whole"]
        with tqdm(total=len(whole), disable=None, leave=False) as bar:
            found = damaged(opened, whole, bar.update)
    _tell(found)
    typer.echo(terminal_safe(f"{opened.name}: {len(whole) - len(found)} artifacts whole, {len(found)} damaged"))
    raise typer.Exit(int(bool(found)))


@store.command()
def copy(
    source: Annotated[str, typer.Argument(metavar="FROM", help="A store: a folder or a URL.")],
    target: Annotated[str, typer.Argument(metavar="TO", help="The store that gets what it lacks.")],
) -> None:
    """Copy what a store lacks of another; call it again to go on. The exit code is 1 if an artifact is damaged."""
    from tqdm import tqdm

    from prism.store import keeping

    with exit_on_error():
        with tqdm(disable=None, leave=False) as bar:
            new, found = keeping.copy(open_store(source), open_store(target), bar.update)
    _tell(found)
    whole = sum(each.state == "whole" for each in new)
    size = _mib(sum(each.size for each in new))
    typer.echo(terminal_safe(f"{target}: {whole} artifacts and {len(new) - whole} files copied, {size} MiB"))
    raise typer.Exit(int(bool(found)))


def _tell(damaged: dict[str, str]) -> None:
    for name, reason in sorted(damaged.items()):
        typer.echo(terminal_safe(f"{name}: damaged ({reason})"))
