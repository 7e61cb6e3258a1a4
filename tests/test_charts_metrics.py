"""Relaxed accuracy as published and without its gaps, dates and totals of receipts: case by case. No model."""

import random
from datetime import date
from decimal import Decimal
from fractions import Fraction

import numpy
import pytest

from prism.metrics import charts
from prism.metrics.charts import read_date, read_number, relaxed_correctness, same_amount, same_date, strict_correctness
from prism.rows import Example


def sample(*answers, field=None, reference=""):
    facts = {"answers": list(answers)} if answers else {}
    return Example("a", (), reference, "g", facts=facts | ({"field": field} if field else {}))


# gold, answer: as published, strict
RELAXED = [
    ("10", "10", 1, 1),
    ("10", "10.5", 1, 1),
    ("10", "10.51", 0, 0),
    ("10", "9.5", 1, 1),
    ("10", "9.49", 0, 0),
    ("-10", "-10.5", 1, 1),
    ("-10", "10", 0, 0),
    ("-10", "\u221210", 0, 1),
    ("1", "1.05", 0, 1),  # larger by exactly 5 %, which the float is not
    ("0.30", "0.315", 0, 1),
    ("1", "1.0501", 0, 0),
    ("2010", "1910", 1, 0),  # a year
    ("2010", "2011", 1, 0),
    ("2010", "2010", 1, 1),
    ("2010", "2010.", 1, 1),
    ("2010", "2010.0", 1, 1),
    ("1850", "1851", 1, 0),
    ("1750", "1760", 1, 1),  # no year
    ("2,010", "2,011", 0, 1),  # nobody writes a year with a comma
    ("$2010", "$2011", 0, 1),
    ("2010.5", "2011", 1, 1),
    ("2", "2%", 0, 1),
    ("2%", "2", 0, 1),
    ("2%", "0.02", 1, 0),
    ("2%", "2%", 1, 1),
    ("2%", "2.1%", 0, 1),
    ("2%", "2.09%", 1, 1),
    ("2%", "2.11%", 0, 0),
    ("2%", "2 %", 1, 1),
    ("2%", "2 percent", 0, 1),
    ("2%%", "2%", 1, 0),  # published by stripping every sign
    ("1,000", "1000", 0, 1),
    ("1000", "1,000", 0, 1),
    ("1,000", "1,000", 1, 1),
    ("1,000", "1,049", 0, 1),
    ("1000", "1_000", 1, 0),  # Python's float reads it
    ("1000", "1e3", 1, 0),
    ("1000", "1 000", 0, 0),
    ("1.5", "1,5", 0, 0),  # a decimal comma is no number
    ("1000", "10,00", 0, 0),
    ("$5", "5", 0, 1),
    ("5", "$5", 0, 1),
    ("5", "US$5.1", 0, 1),
    ("RM5.00", "5", 0, 1),
    ("5 EUR", "\u20ac5", 0, 1),
    ("-5", "-$5", 0, 1),
    ("-5", "$-5", 0, 1),
    ("-5", "-$-5", 0, 0),
    ("5", "+5", 1, 1),
    (".5", "0.5", 1, 1),
    ("0", "0", 1, 1),
    ("0", "0.0", 0, 1),
    ("0", "0.01", 0, 0),
    ("0", "0%", 0, 1),
    ("0%", "0%", 1, 1),
    ("", "", 1, 1),
    ("", "0", 0, 0),
    ("5", "", 0, 0),
    ("5", "nan", 0, 0),
    ("nan", "nan", 0, 1),  # a text is itself
    ("5", "inf", 0, 0),
    ("inf", "inf", 0, 1),
    ("5", " 5\n", 1, 1),
    ("yes", "yes", 1, 1),
    ("yes", "Yes", 1, 1),
    ("yes", "yes.", 0, 1),
    ("yes", " yes", 0, 1),
    ("yes", "no", 0, 0),
    ("the Netherlands", "Netherlands", 0, 1),
    ("a bar of the chart", "bar of chart", 0, 1),
    ("Product A", "Product", 0, 0),  # a name, no article
    ("A", "", 0, 0),
    ("A", "a.", 0, 1),
    ("Tom and Ann", "Tom", 0, 0),
    ("5 million", "5,000,000", 0, 0),  # words of scale are not read
    ("5 million", "5 Million", 1, 1),
    ("5", "five", 0, 0),
    ("5", "5 dogs", 0, 0),
    ("10\u00b2", "102", 0, 0),
    ("caf\u00e9", "cafe\u0301", 0, 1),
    ("9" * 5_000, "9" * 5_000, 0, 1),  # a float overflows to inf here, an integer refuses
]


