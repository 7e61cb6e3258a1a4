"""Answers about radiology images: the strict metrics, LLaVA-Med's rules and the tables, case by case. No model."""

import json
import math
import random
import re
import string

import numpy
import pytest

from prism.metrics import vqa
from prism.metrics.vqa import PublishedOpen, closed_accuracy, is_closed, published_closed, published_open, words
from prism.rows import Example


def sample(reference, *, closed=None, question="What is seen?", organ=None, kind=None, answer_type=None):
    facts = {"closed": is_closed(reference, answer_type) if closed is None else closed}
    facts |= {"organ": organ} if organ else {}
    facts |= {"question_type": kind} if kind else {}
    return Example("a", ({"role": "user", "content": question},), reference, "g", facts=facts)


@pytest.mark.parametrize(
    ("reference", "answer_type", "expected"),
    [
        ("yes", None, True),
        ("No", None, True),
        (" NO. ", None, True),
        ("Left", None, False),
        ("no effusion", None, False),
        ("normal", None, False),
        ("", None, False),
        ("Left", "CLOSED", True),
        ("Left", "closed ", True),
        ("Left", "OPEN", False),
        ("yes", "OPEN", False),
        ("yes", "", True),  # a copy without the column
    ],
)
def test_the_two_protocols(reference, answer_type, expected):
    assert is_closed(reference, answer_type) is expected


SIDE = "Is the lesion on the left or right side?"
CONTRAST = "Was this MRI taken with or without contrast?"
WEIGHTED = "Is this a T1 weighted, T2 weighted, or FLAIR image?"
BOTH = "Are pleural opacities located on the left, right, or both sides of the lung?"
CT = "Is this a contrast CT or a non-contrast CT?"

CLOSED = [
    ("yes", "yes", 1),
    ("yes", "Yes.", 1),
    ("Yes", "YES", 1),
    ("yes", "**Yes**, it is.", 1),
    ("yes", "The answer is yes", 1),
    ("yes", "yes yes", 1),
    ("yes", "no", 0),
    ("no", "no", 1),
    ("No.", "no", 1),
    ("no", "No, the lungs are clear.", 1),
    ("no", "There is no evidence of effusion", 1),
    ("no", "yes", 0),
    ("yes", "yes or no", 0),  # both
    ("no", "yes or no", 0),
    ("no", "No. Yes.", 0),
    ("yes", "Yes, there is no effusion", 0),
    ("yes", "yes/no", 0),
    ("yes", "yes_no", 0),
    ("yes", "", 0),  # neither
    ("yes", "maybe", 0),
    ("yes", "yesterday", 0),
    ("yes", "it is present", 0),
    ("yes", "y", 0),
    ("no", "normal", 0),
    ("no", "abnormal", 0),
    ("no", "not seen", 0),
    ("no", "none", 0),
    ("no", "I do not know", 0),
    ("no", "0", 0),
]


@pytest.mark.parametrize(("reference", "answer", "score"), CLOSED)
def test_closed_accuracy_of_yes_and_no(reference, answer, score):
    assert closed_accuracy(reference, answer, SIDE) == score


OPTIONS = [
    (SIDE, "Left", "left", 1),
    (SIDE, "Left", "On the left side.", 1),
    (SIDE, "Left", "right", 0),
    (SIDE, "Left", "left and right", 0),
    (SIDE, "Left", "left or right", 0),
    (SIDE, "Left", "both", 0),
    (SIDE, "Left", "not left", 0),
    (SIDE, "Left", "yes", 0),
    (SIDE, "Left", "leftmost", 0),
    (SIDE, "Left", "", 0),
    (SIDE, "Right side", "right", 1),
    (SIDE, "Right side", "right side", 1),
    (SIDE, "Right side", "side", 0),
    (SIDE, "Left and right", "left and right", 1),
    (SIDE, "Left and right", "left", 0),
    (SIDE, "neither", "neither", 1),  # no choice: a whole answer
    (SIDE, "neither", "neither of the two", 0),
    (BOTH, "Both", "both sides", 1),
    (BOTH, "Both", "left", 0),
    (BOTH, "Left", "left", 1),
    (WEIGHTED, "FLAIR", "FLAIR image", 1),
    (WEIGHTED, "FLAIR", "T1 weighted", 0),
    (CONTRAST, "with contrast", "with", 1),
    (CONTRAST, "with contrast", "without contrast", 0),
    (CT, "Non-contrast CT", "a non-contrast CT", 1),
    (CT, "Non-contrast CT", "contrast CT", 0),
    ("Is this image normal or abnormal?", "abnormal", "normal", 0),
    ("Is this image normal or abnormal?", "abnormal", "abnormal", 1),
    ("Is this an MRI or a CT scan?", "MRI", "This is an MRI.", 1),
    ("Is this an MRI or a CT scan?", "MRI", "MRI and CT", 0),
    ("Are there multiple or just 1 metastatic focus?", "one", "one", 1),
    ("Are there multiple or just 1 metastatic focus?", "one", "multiple", 0),
    ("Where is the lesion, in this image?", "White matter", "The white matter.", 1),
    ("Where is the lesion, in this image?", "White matter", "grey and white matter", 0),
    ("", "Diffuse", "diffuse", 1),
    ("", "Diffuse", "diffuse and lateral", 0),
]


