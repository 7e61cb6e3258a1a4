"""Progress messages of an experiment during a pytest run, written past pytest's capture."""

from __future__ import annotations

import contextlib
import os
import sys
import time
from collections.abc import Iterator, Mapping
from functools import cached_property
from typing import Any

import pytest

from prism.progress import Advance, bar
from prism.redaction import redacted
from prism.untrusted import terminal_safe


class Screen:
    """`prism.progress.Progress` for a pytest run: a bar on a terminal, a line a minute elsewhere; also a file for tqdm."""

    def __init__(self, config: pytest.Config) -> None:
        self.config = config
        self.draws = not hasattr(config, "workerinput")
        self._bar: Any = None  # the one that is drawn
        self._expected: dict[str, float] = {}  # seconds of each spec of the run that did not begin
        self._until = 0.0  # when the spec at hand is expected to end

    def expect(self, minutes: Mapping[str, float]) -> None:
        """The duration of each spec of this run if nothing is cached; without all of them no end is foretold."""
        self._expected = {spec: 60 * each for spec, each in minutes.items()} if all(minutes.values()) else {}

    def begin(self, spec: str) -> None:
        """The next stages are those of this spec."""
        self._until = time.monotonic() + self._expected.pop(spec, 0.0)

    def _left(self) -> str:
        """How long the whole run takes at most, by what its specs are known to take."""
        rest = self._until - time.monotonic()
        return f"run {(rest + sum(self._expected.values())) / 60:.0f} min" if rest > 30 else ""

    def say(self, sentence: str) -> None:
        if self._bar is not None:
            self._bar.clear()
        self.start_line()
        self.write(f"prism: {terminal_safe(sentence)}\n")
        if self._bar is not None:
            self._bar.refresh()

    @contextlib.contextmanager
    def progress(self, what: str, total: int = 0) -> Iterator[Advance]:
        start = time.perf_counter()
        around, latest = self._bar, ""
        if around is not None:  # a model is loaded when it is first asked
            around.clear()
        self.start_line()
        with bar(what, total, self, self._terminal is not None) as shown:

            def advance(steps: int, live: str = "", /) -> None:
                nonlocal latest
                latest = live or latest
                shown.set_postfix_str(", ".join(filter(None, (latest, self._left()))), refresh=False)
                shown.update(steps)

            self._bar = shown if self._terminal is not None else None
            try:
                yield advance
            finally:
                self._bar = around
        self.write(f"prism: {terminal_safe(what)}: {time.perf_counter() - start:.1f} s\n")
        if around is not None:
            around.refresh()

    def write(self, text: str) -> None:
        with self._uncaptured():
            if sys.__stderr__ is not None:
                sys.__stderr__.write(redacted(text))
                sys.__stderr__.flush()

    def flush(self) -> None:
        pass

    @property
    def encoding(self) -> str:
        return sys.__stderr__.encoding if sys.__stderr__ is not None else "utf-8"

    def fileno(self) -> int:
        """The terminal's, which gives its width."""
        if self._terminal is None:
            raise OSError("no terminal")
        return self._terminal

    @cached_property
    def _terminal(self) -> int | None:
        """The terminal that bars are drawn on; None if there is none. While pytest captures, 2 is a file of its own."""
        with self._uncaptured():
            drawn = self.draws and sys.__stderr__ is not None and sys.__stderr__.isatty()
            return os.dup(sys.__stderr__.fileno()) if drawn and sys.__stderr__ is not None else None

    def start_line(self) -> None:
        """Start a new line after pytest's dots."""
        if reporter := self.config.pluginmanager.getplugin("terminalreporter"):
            with self._uncaptured():
                reporter.ensure_newline()

    def _uncaptured(self) -> contextlib.AbstractContextManager[None]:
        capture = self.config.pluginmanager.getplugin("capturemanager")
        return capture.global_and_fixture_disabled() if capture else contextlib.nullcontext()
