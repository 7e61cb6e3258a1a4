"""Controls of questions about pictures: the same adapter, asked with another picture, a blank one, or none.

A score that survives these was not looking.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace

from prism.rows import Example
from prism.rows.images import blank

Control = Callable[[Example, Sequence[Example]], Example]


def controls(kind: Callable[[Example], str]) -> Mapping[str, Control]:
    """The four controls by name; `kind` says what makes two pictures alike (an organ, a type of chart)."""

    def same_kind(asked: Example, examples: Sequence[Example]) -> Example:
        """Another picture of the same kind, or any other if there is none."""
        others = _others(asked, examples)
        alike = [other for other in others if kind(other) == kind(asked)]
        return replace(asked, images=(alike or others)[0].images)

    def other_kind(asked: Example, examples: Sequence[Example]) -> Example:
        """Another picture of another kind, or any other if there is none."""
        others = _others(asked, examples)
        unlike = [other for other in others if kind(other) != kind(asked)]
        return replace(asked, images=(unlike or others)[0].images)

    return {
        "same_kind_picture": same_kind,
        "other_picture": other_kind,
        "blank_picture": _blank,
        "without_picture": _without,
    }


def _others(asked: Example, examples: Sequence[Example]) -> list[Example]:
    """The examples of other groups, from a place that the id fixes; the example itself if there is one group only."""
    start = int(hashlib.sha256(asked.id.encode()).hexdigest(), 16) % len(examples)
    return [other for other in (*examples[start:], *examples[:start]) if other.group != asked.group] or [asked]


def _blank(asked: Example, examples: Sequence[Example]) -> Example:
    return replace(asked, images=tuple(map(blank, asked.images)))


def _without(asked: Example, examples: Sequence[Example]) -> Example:
    return replace(asked, images=())