@pytest.mark.parametrize(("question", "reference", "answer", "score"), OPTIONS)
def test_closed_accuracy_of_options(question, reference, answer, score):
    assert closed_accuracy(reference, answer, question) == score


# reference, answer: exact match, recall, F1
OPEN = [
    ("left lung", "left lung", 1, 1, 1),
    ("left lung", "The Left Lung.", 1, 1, 1),
    ("left lung", " left   lung\n", 1, 1, 1),
    ("left lung", "lung left", 0, 1, 1),
    ("left lung", "left", 0, 1 / 2, 2 / 3),
    ("left lung", "right lung", 0, 1 / 2, 1 / 2),
    ("left lung", "left left left", 0, 1 / 2, 2 / 5),  # a repetition earns no recall
    ("left lung", "left lung left lung", 0, 1, 2 / 3),
    ("left lung", "the left lower lobe of the left lung", 0, 1, 4 / 8),
    ("left lung", "leftlung", 0, 0, 0),
    ("left lung", "", 0, 0, 0),
    ("left lung", "the", 0, 0, 0),
    ("left lung", "heart", 0, 0, 0),
    ("lung lung", "lung", 0, 1, 2 / 3),  # nor does one of the reference's
    ("lung lung heart", "lung", 0, 1 / 2, 1 / 2),
    ("The small intestines", "small intestines", 1, 1, 1),
    ("A bullous lesion", "bullous lesion.", 1, 1, 1),
    ("x-ray", "xray", 1, 1, 1),  # SQuAD deletes signs
    ("x-ray", "x ray", 0, 0, 0),
    ("pulmonary/lymphatic", "pulmonary lymphatic", 0, 0, 0),
    ("Posterior-Anterior", "posterior-anterior", 1, 1, 1),
    ("PA", "pa", 1, 1, 1),
    ("T2 weighted MRI", "MRI", 0, 1 / 3, 1 / 2),
    ("one", "1", 0, 0, 0),
    ("5.6cm", "56cm", 1, 1, 1),  # and points within a number
    ("hepatitis a", "hepatitis", 1, 1, 1),  # and articles at the end
    ("an an", "x", math.nan, math.nan, math.nan),
    ("", "", math.nan, math.nan, math.nan),
    ("?", "lung", math.nan, math.nan, math.nan),
    ("lung\u2019s edge", "lungs edge", 0, 1 / 2, 1 / 2),  # only ASCII is deleted
    ("lung's edge", "lungs edge", 1, 1, 1),
    ("Skull \tcartilage and medulla", "skull cartilage and medulla", 1, 1, 1),
]


@pytest.mark.parametrize(("reference", "answer", "exact", "recall", "f1"), OPEN)
def test_open_metrics(reference, answer, exact, recall, f1):
    found = [score(reference, answer) for score in (vqa.open_exact_match, vqa.open_recall, vqa.open_f1)]
    assert found == pytest.approx([exact, recall, f1], nan_ok=True)


def squad(gold, said):
    """SQuAD's exact match and F1 from its definition: lower, no punctuation, no articles; F1 of the bags of tokens."""
    gold, said = (
        re.sub(r"\b(a|an|the)\b", " ", "".join(c for c in text.lower() if c not in string.punctuation)).split()
        for text in (gold, said)
    )
    rest, same = list(gold), 0
    for token in said:
        if token in rest:
            rest.remove(token)
            same += 1
    precision, recall = same / max(len(said), 1), same / len(gold)
    f1 = 2 * precision * recall / (precision + recall) if same else 0
    return float(gold == said), f1, sum(token in said for token in set(gold)) / len(set(gold))


