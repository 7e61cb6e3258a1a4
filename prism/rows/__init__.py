"""The data types: a `Row` of a data set, the `Example` made from it, and the `Prediction` of a model.

A row is a plain dict, as read from a file.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

Row = dict[str, Any]


@dataclass(frozen=True)
class Example:
    """One question as the model gets it. Samples of the same `group` are dependent; by default each is its own group.

    `facts` are other columns (type, scale, context …) for metrics, judges and controls; the model does not see them.
    """

    id: str
    messages: tuple[Mapping[str, str], ...]
    reference: str
    group: str
    images: tuple[Path, ...] = ()
    facts: Mapping[str, Any] = field(default_factory=dict)

    @property
    def question(self) -> str:
        """The last user message, which differs between examples."""
        return self.messages[-1]["content"]


@dataclass(frozen=True)
class Prediction:
    """A model's answer to the example of the same id; `finish` is "stop", or "length" if the answer was cut off."""

    id: str
    answer: str
    tokens: int
    finish: str
