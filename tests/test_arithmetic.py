"""Answers that are calculations: what is computed, and what is refused at once."""

import math
import time

import numpy
import pytest

from prism.metrics.arithmetic import compute, spaced

COMPUTED = {
    "412 - 385": 27,
    "(44.1 - 56.7) / 56.7 * 100": -22.2222,
    "$1,452.4 - $1,146.2": 306.2,
    "[(166 + 178) / 2] - [(57 + 44) / 2]": 121.5,
    "(1.7% + 1.5% + 1.5%) / 3": 0.015667,
    "(12.6) + 4": -8.6,  # a filing's negative
    "4 − 6": -2,
    "3 × 4 ÷ 2": 6,
    "-9,819 - 6,639": -16458,
    "8 / 5%": 160,
    "2*3": 6,
    "(" * 95 + "1 + 1" + ")" * 95: 2,
}


@pytest.mark.parametrize(("expression", "value"), COMPUTED.items())
def test_computed(expression, value):
    assert compute(expression) == pytest.approx(value, abs=1e-4)


REFUSED = {
    "a number": "412",
    "a negative": "-12.6",
    "a range of years": "2018-2019",
    "a date": "10/12/2019",
    "words": "net sales of 412 - 385",
    "division by zero": "412 / (385 - 385)",
    "a power": "9 ** 9 ** 9 ** 9",
    "an endless product": "9 * " * 60 + "9",
    "a huge number": "9" * 199 + " * 9",
    "parentheses without end": "(" * 150 + "1 + 1" + ")" * 40,
    "a call": "5 (3 + 4)",
    "a name": "__import__ + 1",
    "half an expression": "(412 - 385",
    "another locale": "1.234,56 - 2,5",
    "points between thousands": "1.234.567 - 1",
    "spaces between thousands": "1 234 - 1",
    "two lines": "412 - 385\n51",
    "nothing": "",
}


@pytest.mark.parametrize("expression", REFUSED.values(), ids=REFUSED)
def test_refused_at_once(expression):
    began = time.process_time()
    assert compute(expression) is None
    assert time.process_time() - began < 1


def test_derivations_are_spaced_out():
    assert spaced("(44.1-56.7)/56.7") == "(44.1 - 56.7) / 56.7"
    assert spaced("-9,819 - 6,639 ") == "-9,819 - 6,639"
    assert spaced("[(166+178)/2] -[(57+44)/2]") == "((166 + 178) / 2) - ((57 + 44) / 2)"
    assert compute(spaced("approximately 12")) is None


@pytest.mark.parametrize("text", ["12 + ...", "... - 4 / 2", "(...) * 3", "1 + ..5", "- ... / 2 * 3"])
def test_dots_are_no_number(text):
    """Python reads three dots as an object, which cannot be added."""
    assert compute(text) is None


def test_no_text_of_the_characters_of_a_calculation_raises():
    random = numpy.random.default_rng(42)
    characters = list("0123456789. %()+*/-")
    for _ in range(20_000):
        text = "".join(random.choice(characters, size=random.integers(1, 14)))
        value = compute(text)
        assert value is None or math.isfinite(value)
