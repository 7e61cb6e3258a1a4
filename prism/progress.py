"""Progress messages and bars: one interface for pytest's terminal, for commands and, later, for a web page."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import Protocol

from prism.redaction import redacted
from prism.untrusted import terminal_safe


class Progress(Protocol):
    """Where an experiment reports its progress."""

    def say(self, sentence: str) -> None: ...

    def progress(self, what: str, total: int = 0) -> AbstractContextManager[Callable[[int], None]]:
        """A stage of `total` steps. The context manager yields a function that takes the number of steps just done."""
        ...


class Console:
    """`Progress` on standard error, for commands: a bar on a terminal, else one line a stage."""

    def say(self, sentence: str) -> None:
        print(redacted(f"prism: {terminal_safe(sentence)}"), file=sys.stderr, flush=True)

    @contextmanager
    def progress(self, what: str, total: int = 0) -> Iterator[Callable[[int], None]]:
        from tqdm import tqdm

        start = time.perf_counter()
        with tqdm(
            total=total, desc=terminal_safe(what), disable=None if total else True, leave=False, dynamic_ncols=True
        ) as bar:
            yield bar.update
        self.say(f"{what}: {time.perf_counter() - start:.1f} s")


CONSOLE = Console()  # where nobody passes another
