"""Rows, and what is made of them: an `Example` that a model is asked, a `Prediction` that it answers.

A row is a plain dict, as it was read from a file.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

Row = dict[str, Any]


@dataclass(frozen=True)
class Example:
    """One question as it is asked. `group` names what makes samples dependent; by default the sample itself.

    `facts` is what else the row says (type, scale, context …), for metrics, judges and controls: no model sees it.
    """

    id: str
    messages: tuple[Mapping[str, str], ...]
    reference: str
    group: str
    images: tuple[Path, ...] = ()
    facts: Mapping[str, Any] = field(default_factory=dict)

    @property
    def question(self) -> str:
        """The last thing the user says: what changes from one example to the next."""
        return self.messages[-1]["content"]


@dataclass(frozen=True)
class Prediction:
    """What a model answered to the example of the same id; `finish` is "stop", or "length" where it was cut off."""

    id: str
    answer: str
    tokens: int
    finish: str
