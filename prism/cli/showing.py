"""Commands that show or share what was made: demo."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from prism.cli.app import Root, app, exit_on_error
from prism.cli.measuring import setting_of


@app.command()
def demo(
    spec: Annotated[str | None, typer.Option(help="One spec, PHASE/NAME; by default all that have adapters.")] = None,
    adapter: Annotated[Path | None, typer.Option(help="A PEFT folder that answers the questions of --spec.")] = None,
    host: Annotated[str, typer.Option(help="The address to listen on; 0.0.0.0 lets others in.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=1, max=65535)] = 7860,
    data: Annotated[Path | None, typer.Option(help="As --prism-data.")] = None,
    models: Annotated[Path | None, typer.Option(help="As --prism-models.")] = None,
    home: Annotated[Path | None, typer.Option(help="As --prism-home.")] = None,
    reports: Annotated[Path, typer.Option(help="As --prism-report.")] = Path("reports"),
    root: Root = Path("."),
) -> None:
    """Serve a web page where the base and its adapters answer side by side (extra: demo)."""
    from prism.demo import serve
    from prism.plugin.workers import use_one_gpu

    with exit_on_error():
        root = root.resolve()
        use_one_gpu()
        setting = setting_of(root, home, data, models, None)
        serve(setting, (root / reports).resolve(), spec, adapter and adapter.resolve(), host, port)
