"""Answers about radiology images: closed questions by what is said, open ones by whole answer, recall and F1 of words.

Two protocols say which questions of VQA-RAD (Lau et al. 2018) are closed: those answered yes or no (251 of the 451 test
questions, the only one where a copy has no `answer_type`), or those of `answer_type` CLOSED (272: "left or right?" is
one). The fact "closed" of an example has been decided by the one that its task names.

The rules of LLaVA-Med's script are here too, for a table in the report: under them a constant "no" has every closed
question right that it is counted for.
"""

from __future__ import annotations

import math
import re
import string
from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

from prism.metrics import Metric, per_sample
from prism.metrics.by_fact import Cell, by_fact, means
from prism.rows import Example

YES_NO = frozenset({"yes", "no"})


def is_closed(reference: str, answer_type: str | None = None) -> bool:
    """Whether a question is closed: by its `answer_type` where one is given, else by its answer, a yes or a no."""
    return answer_type.strip().upper() == "CLOSED" if answer_type else _tokens(reference) in (["yes"], ["no"])


def closed(example: Example) -> bool:
    return bool(example.facts["closed"])


def is_open(example: Example) -> bool:
    return not closed(example)


# --- strict -------------------------------------------------------------------------------------------------------

_TOKEN = re.compile(r"[^\W_]+")
_CHOICE = re.compile(r"\b\w+(?:(?:, or |, | or )(?:(?:just|the|an?) )*\w+)+")
_LINKS = frozenset({"or", "just", "the", "a", "an"})
_DENIALS = frozenset({"not", "no", "neither", "nor"})
_PUNCTUATION = str.maketrans("", "", string.punctuation)
_ARTICLES = re.compile(r"\b(?:a|an|the)\b")


def words(text: str) -> list[str]:
    """The tokens of SQuAD's script: lower case, without ASCII punctuation (x-ray: xray) and articles, cut at spaces."""
    return _ARTICLES.sub(" ", text.lower().translate(_PUNCTUATION)).split()


def closed_accuracy(reference: str, answer: str, question: str = "") -> float:
    """Whether an answer says the closed reference and no other: 1 or 0, NaN where the reference is empty.

    Protocol: closed questions, on VQA-RAD's test 251 by their yes/no answers, or 272 by `answer_type`.

    Of a yes/no question it has to hold one of the two as a word, in any sentence: with both or neither it is wrong, so
    "Yes, there is no effusion" is, and so are "maybe", "normal" and "none". Where the question offers choices ("left or
    right side?"), it has to hold the words of the reference among them, none of the others, and no denial ("not left").
    Else it has to be the reference, as whole answers are compared.
    """
    gold, said = set(_tokens(reference)), set(_tokens(answer))
    if not gold:
        return math.nan
    if len(gold) == 1 and gold <= YES_NO:
        return float(said & YES_NO == gold)
    offered = _offered(question)
    named = offered & gold
    if not named:
        return float(words(answer) == words(reference))
    return float(named <= said and not said & ((offered | _DENIALS) - gold))


def _tokens(text: str) -> list[str]:
    return _TOKEN.findall(text.casefold())


def _offered(question: str) -> frozenset[str]:
    """The words on either side of an "or", and of the commas of its list."""
    choices = (_tokens(found) for found in _CHOICE.findall(" ".join(question.casefold().split())))
    return frozenset(word for choice in choices if "or" in choice for word in choice) - _LINKS


def open_exact_match(reference: str, answer: str) -> float:
    """Whether the whole answer is the reference, both as SQuAD normalizes them; NaN where the reference has no word.

    Protocol: questions that are not closed, on VQA-RAD's test 200 beside 251 closed ones, or 179 beside 272.
    """
    gold = words(reference)
    return float(words(answer) == gold) if gold else math.nan


def open_recall(reference: str, answer: str) -> float:
    """The share of the reference's distinct tokens that the answer holds; a repetition counts once, on either side.

    Protocol: as `open_exact_match`. It falls with no word too many: an answer that says everything has 1.
    """
    gold = set(words(reference))
    return len(gold & set(words(answer))) / len(gold) if gold else math.nan


def open_f1(reference: str, answer: str) -> float:
    """SQuAD's token F1: each token counts as often as both sides have it; NaN where the reference has no word.

    Protocol: as `open_exact_match`.
    """
    gold, said = words(reference), words(answer)
    common = (Counter(gold) & Counter(said)).total()
    return 2 * common / (len(gold) + len(said)) if gold else math.nan


def _closed_accuracy(example: Example, answer: str) -> float:
    return closed_accuracy(example.reference, answer, example.question if example.messages else "")


def _of_texts(score: Callable[[str, str], float]) -> Callable[[Example, str], float]:
    return lambda example, answer: score(example.reference, answer)


_RIGHT: dict[str, Any] = {"sample": "right or wrong", "version": 1}

