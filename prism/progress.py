"""How PRISM says what it does: one interface for pytest's terminal, a command's and, later, a page's."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import Protocol


class Progress(Protocol):
    """How an experiment says what it does."""

    def say(self, sentence: str) -> None: ...

    def progress(self, what: str, total: int = 0) -> AbstractContextManager[Callable[[int], None]]:
        """A stage of work of `total` steps; the context is what to call with the number of steps just done."""
        ...


class Console:
    """`Progress` on standard error, for commands: a bar on a terminal, one line elsewhere."""

    def say(self, sentence: str) -> None:
        print(f"prism: {sentence}", file=sys.stderr, flush=True)

    @contextmanager
    def progress(self, what: str, total: int = 0) -> Iterator[Callable[[int], None]]:
        from tqdm import tqdm

        began = time.perf_counter()
        with tqdm(total=total, desc=what, disable=None if total else True, leave=False, dynamic_ncols=True) as bar:
            yield bar.update
        self.say(f"{what}: {time.perf_counter() - began:.1f} s")
