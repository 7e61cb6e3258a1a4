"""Which label an answer states, for any closed set of labels. No model."""

import time

import pytest

from prism.metrics.labels import read_label

TONES = ("neutral", "bullish", "bearish")

STATED = {
    "a word": ["bullish", "Bullish!", "**bullish**", "`BULLISH`", "ｂｕｌｌｉｓｈ", "bull\u200bish", '"bullish".', "#bullish 🚀"],
    "a sentence": ["The tone is bullish.", "I'd lean bullish", "a bullish post", "I would call it bullish on $ACME."],
    "a reason": ["bullish, since it isn't falling", "Bullish because bearish bets failed", "bullish (no bearish signs)"],
    "a cue": ["Answer: bullish", "Reason: not bearish.\nLabel: bullish", "The final answer is bullish", "label=bullish"],
    "JSON": ['{"label": "bullish"}', "{'tone': 'bullish'}", '{"label": "bullish", "others": ["bearish"]}'],
    "cut JSON": ['{"reason": "not bearish", "label": "bullish", "sco'],
    "shares": ["70% bullish, 30% bearish", "bearish: 0.1\nbullish: 0.9", "bullish (60%), bearish (40%)", "P(bullish)=.8, P(bearish)=.2"],
    "JSON shares": ['{"bearish": 0.2, "bullish": 0.7}', '[{"label": "bearish", "score": 0.1}, {"label": "bullish", "score": 0.9}]'],
    "yes and no": ["Bearish? No. Bullish? Yes.", '{"bearish": false, "bullish": true}', "bearish? no, bullish", "Is it bullish? Yes."],
    "the other is denied": ["not bearish but bullish", "It isn't bearish, it's bullish.", "more bullish than bearish", "bullish rather than bearish", "not bearish; bullish", "Bearish would be wrong: bullish"],
    "denied twice": ["It is not wrong to call it bullish", "I don't doubt that it is bullish", "no doubt bullish", "nothing but bullish"],
    "options first": ["Options: bearish, bullish, neutral. Answer: bullish", "Neutral, bullish or bearish?\nbullish", "neutral / bearish / bullish -> bullish", "You ask whether it is bullish or bearish. It is bullish."],
    "unsure, then decided": ["It is hard to say, but I'd go with bullish", "I can't be sure, so bullish", "Not enough context. Bullish."],
    "conclusion": ["Bearish signs and bullish signs. Overall, bullish.", "A bearish gap, yet sales rose. So it is bullish.", "While it may seem bearish, it is bullish."],
    "thought": ["<think>bearish or neutral?</think>\nbullish", "it seems bearish</think>bullish"],
}  # fmt: skip

NOT_STATED = {
    "nothing": ["", " \n", "positive", "bullishness", "unbullish", "bull"],
    "denied": ["not bullish", "isn’t bullish", "isnt bullish", "non-bullish", "by no means bullish", "far from bullish", "hardly bullish", "It would be wrong to call it bullish", "A bullish reading is unlikely.", "I doubt it is bullish", "Nobody would call this bullish", "the opposite of bullish", "No, it is not bullish.", "Bullish? No."],
    "all denied": ["neither bullish nor bearish", "not bullish and not bearish", "not bullish or bearish", "It can't be classified as bullish, bearish or neutral"],
    "unknown": ["I cannot say whether this is bullish or bearish", "Not sure, perhaps bullish", "It is too early to call it bullish", "Insufficient information to call it bullish", "It depends: bullish if sales rise"],
    "refused": ["I'm sorry, but I can't label this as bullish.", "I refuse to call this bullish", "As an AI I am unable to say if it is bullish"],
    "open": ["bullish or bearish", "bullish/neutral", "neutral to bullish", "bullish and bearish", "bullish, bearish", "- bullish\n- bearish", "bullish | bearish", "1. bullish\n2. bearish", "bullish (1), bearish (2)"],
    "asked": ["bullish?", "Is it bullish? Is it bearish?", "Neutral, bullish or bearish?"],
    "as likely": ["50% bullish, 50% bearish", "bullish on oil and bearish on gold", "Answer: bullish\nAnswer: bearish"],
    "cut off in its thought": ["<think>\nIt is bullish, since"],
}  # fmt: skip


@pytest.mark.parametrize("answer", [answer for answers in STATED.values() for answer in answers], ids=repr)
def test_a_stated_label_is_read(answer):
    assert read_label(answer, TONES) == "bullish"


@pytest.mark.parametrize("answer", [answer for answers in NOT_STATED.values() for answer in answers], ids=repr)
def test_what_states_no_label_has_none(answer):
    assert read_label(answer, TONES) is None


GRADES = ("positive", "very positive", "negative")
CODES, NAMED = ("0", "1", "2"), {"0": "neutral", "1": "bullish", "2": "bearish"}
SETS = [
    ("It is Very Positive.", GRADES, "very positive"),
    ("quite positive", GRADES, "positive"),
    ("not very positive", GRADES, None),
    ("positive or very positive", GRADES, None),
    ("risk on", ("risk_on", "risk_off"), "risk_on"),
    ("Risk\n- Off.", ("risk_on", "risk_off"), "risk_off"),
    ("I give it 2 stars", ("1 star", "2 stars"), "2 stars"),
    ("toxic", ("toxic", "non-toxic"), "toxic"),
    ("It is not toxic.", ("toxic", "non-toxic"), "non-toxic"),
    ("This is not relevant", ("relevant", "not relevant"), "not relevant"),
    ("No, there is none", ("yes", "no"), "no"),
    ("yes or no", ("yes", "no"), None),
    ("(B)", ("A", "B"), "B"),
    ("A dog barks", ("A", "B"), None),
    ("The answer is B because A is wrong", ("A", "B"), "B"),
    ("n/a", ("n/a", "sell"), "n/a"),
    ("-1", ("-1", "1"), "-1"),
    ("Label: 1.", ("-1", "1"), "1"),
    ('{"label": 1, "confidence": 1}', CODES, "1"),
    ('{"0": 0.1, "1": 0.9}', CODES, "1"),
    ("0, 1, 2", CODES, None),
    ("0.1", CODES, None),
    ("12", CODES, None),
    ("看涨。", ("看涨", "看跌"), "看涨"),
    ("这条推文看跌", ("看涨", "看跌"), "看跌"),
]


@pytest.mark.parametrize(("answer", "labels", "label"), SETS)
def test_any_set_of_labels(answer, labels, label):
    assert read_label(answer, labels) == label


@pytest.mark.parametrize(
    ("answer", "label"),
    [("bearish", "2"), ("2 (bearish)", "2"), ("1: bullish", "1"), ("2 (bullish)", None), ("0 = neutral, 1 = bullish", None)],
)  # fmt: skip
def test_a_description_names_its_label(answer, label):
    assert read_label(answer, CODES, NAMED) == label


def test_a_label_is_read_as_it_is_spelled():
    for labels in (TONES, GRADES, CODES, ("C++", "C"), ("+", "-"), ("Very_Positive", "OK!"), ("*", "**")):
        assert [read_label(label, labels) for label in labels] == list(labels)


@pytest.mark.parametrize(
    "text", ["bullish is not ", "bullish, ", "bearish 0.1 is ", "can't ", "{", "<", "'", "0.1 ", "5%5%"]
)
def test_a_very_long_answer_takes_no_longer_than_its_length(text):
    began = time.process_time()
    read_label(text * (100_000 // len(text)) + "bearish", TONES)
    assert time.process_time() - began < 5
