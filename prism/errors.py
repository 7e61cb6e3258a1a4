"""What a person did wrong, or the machine lacks, in one sentence: the value, the place, the remedy.

Everything raised on purpose is a `PrismError`; the plugin and the command line print its text without a traceback.
Any other exception is a bug of PRISM and keeps its traceback.
"""


class PrismError(Exception):
    """Base of the errors that are shown as one sentence."""


class SpecError(PrismError):
    """A spec file says something that cannot be run."""


class DataError(PrismError):
    """Rows are missing, empty or not what the task reads."""


class ModelError(PrismError):
    """A model or adapter cannot be loaded, or must not be."""


class StoreError(PrismError):
    """An artifact cannot be written, or was damaged and cannot be made again."""


class ResourceError(PrismError):
    """The machine lacks the device, memory or disk that the spec needs."""


class MetricError(PrismError):
    """A metric returned something that is not a score."""


class ScoresError(PrismError):
    """Scores, of a run or accepted ones, cannot be read, compared or replaced."""
