"""Commands that hand an adapter on: its card, and its upload to the hub."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from prism.cli.app import Root, app, exit_on_error
from prism.cli.measuring import find_spec
from prism.store.homes import open_store

if TYPE_CHECKING:
    from prism.verdicts.record import Result, Run

Reports = Annotated[Path, typer.Option(help="As --prism-report: the folder of the run that measured it.")]
Licence = Annotated[str | None, typer.Option(help="The adapter's licence, as the hub names it: apache-2.0.")]


@app.command("card")
def print_card(
    spec: Annotated[str, typer.Argument(help="The spec's name or id, or an adapter's digest in the store.")],
    repo: Annotated[str, typer.Option(help="The repository that the card speaks of.")] = "OWNER/NAME",
    licence: Licence = None,
    reports: Reports = Path("reports"),
    root: Root = Path("."),
) -> None:
    """Print the Hugging Face model card of an adapter, from the newest run that measured it."""
    from prism.report.card import card

    with exit_on_error():
        run, result, digest = _measured(spec, root / reports)
        typer.echo(str(card(run, result, digest, find_spec(result.id, root), root.resolve(), repo, licence)))


@app.command()
def push(
    adapter: Annotated[str, typer.Argument(help="A spec's name or id, or an adapter's digest in the store.")],
    repo: Annotated[str, typer.Argument(help="OWNER/NAME on the hub; made if there is none.")],
    licence: Licence = None,
    public: Annotated[bool, typer.Option("--public", help="Anybody may read a new repository.")] = False,
    home: Annotated[
        str | None, typer.Option(metavar="DIR|URL", help="As --prism-home: the store of that adapter.")
    ] = None,
    reports: Reports = Path("reports"),
    root: Root = Path("."),
) -> None:
    """Upload an adapter and its model card to the hub at HF_ENDPOINT, private unless --public."""
    from prism.errors import StoreError
    from prism.progress import CONSOLE
    from prism.report.card import base_of, card
    from prism.store import pushing, read_manifest

    with exit_on_error():
        pushing.require_token(repo)
        run, result, digest = _measured(adapter, root / reports)
        store = open_store(home)
        folder = store.home / "adapters" / digest
        store.bring([f"adapters/{digest}"])
        try:
            identity = read_manifest(folder)["identity"]
        except (OSError, ValueError, KeyError, AttributeError):
            raise StoreError(
                f"adapters/{digest}: is not in the store {store.name}; pass the --home of run {run.id}"
            ) from None
        if store.find("adapters", identity) is None:
            raise StoreError(f"{folder}: is damaged; run the benchmarks again")
        spec = find_spec(result.id, root)
        text = str(card(run, result, digest, spec, root.resolve(), repo, licence))
        typer.echo(pushing.push(pushing.contents(folder, base_of(result, spec), text), repo, not public, CONSOLE.say))


def _measured(name: str, reports: Path) -> tuple[Run, Result, str]:
    """The newest run that measured a spec, or an adapter by its digest, with the digest of the first seed's adapter.

    Raises ScoresError if no run has.
    """
    from prism.errors import ScoresError
    from prism.report.card import adapters
    from prism.verdicts.record import read_run

    for folder in sorted((reports / "runs").glob("[0-9]*"), reverse=True):
        try:
            run = read_run(folder)
        except ScoresError:
            continue  # of another version
        for result in run.results:
            digests = list(adapters(result).values())
            named = [digest for digest in digests if len(name) >= 8 and digest.startswith(name)]
            if digests and (named or name in (result.id, result.spec)):
                return run, result, (named or digests)[0]
    raise ScoresError(
        f"{name}: no run under {reports} has measured this spec or adapter; run the benchmarks first, or pass --reports"
    )