@pytest.mark.parametrize(("gold", "said", "published", "strict"), RELAXED)
def test_relaxed_and_strict_correctness(gold, said, published, strict):
    assert relaxed_correctness(gold, said) == bool(published)
    assert strict_correctness(gold, said) == bool(strict)


def test_floats_refuse_an_answer_larger_by_five_percent_for_half_of_the_golds():
    golds = [Decimal(cents) / 100 for cents in range(1, 2_000)]
    pairs = [(str(gold), str(gold * Decimal("1.05"))) for gold in golds]
    assert sum(not relaxed_correctness(*pair) for pair in pairs) == 953
    assert all(strict_correctness(*pair) for pair in pairs)
    assert not any(strict_correctness(gold, said + "1") for gold, said in pairs if "." in said)


def pix2struct(gold, said):
    values = []
    for text in (gold, said):
        try:
            values.append(float(text.rstrip("%")) / 100.0 if text.endswith("%") else float(text))
        except ValueError:
            values.append(None)
    if values[1] is not None and values[0]:
        return abs(values[1] - values[0]) / abs(values[0]) <= 0.05
    return gold.lower() == said.lower()


def test_relaxed_correctness_is_its_definition_on_random_texts():
    rng = random.Random(5)
    for _ in range(3_000):
        gold, said = ("".join(rng.choices("00123.%-,eA_ ", k=rng.randrange(6))) for _ in range(2))
        assert relaxed_correctness(gold, said) == pix2struct(gold, said), (gold, said)


def test_strict_correctness_of_random_numbers_is_arithmetic():
    rng = random.Random(6)
    for _ in range(2_000):
        gold, said = (rng.randrange(-200_000, 200_000) / Fraction(100) for _ in range(2))
        said = gold * said / 150_000 if rng.random() < 0.5 else gold + rng.randrange(-300, 300) / Fraction(1_000)
        texts = [f"{float(value):,.4f}" for value in (gold, said)]
        exact = [Fraction(text.replace(",", "")) for text in texts]
        assert strict_correctness(*texts) == (20 * abs(exact[1] - exact[0]) <= abs(exact[0])), texts


@pytest.mark.parametrize(
    ("text", "value", "percent"),
    [
        ("1,234.50", Fraction("1234.5"), False),
        ("12%", 12, True),
        ("US$ 1,234", 1234, False),
        ("rm 9.00", 9, False),
        ("9.00 MYR.", 9, False),
        ("Rs. 50", 50, False),
        ("\u20b950", 50, False),
        ("1,23", None, False),
        ("1,2345", None, False),
        ("12,345,6", None, False),
        ("5 USD each", None, False),
        ("(5)", None, False),
        ("5-6", None, False),
        ("--5", None, False),
        (".", None, False),
        ("$", None, False),
        ("%", None, False),
    ],
)
def test_reading_a_number(text, value, percent):
    found = read_number(text)
    assert found == (None if value is None else (value, percent))


CHRISTMAS = date(2018, 12, 25)
DATES = {
    "25/12/2018": CHRISTMAS,
    "25-12-2018": CHRISTMAS,
    "25.12.2018": CHRISTMAS,
    "25 12 2018": CHRISTMAS,
    "2018-12-25": CHRISTMAS,
    "2018/12/25": CHRISTMAS,
    "12/25/2018": CHRISTMAS,
    "25/12/18": CHRISTMAS,
    "25122018": CHRISTMAS,
    "12252018": CHRISTMAS,
    "20181225": CHRISTMAS,
    "25 DEC 2018": CHRISTMAS,
    "25-Dec-2018": CHRISTMAS,
    "25/DEC/18": CHRISTMAS,
    "25 December 2018.": CHRISTMAS,
    "25th December, 2018": CHRISTMAS,
    "Dec 25, 2018": CHRISTMAS,
    "Dec. 25, 2018": CHRISTMAS,
    "2018 Dec 25": CHRISTMAS,
    "30 Sept 1998": date(1998, 9, 30),
    "30/09/98": date(1998, 9, 30),
    "3/9/2018": ("03", "09", "2018"),  # March or September
    "03-09-18": ("03", "09", "2018"),
    "03092018": ("03", "09", "2018"),
    "9/9/2018": date(2018, 9, 9),
    "2018-03-09": date(2018, 3, 9),  # the year first: the month follows
    "20120304": date(2012, 3, 4),  # and not 20 December 304
    "31/02/2018": None,
    "32/12/2018": None,
    "25/13/2018": None,
    "13/25/2018": None,
    "2018-25-12": None,
    "25 Foo 2018": None,
    "Dec 2018": None,
    "December": None,
    "25/12": None,
    "25/12/218": None,
    "25/12/1218": None,
    "25/12/2018 10:15": None,
    "9.00": None,
    "": None,
}


