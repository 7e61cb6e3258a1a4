"""Controls of questions about pictures: the same adapter, asked with another picture, a blank one, or none.

A score that survives these was not looking.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace

from prism.rows import Example
from prism.rows.images import blank

Control = Callable[[Example, Sequence[Example]], Example]


def controls(kind: Callable[[Example], str]) -> Mapping[str, Control]:
    """The four controls by name; `kind` says what makes two pictures alike (an organ, a type of chart)."""

    def same_kind(asked: Example, examples: Sequence[Example]) -> Example:
        """Another picture of the same kind, or any other if there is none."""
        return _with_picture(asked, examples, lambda other: kind(other) == kind(asked))

    def other_kind(asked: Example, examples: Sequence[Example]) -> Example:
        """Another picture of another kind, or any other if there is none."""
        return _with_picture(asked, examples, lambda other: kind(other) != kind(asked))

    return {
        "same_kind_picture": same_kind,
        "other_picture": other_kind,
        "blank_picture": _blank,
        "without_picture": _without,
    }


def _with_picture(asked: Example, examples: Sequence[Example], wanted: Callable[[Example], bool]) -> Example:
    """With the picture of the first wanted example, or of the first other one if none is; its own if there is no other."""
    found = next(filter(wanted, _others(asked, examples)), None) or next(_others(asked, examples), asked)
    return replace(asked, images=found.images)


def _others(asked: Example, examples: Sequence[Example]) -> Iterator[Example]:
    """The examples of other groups, from a place that the id fixes."""
    start = int(hashlib.sha256(asked.id.encode()).hexdigest(), 16) % len(examples)
    for place in range(start, start + len(examples)):
        if (other := examples[place % len(examples)]).group != asked.group:
            yield other


def _blank(asked: Example, examples: Sequence[Example]) -> Example:
    return replace(asked, images=tuple(map(blank, asked.images)))


def _without(asked: Example, examples: Sequence[Example]) -> Example:
    return replace(asked, images=())
