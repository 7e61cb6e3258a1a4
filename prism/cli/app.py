"""The command itself: the app, what every command shares, and how errors end one."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated

import typer

from prism import __version__
from prism.errors import PrismError, SpecError
from prism.redaction import redact_logs
from prism.store import FAULTS
from prism.untrusted import terminal_safe

app = typer.Typer(add_completion=False, no_args_is_help=True, pretty_exceptions_enable=False)


Root = Annotated[Path, typer.Option(help="The checkout.")]
Home = Annotated[str | None, typer.Option(metavar="DIR|URL", help="As --prism-home.")]


@contextmanager
def exit_on_error() -> Iterator[None]:
    """Print a `PrismError`, a disk that cannot be written, or Ctrl-C as one sentence and exit with code 2.

    Click would give 1 for Ctrl-C, which `prism compare` gives for a loss.
    """
    try:
        yield
    except PrismError as error:
        said = str(error)
    except KeyboardInterrupt:
        said = "interrupted; what was finished is in the store, and the next call reuses it"
    except OSError as error:
        if error.errno not in FAULTS:
            raise
        said = f"{error.filename or 'a file'}: {error.strerror}; free some space, or name a folder that can be written"
    else:
        return
    typer.echo(f"prism: {terminal_safe(said)}", err=True)
    raise typer.Exit(2)


def _version(requested: bool) -> None:
    if requested:
        typer.echo(f"prism {__version__}")
        raise typer.Exit


@app.callback()
def main(
    show: Annotated[bool, typer.Option("--version", callback=_version, is_eager=True, help="Print version.")] = False,
) -> None:
    """PRISM: LoRA fine-tuning benchmarks as pytest items. Run them with `pytest benchmarks`."""
    redact_logs()
    own, loaded = Path("prism").resolve(), Path(__file__).resolve().parents[1]
    if (own / "plugin" / "hooks.py").is_file() and own != loaded:  # as pytest_prism.py refuses it
        with exit_on_error():
            raise SpecError(
                f"{own}: is not the package that runs, {loaded}; run `pip install -e .` here, or python -m prism"
            )
