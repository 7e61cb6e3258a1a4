"""Exceptions for user mistakes and missing resources. Each message is one sentence: the value, the place, the remedy.

PRISM raises only subclasses of `PrismError` on purpose; the plugin and the command line print them without a traceback.
Any other exception is a bug of PRISM and keeps its traceback.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from prism.redaction import redacted
from prism.untrusted import terminal_safe

if TYPE_CHECKING:
    from pydantic import ValidationError

LONGEST = 2_000  # characters of a sentence


class PrismError(Exception):
    """Base class of all errors that PRISM raises on purpose.

    Its text is one line of at most 2,000 characters without known secrets, safe to print: the values in it may be a
    stranger's.
    """

    def __init__(self, *args: Any) -> None:
        super().__init__(*(_one_line(each) if isinstance(each, str) else each for each in args))


def _one_line(text: str) -> str:
    text = redacted(text)
    if len(text) > LONGEST:  # the place stands first and the remedy last
        text = f"{text[: LONGEST // 2]}…{text[1 - LONGEST // 2 :]}"
    return terminal_safe(text).replace("\n", " ")


def first_line(error: BaseException) -> str:
    """What a library's exception says, in one line; its type if it says nothing."""
    return (str(error).splitlines() or [type(error).__name__])[0]


def first_problem(error: ValidationError, *outer: str) -> str:
    """The first of what pydantic found wrong, with its place, below `outer`: `provenance.commit: Input should …`."""
    problem = error.errors(include_input=False)[0]
    return f"{'.'.join(map(str, (*outer, *problem['loc'])))}: {problem['msg']}"


class SpecError(PrismError):
    """A spec file is invalid or cannot be run."""


class DataError(PrismError):
    """Rows are missing, empty or not in the format of the task."""


class ModelError(PrismError):
    """A model or adapter cannot be loaded, or is unsafe or unfit to use."""


class StoreError(PrismError):
    """An artifact cannot be written, or is damaged."""


class ResourceError(PrismError):
    """The machine lacks the device, memory or disk that the spec needs."""


class ClusterError(PrismError):
    """A cluster cannot be reached or used, or a task of it failed."""


class MetricError(PrismError):
    """A metric returned something that is not a score."""


class ScoresError(PrismError):
    """The scores of a run, or the accepted scores, cannot be read, compared or replaced."""
