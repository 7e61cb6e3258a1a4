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
    "the other is denied": ["not bearish but bullish", "It isn't bearish, it's bullish.", "more bullish than bearish", "bullish rather than bearish", "bullish not bearish.", "Negative for the bears and bullish", "Negative for its holders, bullish", "not bearish; bullish", "Bearish would be wrong: bullish"],
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


FINDINGS = ("No Finding", "Pneumonia")
NOT_FOUND = {
    "denied before": ["Negative for pneumonia.", "The lungs are free of pneumonia.", "The lungs are clear of pneumonia.", "Absence of pneumonia", "Ruled out: pneumonia", "negative for acute pneumonia", "Negative for effusion and pneumonia", "With no sign that it is pneumonia"],
    "denied after": ["Pneumonia is absent.", "Pneumonia: absent", "Pneumonia has been ruled out.", "Pneumonia was excluded", "Pneumonia has been convincingly ruled out", "Pneumonia: negative", "Pneumonia not seen", "Pneumonia has not been seen", "Pneumonia has resolved", "pneumonia-free"],
    "not excluded": ["I cannot exclude pneumonia.", "Can't rule out pneumonia", "Pneumonia can't be ruled out.", "Pneumonia has not been ruled out", "It is difficult to exclude pneumonia", "Pneumonia is difficult to exclude", "unable to exclude pneumonia"],
}  # fmt: skip
FOUND = ["Effusion is absent. Pneumonia is seen", "Cannot exclude effusion, but there is pneumonia", "Pneumonia. Effusion is ruled out", "Ruled out: effusion\nFinding: pneumonia", "Clear signs of pneumonia", "not free of pneumonia", "Pneumonia, effusion absent"]  # fmt: skip


@pytest.mark.parametrize("answer", [answer for answers in NOT_FOUND.values() for answer in answers], ids=repr)
def test_a_finding_that_is_denied_or_not_excluded_is_none(answer):
    assert read_label(answer, FINDINGS) is None


@pytest.mark.parametrize("answer", FOUND, ids=repr)
def test_a_finding_beside_a_denied_one_is_read(answer):
    assert read_label(answer, FINDINGS) == "Pneumonia"


def test_no_finding_beside_a_denied_finding_is_read():
    assert read_label("Negative for pneumonia. No finding.", FINDINGS) == "No Finding"


@pytest.mark.parametrize(
    ("answer", "label"),
    [
        ("The correct option is C: vitamin D", "C"),
        ("Correct answer: B (not C)", "B"),
        ("It's B, as A and C are incorrect", "B"),
        ("I would pick option B, hepatitis A.", "B"),
        ("Because vitamin D is low, C is correct", "C"),
        ("Vitamin D is low.\n\nC", "C"),
        ("\\boxed{C}", "C"),
        ("A is wrong and B is right", "B"),
        ("hepatitis A and B, so C", "C"),
        ("Vitamin D", None),
        ("The patient has hepatitis A and B", None),
        ("The correct answers are A and B", None),
        ("either A or B", None),
    ],
)
def test_an_option_letter_is_no_part_of_a_name(answer, label):
    assert read_label(answer, ("A", "B", "C", "D")) == label


@pytest.mark.parametrize(
    ("answer", "labels", "label"),
    [
        ("1 star out of 5 stars", ("1 star", "5 stars"), "1 star"),
        ("I give it 4 out of 5.", ("1", "4", "5"), "4"),
        ("Output: 0\n1: x", ("1", "0", "2"), "0"),
        ("Label: 2\n1. It says so", CODES, "2"),
        ("Output: 0\n1", CODES, None),
    ],
)
def test_a_scale_and_the_number_of_a_line_are_no_labels(answer, labels, label):
    assert read_label(answer, labels) == label


@pytest.mark.parametrize(
    ("answer", "label"),
    [
        ("I have no idea.", None),
        ("no information", None),
        ("No answer can be given", None),
        ("There is no way to tell from the image", None),
        ("Yes, no fracture", "yes"),
        ("yes, no doubt", "yes"),
        ("No fracture", "no"),
        ("No, I have no information on that", "no"),
        ("yes or no", None),
    ],
)
def test_no_before_a_noun(answer, label):
    assert read_label(answer, ("yes", "no")) == label


@pytest.mark.parametrize(
    "answer",
    ["A factual statement with no opinion is neutral", "Because no direction is given the label should be neutral", "Without an opinion the tweet is neutral", "As no price is mentioned it is neutral", "The absence of an opinion makes it neutral"],
)  # fmt: skip
def test_a_denial_of_something_else_ends_at_its_verb(answer):
    assert read_label(answer, TONES) == "neutral"
    assert read_label(answer.replace("is neutral", "is not neutral").replace("be neutral", "not be neutral").replace("it neutral", "it less neutral"), TONES) is None  # fmt: skip


@pytest.mark.parametrize(
    ("answer", "denied"),
    [
        ("This isn't {}", True),
        ("It isn't {}.", True),
        ("I don't think this is {}", True),
        ("It doesn't look {}", True),
        ("There is no evidence of {}", True),
        ("I can't label this as {}", False),
        ("This is not enough to call it {}", False),
        ("{} cannot be excluded", False),
        ("I cannot rule out that it is {}", False),
        ("Isn't it {}?", False),
        ("I refuse to call this {}", False),
    ],
)
@pytest.mark.parametrize("labels", [("spam", "not spam"), ("urgent", "not urgent"), ("toxic", "non-toxic")])
def test_a_label_that_is_plainly_denied_states_its_opposite(answer, denied, labels):
    assert read_label(answer.format(labels[0]), labels) == (labels[1] if denied else None)


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
    "text",
    [
        "bullish is not ",
        "bullish, ",
        "bearish 0.1 is ",
        "can't ",
        "{",
        "<",
        "'",
        "0.1 ",
        "5%5%",
        "ruled out: ",
        "because no ",
    ],
)
def test_a_very_long_answer_takes_no_longer_than_its_length(text):
    began = time.process_time()
    read_label(text * (100_000 // len(text)) + "bearish", TONES)
    assert time.process_time() - began < 5


@pytest.mark.parametrize("text", ["hepatitis b. ", "b or ", "not b "])
def test_a_very_long_answer_with_option_letters(text):
    began = time.process_time()
    read_label(text * (100_000 // len(text)), ("A", "B"))
    assert time.process_time() - began < 5
