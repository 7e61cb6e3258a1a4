"""Progress messages and bars: one interface for pytest's terminal, for commands and, later, for a web page."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import Any, Protocol

from prism.redaction import redacted
from prism.untrusted import terminal_safe

EVERY = 60.0  # seconds from line to line where no bar can be drawn
BAR = "{desc} |{bar}| {n_fmt}/{total_fmt}, {remaining} left{postfix}"
LINE = "prism: {desc}: {n_fmt} of {total_fmt}, {remaining} left{postfix}"
NUMBERS = 52  # columns that a bar's name leaves to counts, the time left and what is live


class Advance(Protocol):
    """Takes the number of steps just done, and what is live beside them, such as the loss."""

    def __call__(self, steps: int, live: str = "", /) -> None: ...


class Progress(Protocol):
    """Where an experiment reports its progress."""

    def say(self, sentence: str) -> None: ...

    def progress(self, what: str, total: int = 0) -> AbstractContextManager[Advance]:
        """A stage of `total` steps. The context manager yields a function that takes the number of steps just done."""
        ...


class Console:
    """`Progress` on standard error, for commands: a bar on a terminal, else a line a minute and one a stage."""

    def say(self, sentence: str) -> None:
        print(redacted(f"prism: {terminal_safe(sentence)}"), file=sys.stderr, flush=True)

    @contextmanager
    def progress(self, what: str, total: int = 0) -> Iterator[Advance]:
        start = time.perf_counter()
        with bar(what, total, sys.stderr, sys.stderr.isatty()) as shown:
            yield _advancing(shown)
        self.say(f"{what}: {time.perf_counter() - start:.1f} s")


CONSOLE = Console()  # where nobody passes another


def bar(what: str, total: int, file: Any, draws: bool) -> Any:
    """tqdm's bar of a stage, with the time left, if `draws`; else a line a minute. Without steps it is the name alone.

    `file` writes text to a terminal, whose width its file descriptor gives.
    """
    from tqdm import tqdm

    what = redacted(terminal_safe(what))
    if not draws:
        often = {"delay": EVERY, "mininterval": EVERY, "maxinterval": EVERY, "miniters": 1, "leave": False}
        return tqdm(total=total, desc=what, file=_Lines(file), bar_format=LINE, disable=not total, **often)
    room = max(20, _columns(file) - NUMBERS)
    name = what if len(what) <= room or not total else f"{what[: room - 1]}…"  # what moves is not cut off
    often = {"mininterval": 0.3, "miniters": 1, "leave": False, "dynamic_ncols": True, "position": 0}
    return tqdm(total=total or None, desc=name, file=file, bar_format=BAR if total else "{desc} …", **often)


def _advancing(shown: Any) -> Advance:
    """What moves a bar, which shows the latest of what is live."""

    def advance(steps: int, live: str = "", /) -> None:
        if live:
            shown.set_postfix_str(live, refresh=False)
        shown.update(steps)

    return advance


def _columns(file: Any) -> int:
    try:
        return os.get_terminal_size(file.fileno()).columns
    except OSError:
        return 80


class _Lines:
    """A file for tqdm that is no terminal: what would redraw a bar is a line."""

    def __init__(self, file: Any) -> None:
        self.file = file

    def write(self, text: str) -> None:
        if line := text.strip():
            self.file.write(f"{redacted(line)}\n")

    def flush(self) -> None:
        self.file.flush()
