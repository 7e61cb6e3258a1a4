"""`prism demo`: a web page where anyone asks the base and an adapter the same question, side by side.

Everything stays on this machine: Gradio's analytics are off, the page loads nothing from elsewhere, and its policy tells
the browser so. A question is text wherever it is shown. Uploaded pictures are deleted once they are answered.
"""

from __future__ import annotations

import socket
from importlib.util import find_spec
from pathlib import Path
from tempfile import TemporaryDirectory

from prism.demo.stage import Stage, offers, take
from prism.errors import ResourceError
from prism.setting import Setting


def serve(setting: Setting, reports: Path, only: str | None, adapter: Path | None, host: str, port: int) -> None:
    """Serve the page until it is interrupted. Raises PrismError, before a model is loaded, for what would stop it.

    `only` is one spec's id, `adapter` a folder that answers its questions besides those of the store.
    """
    require_gradio()
    require_free(host, port)
    found = offers(setting, only, adapter)
    stage, first = Stage(found, setting, reports), next(iter(found.values()))
    with TemporaryDirectory() as folder:
        if adapter is not None:
            first.adapters = {**first.adapters, adapter.name: take(stage, first, adapter, Path(folder))}
        stage.voices(first)  # so that the first question does not wait for it
        from prism.demo.page import launch

        launch(stage, host, port)


def require_gradio() -> None:
    """Raise ResourceError without the extra `demo`."""
    if find_spec("gradio") is None:
        raise ResourceError("prism demo needs Gradio; install it with pip install 'pytest-prism[demo]'")


def require_free(host: str, port: int) -> None:
    """Raise ResourceError if nothing can listen there."""
    try:
        with socket.create_server((host, port)):
            return
    except (OSError, OverflowError) as error:
        why = getattr(error, "strerror", None) or error
        raise ResourceError(f"--host {host} --port {port}: cannot be listened on ({why}); choose another") from None
