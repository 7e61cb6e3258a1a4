"""Writes answers to their file: the text of one batch is decoded while the model answers the next."""

from __future__ import annotations

import json
from bisect import bisect_left
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import asdict
from typing import Any, Self, TextIO

from prism.rows import Example, Prediction


class Writer:
    """Writes answers as lines of `file`, one batch behind if `behind`; of an error in its thread the next call is told.

    An answer ends before the first of the tokens `ends` or of the strings `stops`. `opened` is what the prompt opened of it.
    `observe` gets each example with the token ids of its answer, an end token included, `advance` how many are written.
    """

    def __init__(
        self,
        file: TextIO,
        tokenizer: Any,
        ends: Sequence[int],
        stops: Sequence[str],
        opened: str,
        observe: Callable[[Example, list[int]], object],
        advance: Callable[[int], None],
        behind: bool,
    ) -> None:
        self.file, self.tokenizer, self.ends, self.stops, self.opened = file, tokenizer, ends, stops, opened
        self.observe, self.advance, self.behind = observe, advance, behind
        self.tokens = 0  # of the answers that are written
        self._pool = ThreadPoolExecutor(1)
        self._begun: tuple[int, Future[int]] | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: object, *_: object) -> None:
        try:
            if kind is None:
                self._finish()
        finally:
            self._pool.shutdown()  # after what is begun: no line is left half-written

    def add(self, examples: Sequence[Example], produced: Sequence[list[int]]) -> None:
        """Write the answers to `examples`, of which `produced` are the token ids, after those that were added before."""
        self._finish()
        self._begun = len(examples), self._pool.submit(self._write, examples, produced)
        if not self.behind:
            self._finish()

    def _finish(self) -> None:
        if self._begun:
            (count, written), self._begun = self._begun, None
            self.tokens += written.result()
            self.advance(count)

    def _write(self, examples: Sequence[Example], produced: Sequence[list[int]]) -> int:
        tokens = 0
        for example, ids in zip(examples, produced, strict=True):
            length = next((n for n, token in enumerate(ids) if token in self.ends), None)
            answer_ids, whole = (ids, ids) if length is None else (ids[:length], ids[: length + 1])
            text = self.tokenizer.decode(answer_ids, skip_special_tokens=True)
            if (found := find_stop(self.tokenizer, answer_ids, self.stops)) is not None:
                length, text = found
                answer_ids = whole = answer_ids[:length]
            self.observe(example, whole)
            tokens += len(answer_ids)
            finish = "length" if length is None else "stop"
            text = self.opened + text  # so that a reader knows where the thought begins
            line = asdict(Prediction(example.id, text, len(answer_ids), finish))
            self.file.write(json.dumps(line, ensure_ascii=False) + "\n")
        self.file.flush()
        return tokens


def find_stop(tokenizer: Any, ids: Sequence[int], stops: Sequence[str]) -> tuple[int, str] | None:
    """The number of tokens up to the end of the first of `stops`, and the text before it; None if there is none.

    Both engines may generate tokens after it, which are cut off.
    """

    def decoded(length: int) -> str:
        return str(tokenizer.decode(ids[:length], skip_special_tokens=True))

    def contains_stop(length: int) -> bool:
        return any(stop in decoded(length) for stop in stops)

    if not contains_stop(len(ids)):
        return None
    length = bisect_left(range(len(ids)), True, key=contains_stop)
    text = decoded(length)
    return length, text[: min(text.index(stop) for stop in stops if stop in text)]
