"""Progress messages of an experiment during a pytest run, written past pytest's capture."""

from __future__ import annotations

import contextlib
import sys
import time
from collections.abc import Callable, Iterator

import pytest

from prism.redaction import redacted
from prism.untrusted import terminal_safe


class Screen:
    """`prism.progress.Progress` for a pytest run: a bar on a terminal, one line elsewhere; also a file for tqdm."""

    def __init__(self, config: pytest.Config) -> None:
        self.config = config
        self.draws = not hasattr(config, "workerinput")

    def say(self, sentence: str) -> None:
        self.start_line()
        self.write(f"prism: {terminal_safe(sentence)}\n")

    @contextlib.contextmanager
    def progress(self, what: str, total: int = 0) -> Iterator[Callable[[int], None]]:
        from tqdm import tqdm

        what = terminal_safe(what)
        bar = total and sys.__stderr__ is not None and sys.__stderr__.isatty() and self.draws
        start = time.perf_counter()
        self.start_line()
        if bar:
            with tqdm(total=total, desc=what, file=self, leave=False, mininterval=0.3, dynamic_ncols=True) as shown:
                yield shown.update
        else:
            yield lambda _: None
        self.write(f"prism: {what}: {time.perf_counter() - start:.1f} s\n")

    def write(self, text: str) -> None:
        with self._uncaptured():
            if sys.__stderr__ is not None:
                sys.__stderr__.write(redacted(text))
                sys.__stderr__.flush()

    def flush(self) -> None:
        pass

    def start_line(self) -> None:
        """Start a new line after pytest's dots."""
        if reporter := self.config.pluginmanager.getplugin("terminalreporter"):
            with self._uncaptured():
                reporter.ensure_newline()

    def _uncaptured(self) -> contextlib.AbstractContextManager[None]:
        capture = self.config.pluginmanager.getplugin("capturemanager")
        return capture.global_and_fixture_disabled() if capture else contextlib.nullcontext()
