"""Phase 1: is this financial text bullish, bearish or neutral about its subject?

Rows: `TimKoornstra/financial-tweets-sentiment` (MIT), columns `tweet` and `sentiment` (0 neutral, 1 bullish, 2 bearish),
or any file with these columns. Links and user names are replaced, as in FinTwitBERT, the model of this data set: they
carry no sentiment, and a language model memorizes them.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

from prism.errors import DataError
from prism.judge import SENTIMENT_CORRECTNESS
from prism.metrics import classification
from prism.metrics.labels import read_label
from prism.rows import Example, Row

VERSION = 2
COLUMNS = ("tweet", "sentiment")
LABELS = ("neutral", "bullish", "bearish")  # in the order of the numbers in the published set
PROMPT = "Is this tweet neutral, bullish or bearish?\n{tweet}"

_LINK = re.compile(r"https?://\S+")
_USER = re.compile(r"@\w+")
_NUMBER = re.compile(r"[012](\.0+)?")


def example(row: Row, id: str) -> Example:
    tweet = _USER.sub("@USER", _LINK.sub("[URL]", str(row["tweet"])))
    content = PROMPT.format(tweet=" ".join(tweet.split()))
    return Example(id, ({"role": "user", "content": content},), label(row["sentiment"]), group=id)


def label(value: object) -> str:
    """The label of a row: a number of the published set (1.0 in a column with gaps), or the word itself."""
    text = str(value).strip().lower()
    if _NUMBER.fullmatch(text):  # "²" is a digit to Python, and no number
        return LABELS[int(text[0])]
    if text in LABELS:
        return text
    raise DataError(f"sentiment {value!r}: not one of 0, 1, 2 or {', '.join(LABELS)}; fix the row or map the column")


def parse(answer: str) -> str | None:
    return read_label(answer, LABELS)


METRICS = classification.metrics(LABELS, parse)
JUDGED = (SENTIMENT_CORRECTNESS,)


def details(examples: Sequence[Example], answers: Sequence[str]) -> dict:
    return classification.details(LABELS, parse, examples, answers)
