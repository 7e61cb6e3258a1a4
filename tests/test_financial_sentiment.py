"""Phase 1's task: how a tweet is asked, how an answer is read."""

import pytest

from prism.errors import DataError
from prism.tasks import financial_sentiment as task

ANSWERS = {
    "bullish": "bullish",
    "Bullish.": "bullish",
    "bullish\nThe company": "bullish",
    " **Bearish**": "bearish",
    '"neutral"': "neutral",
    "Sentiment: bearish": "bearish",
    "The sentiment is bullish.": "bullish",
    "bullish, since profit rose": "bullish",
    "": None,
    "positive": None,
    "bullish or bearish": None,
    "It is bullish and bearish": None,
    "not bullish": None,
    "It isn't bearish": None,
    "neither": None,
    "bullishness": None,
}


@pytest.mark.parametrize(("answer", "label"), ANSWERS.items(), ids=repr)
def test_parse(answer, label):
    assert task.parse(answer) == label


def test_links_and_users_say_nothing():
    row = {"tweet": "@trader $ACME  to the moon\nhttps://t.co/a1B2?x=3", "sentiment": 1}
    asked = task.example(row, "id").messages[-1]["content"]
    assert asked.endswith("\n@USER $ACME to the moon [URL]")


@pytest.mark.parametrize(("value", "label"), [(0, "neutral"), ("1", "bullish"), ("Bearish", "bearish")])
def test_label(value, label):
    assert task.label(value) == label


@pytest.mark.parametrize("value", [3, -1, "positive", "", None, 1.5, True, "²", "١"])
def test_label_outside_the_three(value):
    with pytest.raises(DataError, match="not one of 0, 1, 2"):
        task.label(value)
