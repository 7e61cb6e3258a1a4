"""Which training rows fit the window, [model].max_seq_length: known from the tokenizer, before anything is measured.

TRL cuts longer rows at the window without a word, and leaves those out of which no token of the answer remains. Here they
are counted and named first, and reports count the rows that were trained on. This module imports no model library.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from prism.errors import DataError
from prism.rows import Example
from prism.rows.remembered import Training
from prism.store import read_manifest

if TYPE_CHECKING:
    from prism.models.load import Base

NAMED = 3  # ids in a sentence
OPENING = 64  # tokens that a template may write before an answer, and leaves out where the answer is there


@dataclass(frozen=True)
class Fitting:
    """The training rows by whether their answer fits. `cut` ones are trained on what is left of the answer."""

    kept: list[Example]
    left_out: list[str]  # ids of rows that have no token of the answer in the window
    cut: list[str]  # ids
    askable: list[Example]  # kept rows whose question leaves room for an answer
    window: int  # tokens

    @property
    def notes(self) -> dict[str, Any]:
        """For the adapter's manifest; empty if every answer fits."""
        told = {"window": self.window, "left_out": self.left_out, "cut": self.cut}
        return told if self.left_out or self.cut else {}

    @property
    def sentence(self) -> str:
        """What does not fit, for the screen; empty if every answer fits."""
        rows = len(self.kept) + len(self.left_out)
        parts = []
        if self.left_out:
            parts.append(f"{len(self.left_out)} of {rows} training rows are left out, as no token of their answer fits")
        if self.cut:
            parts.append(f"{len(self.cut)} of {rows} training rows lose the end of their answer")
        named = ", ".join((*self.left_out, *self.cut)[:NAMED])
        return f"{' and '.join(parts)} [model].max_seq_length = {self.window} (first {named})" if parts else ""


def fitting(base: Base, training: Sequence[Example], held_out: Sequence[Example]) -> Fitting:
    """The training rows by whether their answer fits the window.

    Raises DataError if no row has an answer in the window, or if a row's text contains a special token. Images do not bear
    a cut, so there every row must fit.
    """
    from prism.models import vision

    spec = base.spec
    if base.processor:
        vision.check(base, [*training, *held_out])
        return Fitting(list(training), [], [], list(training or held_out), spec.model.max_seq_length)
    vision.require_plain(base, [*training, *held_out])
    if not training:  # of a finished adapter
        return Fitting([], [], [], list(held_out), spec.model.max_seq_length)
    sft, asked = spec.sft, spec.model.max_seq_length - spec.generate.get("max_new_tokens", 0)
    window = sft.get("max_length", spec.model.max_seq_length)
    whole = lengths(base, training, answered=True)
    # The other ways of packing split long rows, and nothing is lost.
    splits = sft.get("packing") and sft.get("packing_strategy", "bfd") != "bfd"
    limit = None if spec.adapter or splits else window
    # A question is shorter than with its answer, but for what its last turn opens: few have to be tokenized again.
    least = min(asked, asked if limit is None else limit - 1) - OPENING
    long = [n for n, length in enumerate(whole) if length > least]
    questions = list(whole)
    for n, length in zip(long, lengths(base, [training[n] for n in long], answered=False)):
        questions[n] = length
    left_out: list[str] = []
    cut: list[str] = []
    for example, length, question in zip(training, whole, questions):
        if limit is None or length <= limit or sft.get("truncation_mode") == "keep_end":
            continue
        no_target = question >= limit and sft.get("completion_only_loss", True)
        (left_out if no_target else cut).append(example.id)
    dropped = set(left_out)
    if len(dropped) == len(training):
        raise DataError(
            f"{spec.id}: none of {len(training)} training rows has a token of its answer within [model].max_seq_length = "
            f"{window} (the shortest question has {min(questions)} tokens); raise it, or shorten the rows"
        )
    askable = [example for example, question in zip(training, questions) if question <= asked]
    kept = [example for example in training if example.id not in dropped]
    return Fitting(kept, left_out, cut, askable or list(held_out), window or spec.model.max_seq_length)


def lengths(base: Base, examples: Sequence[Example], *, answered: bool) -> list[int]:
    """Tokens of each question in the chat template, with its answer or ready for it."""
    return list(map(len, ids(base, examples, answered=answered)))


def ids(base: Base, examples: Sequence[Example], *, answered: bool) -> list[list[int]]:
    """The tokens themselves."""
    from prism.models.chat import conversations_ids

    texts = [
        [*base.chat.messages(e), *([{"role": "assistant", "content": e.reference}] if answered else [])]
        for e in examples
    ]
    return conversations_ids(base.tokenizer, texts, answered=answered)


def trained(adapters: Mapping[int, Path], training: Training) -> Training:
    """The training rows without those that were left out, by the adapters' manifests."""
    left_out: set[str] = set()
    for folder in adapters.values():
        left_out.update(read_manifest(folder)["notes"].get("left_out", ()))
    return training.without(left_out)
