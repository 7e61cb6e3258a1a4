"""Makes the pictures of docs/img from pages that PRISM made: reports, the portfolio, the demo.

    python docs/pictures.py page reports/latest/portfolio.html docs/img/portfolio.png --width 1200 --height 1500
    python docs/pictures.py demo phase5/nano docs/img/demo.png --example 2

It needs a Chromium of the system and playwright; the demo also the extra `demo`, and adapters in the store.
"""

from __future__ import annotations

import argparse
import io
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

COLOURS = 128  # of a picture's palette: text and badges need no more, and files stay below 100 kB
PATIENCE = 120  # seconds until the demo has loaded its model, and until it has answered


@contextmanager
def _page(width: int, height: int, dark: bool, scale: float) -> Iterator[Any]:
    from playwright.sync_api import sync_playwright

    with sync_playwright() as play:
        browser = play.chromium.launch(executable_path=shutil.which("chromium"), args=["--no-sandbox", "--disable-gpu"])
        yield browser.new_page(
            viewport={"width": width, "height": height},
            color_scheme="dark" if dark else "light",
            device_scale_factor=scale,
        )
        browser.close()


def _save(shot: bytes, out: Path) -> None:
    from PIL import Image

    Image.open(io.BytesIO(shot)).convert("RGB").quantize(COLOURS).save(out, optimize=True)


def page(options: argparse.Namespace) -> None:
    """The top of a page, as high as `--height` says."""
    with _page(options.width, options.height, options.dark, options.scale) as shown:
        shown.goto(options.page.resolve().as_uri())
        _save(shown.screenshot(), options.out)


def demo(options: argparse.Namespace) -> None:
    """The demo after one example of the evaluation set was asked; `rest` are options of `prism demo`."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    command = [sys.executable, "-m", "prism", "demo", "--spec", options.spec, "--port", str(port), *options.rest]
    served = subprocess.Popen(command)
    try:
        _wait_for(port)
        with _page(options.width, options.height, options.dark, options.scale) as shown:
            shown.goto(f"http://127.0.0.1:{port}/")
            shown.locator("#examples tbody tr").nth(options.example).locator("td").first.click()
            shown.wait_for_timeout(1_000)
            for _ in range(2):  # the first answer waits for the adapter
                shown.locator("#ask").click()
                shown.wait_for_timeout(500)
                shown.wait_for_function(
                    "[...document.querySelectorAll('.spent')].every(one => /s\\s*$/.test(one.innerText))",
                    timeout=PATIENCE * 1_000,
                )
            shown.evaluate("window.scrollTo(0, 0)")
            shown.mouse.move(0, 0)
            shown.wait_for_timeout(3_000)  # Gradio greys what may still change
            _save(shown.screenshot(), options.out)
    finally:
        served.terminate()
        served.wait()


def _wait_for(port: int) -> None:
    for _ in range(PATIENCE):
        try:
            socket.create_connection(("127.0.0.1", port), timeout=1).close()
            return
        except OSError:
            time.sleep(1)
    sys.exit(f"prism demo did not answer on port {port} within {PATIENCE} s")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    kinds = parser.add_subparsers(required=True)
    for make in (page, demo):
        kind = kinds.add_parser(make.__name__, help=make.__doc__)
        kind.set_defaults(make=make)
        kind.add_argument("page" if make is page else "spec", type=Path if make is page else str)
        kind.add_argument("out", type=Path)
        kind.add_argument("--width", type=int, default=1400)
        kind.add_argument("--height", type=int, default=1000)
        kind.add_argument("--scale", type=float, default=1.0)
        kind.add_argument("--dark", action="store_true")
    kind.add_argument("--example", type=int, default=0, help="which example of the list, from 0")
    options, options.rest = parser.parse_known_args()
    options.make(options)


if __name__ == "__main__":
    main()