METRICS: tuple[Metric, ...] = (
    per_sample("closed_accuracy", "tier1", _closed_accuracy, applies=closed, **_RIGHT),
    per_sample("open_exact_match", "tier1", _of_texts(open_exact_match), applies=is_open, **_RIGHT),
    per_sample("open_recall", "tier1", _of_texts(open_recall), applies=is_open, version=1),
    per_sample("open_f1", "tier1", _of_texts(open_f1), applies=is_open, version=1),
)


# --- tables -------------------------------------------------------------------------------------------------------


def by_kind(examples: Sequence[Example], answers: Sequence[str]) -> dict[str, list[dict[str, Cell]] | str]:
    """The metrics by organ and by question type, for the report."""
    return by_fact(METRICS, ("organ", "question_type"), examples, answers)


# --- LLaVA-Med's script -------------------------------------------------------------------------------------------

_SIGNS = ';/[]"{}()=+\\_-><@`,?!'
_NAMES = "zero one two three four five six seven eight nine ten"
_FIGURES = {"none": "0"} | {name: str(i) for i, name in enumerate(_NAMES.split())}


class PublishedOpen(NamedTuple):
    exact_match: float
    f1: float
    precision: float
    recall: float


def published_words(text: str) -> str:
    """A text as LLaVA-Med normalizes it, by the rules of the VQA challenge with their slips.

    A sign is deleted where it stands beside a space anywhere in the text, or the text has a comma between digits, and is
    a space else. Numbers up to ten become figures, "none" becomes 0. Left out is the list that writes "dont" as "don't":
    no reference of VQA-RAD has a word of it.
    """
    text = text.lower()
    thousands = re.search(r"\d,\d", text)
    plain = text
    for sign in _SIGNS:
        deleted = thousands or sign + " " in text or " " + sign in text
        plain = plain.replace(sign, "" if deleted else " ")
    plain = re.sub(r"\.(?!\d)", "", plain, count=32)  # the script hands over re.UNICODE, which is 32, as the count
    found = (_FIGURES.get(word, word) for word in plain.split())
    return " ".join(word for word in found if word not in ("a", "an", "the"))


def published_closed(reference: str, answer: str) -> float | None:
    """LLaVA-Med's score of a closed answer (run_eval.py): 1, 0, or None where it leaves the denominator.

    An answer with neither "yes" nor "no" in its letters scores 0. One with either scores 1 where the reference is in its
    letters as well, and is not counted at all where it is not. So a constant "no" scores 100 %, "yes or no" does on
    every yes/no question, and "abnormal" is right where the reference is "no".
    """
    gold, said = published_words(reference), published_words(answer)
    if "yes" not in said and "no" not in said:
        return 0.0
    return 1.0 if gold in said else None


def published_open(reference: str, answer: str) -> PublishedOpen:
    """LLaVA-Med's scores of an open answer (evaluate_metrics.py).

    "Exact match" is the number of the reference's distinct words that the answer holds, over the answer's words. Recall
    counts a word as often as the answer repeats it, over that and the words that it misses: "left left left" has .75 of
    "left lung".
    """
    gold, said = (Counter(published_words(published_words(text)).split()) for text in (reference, answer))
    if not gold or not said:
        return PublishedOpen(0.0, 0.0, 0.0, 0.0)
    shared = sum(n for word, n in said.items() if word in gold)
    if not shared:
        return PublishedOpen(0.0, 0.0, 0.0, 0.0)
    missed = sum(n for word, n in gold.items() if word not in said)
    precision, recall = shared / said.total(), shared / (shared + missed)
    f1 = 2 * precision * recall / (precision + recall)
    return PublishedOpen(len(gold.keys() & said.keys()) / said.total(), f1, precision, recall)


def published(examples: Sequence[Example], answers: Sequence[str]) -> list[dict[str, Cell]]:
    """LLaVA-Med's scores beside the strict ones, a row a rule, for the report; `counted` is the published denominator.

    A published closed score that counts nothing is 0, as its script has it; a score of no sample is None.
    """
    strict = means(METRICS, examples, answers)
    pairs = list(zip(examples, answers))
    counted = [published_closed(e.reference, a) for e, a in pairs if closed(e)]
    hits = [score for score in counted if score is not None]
    scored = [published_open(e.reference, a) for e, a in pairs if is_open(e)]
    rows: list[tuple[str, str, int, Sequence[float]]] = [
        ("closed accuracy", "closed_accuracy", len(counted), hits or [0.0] * bool(counted)),
        ("exact match", "open_exact_match", len(scored), [score.exact_match for score in scored]),
        ("recall", "open_recall", len(scored), [score.recall for score in scored]),
        ("F1", "open_f1", len(scored), [score.f1 for score in scored]),
    ]
    return [
        {
            "rule": rule,
            "n": n,
            "counted": len(hits) if name == "closed_accuracy" else n,
            "published": sum(found) / len(found) if found else None,
            "strict": strict[name],
        }
        for rule, name, n, found in rows
    ]