def test_open_metrics_are_squads_on_random_texts():
    rng = random.Random(7)
    pool = ["left", "Left", "lung.", "lung", "the", "a", "x-ray", "of", "(right)", "An", "2", "..."]
    for _ in range(2_000):
        gold, said = (" ".join(rng.choices(pool, k=rng.randrange(6))) for _ in range(2))
        if words(gold):
            found = [score(gold, said) for score in (vqa.open_exact_match, vqa.open_f1, vqa.open_recall)]
            assert found == pytest.approx(squad(gold, said)), (gold, said)


# --- LLaVA-Med's script -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("The Left Lung", "left lung"),
        ("x-ray", "x ray"),
        ("x-ray - chest", "xray chest"),  # beside a space once, deleted everywhere
        ("x-ray 1,000", "xray 1000"),  # and so with a comma between digits
        ("left,right", "left right"),
        ("left, right", "left right"),
        ("5.6 cm.", "5.6 cm"),
        ("none", "0"),
        ("One or two", "1 or 2"),
        ("a an the", ""),
        ("." * 33, "."),  # 32 full stops are dropped
        ("don't", "don't"),
        ("", ""),
    ],
)
def test_published_words(text, expected):
    assert vqa.published_words(text) == expected


@pytest.mark.parametrize(
    ("reference", "answer", "score"),
    [
        ("no", "no", 1),
        ("No", "NO.", 1),
        ("yes", "no", None),  # a wrong answer is not counted
        ("no", "yes", None),
        ("yes", "yes or no", 1),
        ("no", "yes or no", 1),
        ("yes", "maybe", 0),
        ("yes", "", 0),
        ("no", "abnormal", 1),  # by its letters
        ("no", "I do not know", 1),
        ("yes", "normal", None),
        ("yes", "yesterday", 1),
        ("no", "none", 0),  # which is 0 to the script
        ("Left", "left", 0),
        ("Left", "left, no doubt", 1),
        ("Left", "no", None),
        ("abnormal", "abnormal", 1),
        ("MRI", "MRI", 0),
        ("one", "no, 1", 1),
        ("", "no", 1),
    ],
)
def test_published_closed(reference, answer, score):
    assert published_closed(reference, answer) == score


@pytest.mark.parametrize(
    ("reference", "answer", "exact", "precision", "recall"),
    [
        ("left lung", "left lung", 1, 1, 1),
        ("left lung", "left", 1, 1, 1 / 2),  # "exact match" is 1 for half of it
        ("left lung", "left left left", 1 / 3, 1, 3 / 4),
        ("left lung", "left left", 1 / 2, 1, 2 / 3),
        ("left lung", "right lung", 1 / 2, 1 / 2, 1 / 2),
        ("left lung", "lung left", 1, 1, 1),
        ("left lung", "it is the left lung", 1 / 2, 1 / 2, 1),
        ("lung lung", "lung", 1, 1, 1),
        ("lung lung heart", "heart", 1, 1, 1 / 3),
        ("x-ray", "x ray", 1, 1, 1),
        ("one", "1", 1, 1, 1),
        ("left lung", "heart", 0, 0, 0),
        ("left lung", "", 0, 0, 0),
        ("", "left", 0, 0, 0),
        ("the", "the", 0, 0, 0),
    ],
)
def test_published_open(reference, answer, exact, precision, recall):
    f1 = 2 * precision * recall / (precision + recall) if precision else 0
    assert published_open(reference, answer) == pytest.approx(PublishedOpen(exact, f1, precision, recall))


# What VQA-RAD's test set has: 133 no, 118 yes and 21 closed by `answer_type` alone.
OTHERS = """Left|MRI|MRI|MRI|Bilateral|Both|Axial|Right|FLAIR|abnormal|abnormal|Abnormal|one|Right side|Hyperinflation|
Cystic|Female|Female|Smaller|supratentorial|Left""".replace("\n", "").split("|")


