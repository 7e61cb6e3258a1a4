"""Readers of outside text take a text four times as long in about four times the time, whatever it holds.

An answer, a row or a filing may be anything: one that repeats itself for 100,000 characters must not stop a run. Ratios
are measured, in CPU time of this thread, and no speed: quadratic work has a ratio of 16.
"""

import random
import time

import pytest

from prism.judge import Case, fencing
from prism.metrics import anls, charts, coverage, finance, finance_answers, labels, overlap, short_answers, tatqa, vqa
from prism.rows import Example, filings, folding, thoughts, values
from prism.tasks import finance_qa, financial_sentiment
from prism.untrusted import terminal_safe

SHORT, LONG = 3_000, 12_000  # characters
MOST = 9  # times the time for four times the text; linear work has 4, and more with caches and large integers
SLACK = 0.06  # seconds, below which a ratio says nothing
LABELS = ("bullish", "bearish", "neutral")
UNITS = [
    "a",
    "0",
    "1.",
    "1.1.",
    ".5",
    "1,",
    ",",
    ".",
    "-",
    "--",
    "->",
    "(",
    "()",
    ")",
    "[",
    "[]",
    "{",
    "<",
    "<a",
    "<think>",
    "</think>",
    "`",
    "```",
    "*",
    "**",
    "**a",
    "_",
    "'",
    '"',
    '"a"',
    "“",
    "”",
    "5%",
    "%",
    "$",
    "$1",
    "1%",
    "(1",
    "(1)\n=",
    "1=",
    ";",
    ";",
    "answer:",
    "the",
    "no",
    "not",
    "or",
    "is\tlung",
    "中",
    "。",
    "😀",
    "é",
    "é",
    "́",
    "\u200b",
    "\u3000",
    "İ",
    "|",
    "|---",
    "\\",
    "@a",
    "https://",
    "#",
    "&",
    "![a](",
    ":",
    "::",
    "~",
    "ﬁ",
]
SPACED = [
    "the",
    "a",
    "no",
    "not",
    "or",
    "and",
    "1",
    "1+",
    "1-",
    "1/",
    "$1",
    "**a",
    '"a',
    '"a"',
    "-a",
    "a.",
    "A.",
    "a?",
    "is",
    "in",
    "cancer",
    "lung",
    "12.",
    "2020",
    "million",
    "(1",
    "answer",
    "not_stated",
    "A",
    "bullish",
    "bearish",
    "yes",
    "5%",
    "1%",
    "_",
    "of",
    "cannot",
    "there;",
    "evidence:",
    "final",
    "isn't",
    "中",
]
LINES = [
    "",
    "a",
    '"a"',
    "- a",
    "1) ",
    "|---",
    "| a |",
    "answer: 1",
    "```",
    "```json",
    "| 1 | 2 |",
    "> a",
    "; ",
    "1 234",
]
EXACT = [
    " ",
    "\n",
    "\t",
    "\u00a0",
    "\r\n",
    "$1 234",
    "-1 234 ",
    "(1 234",
    "a, the ",
    "a or b, ",
    "1 million ",
    "no information ",
]
PATTERNS = [*UNITS, *(f"{unit} " for unit in SPACED), *(f"{line}\n" for line in LINES), *EXACT]


def around(pattern, length):
    """The pattern for `length` characters, alone and between what a search may begin or end with."""
    text = (pattern * (length // len(pattern) + 1))[:length]
    return {"alone": text, "between": f'bullish "1,{text}" a bearish'}


def filing(reference="12.5", context="Net sales were 12.5 million.", **facts):
    known = {"type": "arithmetic", "scale": "million", "answer": (reference,), "context": context, "needed": ("12.5",)}
    user = {"role": "user", "content": "What were net sales?"}
    return Example("a", (user,), f'{reference} million\n"{context}"', "g", facts=known | facts)


def keywords(text):
    asked = Example("a", ({"role": "user", "content": text},), f"a stroke and {text}", "g")
    said = Example("a", ({"role": "user", "content": "What?"},), "a stroke", "g")
    for name in ("medical", "financial"):
        coverage.metric(coverage.LEXICONS / f"{name}.txt").statistics([asked, said], [text, text])


READERS = {
    "thoughts": thoughts.without_thoughts,
    "folding": folding.read,
    "values": lambda text: (values.plain(text), values.no_text(text)),
    "terminal": terminal_safe,
    "keywords": keywords,
    "rouge": lambda text: overlap.rouge("a stroke", text),
    "labels": lambda text: labels.read_label(text, LABELS),
    "labels that contain another": lambda text: labels.read_label(
        text, ("spam", "not spam", "very positive", "yes", "no")
    ),
    "short answers": short_answers.words,
    "radiology": lambda text: (
        vqa.closed_accuracy("left", "left", text),
        vqa.closed_accuracy("left", text, "left or right?"),
        vqa.published_open("left", text),
    ),
    "charts": lambda text: (
        charts.strict_correctness("12", text),
        charts.relaxed_correctness("12", text),
        charts.same_date("12/01/2019", text),
    ),
    "anls": lambda text: anls.anls_score(("12.50", "total"), text),
    "tatqa": lambda text: (tatqa.to_number(f"1 ({text}%"), tatqa.score((text,), "", ("12.5",), "million", "span")),
    "filing's answer": finance_answers.read_answer,
    "filing's answer of several spans": lambda text: finance.exact_and_f1(
        filing(type="multi-span", answer=("1", "b")), text
    ),
    "filing's numbers": lambda text: (
        finance.grounded(filing(), text),
        finance.grounded(filing(context=text), "12.5"),
        finance.evidence_overlap(filing(context=text), f'12.5\n"{text}"'),
    ),
    "filing": lambda text: (
        filings.render([["", text], [text, "1"]], [text], text, 10**6, "a"),
        filings.evidence(text, text, ["1"]),
        filings.shuffled(text, random.Random(1)),
    ),
    "rows about filings": lambda text: finance_qa.example({"report": text, "question": text, "answer": "12.5"}, "a"),
    "tweets": lambda text: financial_sentiment.example({"tweet": text, "sentiment": 1}, "a"),
    "fences": lambda text: fencing.fence(Case("a", text, text, text, text)),
}


def seconds(read, text):
    start = time.thread_time()
    read(text)
    return time.thread_time() - start


@pytest.mark.parametrize("name", READERS)
def test_time_grows_with_the_text_and_not_with_its_square(name):
    read = READERS[name]
    read("warm")
    slow = {}
    for pattern in PATTERNS:
        short, long = around(pattern, SHORT), around(pattern, LONG)
        for shape, text in long.items():
            once = seconds(read, short[shape])
            if (four_times := seconds(read, text)) > MOST * once + SLACK:
                again = seconds(read, text + " ")  # another text: readers remember
                if min(four_times, again) > MOST * once + SLACK:
                    slow[pattern, shape] = round(once, 3), round(four_times, 3)
    assert not slow