@pytest.mark.parametrize(("text", "expected"), DATES.items())
def test_reading_a_date(text, expected):
    assert read_date(text) == expected


@pytest.mark.parametrize(
    ("gold", "said", "same"),
    [
        ("25/12/2018", "25-12-2018", True),
        ("25/12/2018", "2018-12-25", True),
        ("25/12/2018", "25 Dec 18", True),
        ("25/12/2018", "12/25/2018", True),
        ("25/12/2018", "25/12/2017", False),
        ("25/12/2018", "24/12/2018", False),
        ("25/12/2018", "the 25th", False),
        ("25/12/2018", "", False),
        ("25/12/2018", "25/12/2018 10:15", False),
        ("12-01-19", "12/01/2019", True),  # either date, and the same
        ("12-01-19", "12.1.2019", True),
        ("12-01-19", "01-12-19", False),
        ("12-01-19", "2019-01-12", False),  # it may be 1 December
        ("12-01-19", "2019-12-01", False),
        ("12-01-19", "12 Jan 2019", False),
        ("2019-01-12", "12 Jan 2019", True),
        ("2019-01-12", "12/01/2019", False),
        ("12/12/2018", "2018-12-12", True),
        ("31/02/2018", "31/02/2018", True),  # no date: a text
        ("31/02/2018", "31-02-2018", False),
        ("Christmas", "christmas.", True),
    ],
)
def test_the_same_date(gold, said, same):
    assert same_date(gold, said) is same
    assert same_date(said, gold) is same


@pytest.mark.parametrize(
    ("gold", "said", "same"),
    [
        ("9.00", "9.00", True),
        ("9.00", "8.00", False),
        ("9.00", "9", True),
        ("9.00", "9.0.", True),
        ("9.00", "RM9.00", True),
        ("RM 9.00", "$9.00", True),
        ("9.00", "9.01", False),
        ("9.00", "-9.00", False),
        ("9.00", "9.00%", False),
        ("9.00", "9,00", False),
        ("1,007.50", "1007.5", True),
        ("1,007.50", "1.007,50", False),
        ("0.00", "0", True),
        ("9.00", "nine", False),
        ("9.00", "", False),
        ("nine", "Nine", True),
    ],
)
def test_the_same_amount(gold, said, same):
    assert same_amount(gold, said) is same


def scores(name, examples, answers):
    metric = next(metric for metric in charts.METRICS if metric.name == name)
    return metric.statistics(examples, answers)[:, 0].tolist()


def test_the_best_of_the_accepted_answers_counts():
    for name in ("relaxed_accuracy", "strict_accuracy"):
        assert scores(name, [sample("7", "10"), sample("7", "yes"), sample("7")], ["10.5", "YES", "8"]) == [1, 1, 0]
    assert scores("relaxed_accuracy", [sample(reference="10"), sample(10)], ["10", "10"]) == [1, 1]


def test_exact_value_is_for_dates_and_totals():
    examples = [
        sample("25/12/2018", field="date"),
        sample("9.00", field="total"),
        sample(reference="9.00", field="total"),
        sample("BOOK TA .K", field="company"),
        sample("9.00"),
    ]
    found = scores("exact_value", examples, ["2018-12-25", "RM9", "8.00", "BOOK TA .K", "9.00"])
    assert found[:3] == [1, 1, 0]
    assert numpy.isnan(found[3:]).all()


def test_the_metrics_are_right_or_wrong():
    assert [metric.name for metric in charts.METRICS] == ["relaxed_accuracy", "strict_accuracy", "exact_value"]
    assert all(metric.right_or_wrong and metric.tier == "tier1" and metric.version == 1 for metric in charts.METRICS)