def test_a_constant_no_scores_100_percent_as_published_and_49_strictly():
    examples = [sample(answer, closed=True) for answer in ["no"] * 133 + ["yes"] * 118 + OTHERS]
    assert len(examples) == 272

    def row(constant, asked=examples):
        return vqa.published(asked, [constant] * len(asked))[0]

    strict = {"rule": "closed accuracy", "n": 272, "counted": 133, "published": 1, "strict": 133 / 272}
    assert row("no") == strict
    assert row("no")["strict"] == pytest.approx(0.489, abs=5e-4)
    assert row("yes or no") == strict | {"counted": 251, "strict": 0}
    assert row("yes")["published"] == 1
    assert row("maybe") == strict | {"counted": 272, "published": 0, "strict": 0}
    assert row("no", examples[:251]) == strict | {"n": 251, "strict": 133 / 251}
    assert row("no", examples[133:251]) == strict | {"n": 118, "counted": 0, "published": 0, "strict": 0}


def test_published_beside_strict():
    examples = [sample("left lung"), sample("heart"), sample("no")]
    rows = {row["rule"]: row for row in vqa.published(examples, ["left left left", "the heart", "no"])}
    assert rows["exact match"] == {
        "rule": "exact match",
        "n": 2,
        "counted": 2,
        "published": pytest.approx(2 / 3),
        "strict": 0.5,
    }
    assert (rows["recall"]["published"], rows["recall"]["strict"]) == (0.875, 0.75)
    assert rows["closed accuracy"]["n"] == 1
    only_closed = vqa.published(examples[2:], ["no"])
    assert only_closed[1] == {"rule": "exact match", "n": 0, "counted": 0, "published": None, "strict": None}
    json.dumps([rows, only_closed], allow_nan=False)


# --- metrics and tables -------------------------------------------------------------------------------------------


def test_the_metrics_apply_to_closed_or_open_questions():
    examples = [
        sample("yes"),
        sample("Left", closed=True, question=SIDE),
        sample("left lung"),
        sample("", closed=False),
    ]
    scores = {m.name: m.statistics(examples, ["yes", "on the left", "left", "left"])[:, 0] for m in vqa.METRICS}
    nan = numpy.nan
    numpy.testing.assert_array_equal(scores["closed_accuracy"], [1, 1, nan, nan])
    numpy.testing.assert_array_equal(scores["open_exact_match"], [nan, nan, 0, nan])
    numpy.testing.assert_array_equal(scores["open_recall"], [nan, nan, 0.5, nan])
    assert [(m.name, m.right_or_wrong) for m in vqa.METRICS] == [
        ("closed_accuracy", True),
        ("open_exact_match", True),
        ("open_recall", False),
        ("open_f1", False),
    ]
    assert [m.applies(examples[0]) for m in vqa.METRICS] == [True, False, False, False]


def test_a_closed_question_without_a_reference_is_unscored():
    assert math.isnan(closed_accuracy(" ", "yes"))


def test_by_kind():
    examples = [
        sample("yes", organ="CHEST", kind="PRES"),
        sample("no", organ="CHEST", kind="PRES"),
        sample("left lung", organ="CHEST", kind="POS, PRES"),
        sample("MRI", organ="HEAD", kind="MODALITY"),
        sample("", organ="HEAD", kind="MODALITY"),
        sample("yes"),
    ]
    table = vqa.by_kind(examples, ["yes", "yes", "left", "MRI", "MRI", "yes"])
    json.dumps(table, allow_nan=False)
    assert table["organ"][0] == {
        "organ": "CHEST",
        "n": 3,
        "closed_accuracy": 0.5,
        "open_exact_match": 0,
        "open_recall": 0.5,
        "open_f1": pytest.approx(2 / 3),
    }
    assert [(row["organ"], row["n"]) for row in table["organ"]] == [("CHEST", 3), ("HEAD", 2), ("none", 1), ("all", 6)]
    assert [(row["question_type"], row["n"]) for row in table["question_type"]] == [
        ("MODALITY", 2),
        ("POS", 1),
        ("PRES", 3),  # "POS, PRES" is of both
        ("none", 1),
        ("all", 6),
    ]
    assert table["question_type"][0]["closed_accuracy"] is None


def test_without_organs_the_table_is_unscored():
    table = vqa.by_kind([sample("yes", kind="PRES")], ["yes"])
    assert table["organ"] == "unscored"
    assert [row["question_type"] for row in table["question_type"]] == ["PRES", "all"]
    assert vqa.by_kind([], []) == {"organ": "unscored", "question_type": "unscored"}
