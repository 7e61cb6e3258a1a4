"""Answers about filings: how they are read, and what is scored of them. No model."""

import numpy
import pytest

from prism.metrics import finance
from prism.metrics.finance import exact_and_f1, grounded, numbers
from prism.metrics.finance_answers import read_answer
from prism.rows import Example

CONTEXT = (
    "Alder Foods, in millions:\n|  | 2019 | 2018 |\n|---|---|---|\n| Net sales | 412 | 385 |\n| Loss | (12.6) | 4.0 |\n"
    "It sold a plant for $1.25 billion. The tax rate was 8.7%. The segments are Retail and Online."
)


def sample(kind, answer, scale="", reference="", needed=()):
    facts = {"type": kind, "answer": tuple(answer), "scale": scale, "context": CONTEXT}
    return Example("a", (), reference, "g", facts=facts | ({"needed": tuple(needed)} if needed else {}))


READ = {
    '412 million\n"Net sales | 412 | 385"': ("Net sales | 412 | 385", ("412",), "million"),
    "**Answer:** 412 million\n**Evidence:** Net sales | 412": ("Net sales | 412", ("412",), "million"),
    "Sales stand in the first row.\nFinal answer: 412": ("", ("412",), ""),
    '412\n"The "Alder" brand"': ('The "Alder" brand', ("412",), ""),
    '"Net sales | 412 | 385"\n412 million': ("Net sales | 412 | 385", ("412",), "million"),
    '"Net sales | 412 | 385" 412 million': ("Net sales | 412 | 385", ("412",), "million"),
    "Evidence: Net sales | 412 | 385\nAnswer: 412 million.": ("Net sales | 412 | 385", ("412",), "million"),
    'Evidence: "Net sales | 412"\n\n**Answer:** 412 (in millions)': ("Net sales | 412", ("412",), "million"),
    "“Net sales | 412” – 412 million": ("Net sales | 412", ("412",), "million"),
    "The segments are: Retail; Online": ("", ("The segments are: Retail", "Online"), ""),
    "- Retail\n- Online": ("", ("Retail", "Online"), ""),
    "Answer: 8.7%": ("", ("8.7%",), ""),
    "8.7 percent": ("", ("8.7",), "percent"),
    "`412 million`": ("", ("412",), "million"),
    "The answer is **412 million**.": ("", ("412",), "million"),
    "US$412 mn": ("", ("$412",), "million"),
    "−12.6 million": ("", ("-12.6",), "million"),
    "several million": ("", ("several million",), ""),
    '"Retail"': ("", ('"Retail"',), ""),  # a quoted answer alone is the answer
    'the "Alder" brand': ("", ('the "Alder" brand',), ""),
    "": ("", (), ""),
    '"': ("", ('"',), ""),
}


@pytest.mark.parametrize(("answer", "expected"), READ.items())
def test_reading(answer, expected):
    said = read_answer(answer)
    assert (said.quote, said.spans, said.scale) == expected
    assert not said.abstains


@pytest.mark.parametrize(
    ("answer", "abstains"),
    [
        ("not stated", True),
        ("Not stated.", True),
        ("The report does not say.", True),
        ('"Net sales | 412"\nnot stated', True),
        ("It cannot be determined from the report.", True),
        ("Answer: not disclosed", True),
        ("The report does not state net sales for 2017.", True),
        ("The report doesn’t state it", True),
        ("Not stated in the 10-K for 2019.", True),
        ("N/A", True),
        ("There is no information on this.", True),
        ("It is not in the report.", True),
        ("not stated, but about 412", False),  # who names a number has not abstained
        ("none", True),
        ("I don't know.", True),
        ("Unknown", True),
        ("It can’t be determined from the table for December 31, 2018.", True),
        ("There is not enough information to answer.", True),
        ("The filing includes no such figure, see note 4.", True),
        ("I cannot find that in the report.", True),
        ("not explicitly stated", True),
        ("The report doesn't say, but it is twelve million", False),
        ("no data breaches", False),
        ("The plan does not vest", False),
        ("412", False),
    ],
)
def test_abstaining(answer, abstains):
    assert read_answer(answer).abstains is abstains


FIGURES = {
    ("1.2", "billion"): ["$1.2bn", "1.2B", "1,200 million", "$1,200M", "1.2 billion dollars", '{"answer": "1.2", "scale": "billion"}'],
    ("1,234", "million"): ["$1,234m", "1,234mm", "1 234 million", "1\u00a0234 million", "<think>\n9?\n</think>\n\n1,234 million"],
    ("12.5", "percent"): ["12.5 per cent", "12.5 pct", "1,250 basis points", "an increase of 12.5%", "12.5% increase"],
    ("-12.6", "million"): ["–12.6 million", "($12.6) million", "($12.6 million)", "minus 12.6 million", "a loss of 12.6 million"],
    ("25", "thousand"): ["25k", "$25K", "25,000"],
    ("412", ""): ["412 dollars", "US$412", "$ 412"],
    ("12.5", "percent", "by steps"): ["$450 - $400 = $50; $50 / $400 = 12.5%"],
    ("$3.0 million", "million"): ["$3.0 million", "$3.0 million million", "3 million"],
    ("5 bps", ""): ["5 bps"],
}  # fmt: skip


@pytest.mark.parametrize(("gold", "answer"), [(gold, said) for gold, answers in FIGURES.items() for said in answers])
def test_a_figure_is_read_however_it_is_written(gold, answer):
    assert exact_and_f1(sample("arithmetic" if len(gold) > 2 else "span", gold[:1], gold[1]), answer)[0] == 1


@pytest.mark.parametrize("answer", ["12.6 million", "about -12.6 million", "-12.6", "12,6 million", "-12.6 thousand"])
def test_another_figure_is_not(answer):
    assert exact_and_f1(sample("span", ["-12.6"], "million"), answer)[0] == 0


def test_spans_in_other_lists():
    gold = sample("multi-span", ["Retail", "Online"])
    said = ["Retail, Online", "Online, and Retail", '["Retail", "Online"]', "- Retail\n- Online", "Retail and Online"]
    assert [exact_and_f1(gold, answer)[0] for answer in said] == [1, 1, 1, 1, 0]


@pytest.mark.parametrize(
    "gold", ["the Company’s “net” sales", "US$ 1,234", "−12.6", "the `A` shares", "–5", "USD 7", "($12.6)"]
)
def test_a_gold_answer_said_verbatim_is_right(gold):
    assert exact_and_f1(sample("span", [gold]), gold) == (1, 1)
    assert exact_and_f1(sample("span", [gold], "million"), f"{gold} million") == (1, 1)


@pytest.mark.parametrize("gold", ["not available", "The Company does not provide pensions", "None"])
def test_a_gold_answer_that_reads_as_an_abstention_is_none(gold):
    example = sample("span", [gold])
    assert exact_and_f1(example, gold) == (1, 1)
    assert exact_and_f1(example, "not stated") == (0, 0)
    examples = [example, sample("unanswerable", ["not stated"])]
    assert value("abstention_precision", examples, [gold, "not stated"]) == (1, 2)


def test_a_calculation_is_rounded_once():
    for gold, said in {
        "-25.83": "(19218 - 25909) / 25909 * 100",
        "2.49": "(2.25 + 2.72) / 2",
        "35.39": "(20.02 + 50.77) / 2",
    }.items():
        assert exact_and_f1(sample("arithmetic", [gold], "percent"), f"{said} percent")[0] == 1
    assert exact_and_f1(sample("arithmetic", ["-25.82"], "percent"), "(19218 - 25909) / 25909 * 100 percent")[0] == 0
    assert exact_and_f1(sample("arithmetic", ["23.42"], "percent"), "2342 / 10000")[0] == 1


SCORED = {
    "a calculation": (sample("arithmetic", ["27"], "million"), "412 - 385 million", 1, 0),
    "a calculation and its result": (sample("arithmetic", ["27"], "million"), "412 - 385 = 27 million", 1, 1),
    "a right calculation, a wrong result": (sample("arithmetic", ["27"], "million"), "412 - 385 = 37 million", 1, 0),
    "a result alone": (sample("arithmetic", ["27"], "million"), "27 million", 1, 1),
    "the wrong way round": (sample("arithmetic", ["27"], "million"), "385 - 412 million", 0, 0),
    "the wrong scale": (sample("arithmetic", ["27"], "million"), "412 - 385 thousand", 0, 0),
    "percent": (sample("arithmetic", ["7.01"], "percent"), "(412 - 385) / 385 * 100 percent", 1, 0),
    "a ratio for a percentage": (sample("arithmetic", ["7.01"], "percent"), "(412 - 385) / 385", 1, 0),
    "a range": (sample("span", ["3 - 5"], "million"), "3 - 5 million", 1, 1),
    "division by zero": (sample("arithmetic", ["27"], "million"), "412 / 0 million", 0, 0),
    "an endless expression": (sample("arithmetic", ["27"], "million"), "9 ** 9 ** 9 ** 9 million", 0, 0),
    "a number in another locale": (sample("span", ["1,234.56"]), "1.234,56", 0, 0),
    "rightly abstained": (sample("unanswerable", ["not stated"]), "not stated", 1, 1),
    "should have abstained": (sample("unanswerable", ["not stated"]), "412 million", 0, 0),
    "should not have": (sample("span", ["412"], "million"), "not stated", 0, 0),
    "nothing": (sample("span", ["412"], "million"), "", 0, 0),
}


@pytest.mark.parametrize(("example", "answer", "calculated", "written"), SCORED.values(), ids=SCORED)
def test_exact_match_with_and_without_the_calculator(example, answer, calculated, written):
    assert exact_and_f1(example, answer)[0] == calculated
    assert exact_and_f1(example, answer, calculator=False)[0] == written


def test_exact_match_without_scale():
    metric = next(metric for metric in finance.TIER1 if metric.name == "exact_match_without_scale")
    gold = sample("span", ["412"], "million")
    said = ["412 million", "412", "412 thousand", "413", "not stated", "0.412 billion", ""]
    assert metric.statistics([gold] * len(said), said)[:, 0].tolist() == [1, 1, 1, 0, 0, 1, 0]


GROUNDED = {
    "412 million": (1, 1),
    "413 million": (0, 1),
    "0.412 billion": (1, 1),  # the table's scale stands in a caption
    "12.6": (1, 1),
    "-13": (1, 1),  # rounded, with its sign
    "1,250 million": (1, 1),
    "1.3 billion": (1, 1),
    "1.25 million": (0, 1),  # the context says billion
    "8.7%": (1, 1),
    "0.087": (1, 1),
    "2019": (1, 1),
    "20.2": (0, 1),  # a year is nobody's 20.19 hundred
    "0 million": (0, 1),  # nor does what rounds to nothing stand there
    "412 - 385 million": (2, 2),
    "412 - 384 million": (1, 2),
    "(412 + 385) / 2": (3, 3),
    "(412 + 385) / 3": (2, 3),
    "(412 - 385) / 385 * 100 percent": (4, 4),
    "412 - 385 = 27": (3, 3),
    "(412 - 385) / 385 = 0.07": (4, 4),
    "412 - 385 = 28": (2, 3),
    "27": (0, 1),  # it follows, but by no stated operation
    '"Net sales | 999"\n412 million': (1, 1),  # the quotation is evidence_overlap's
}


@pytest.mark.parametrize(("answer", "expected"), GROUNDED.items())
def test_number_grounding(answer, expected):
    """Every number is asked for here: the reference is all that the context says."""
    assert grounded(sample("span", ["412"], "million", reference=f'412 million\n"{CONTEXT}"'), answer) == expected


ASKED = {
    "412 million": (1, 1),
    "385 million": (1, 1),  # the wrong year of the right row
    '12.6 million\n"Loss | (12.6) | 4.0"': (0, 1),  # stands in the filing, was not asked for
    "412 - 4.0 million": (1, 2),
    "not stated": (0, 1),  # silence earns nothing
    "Net sales": (0, 1),
    "": (0, 1),
}


@pytest.mark.parametrize(("answer", "expected"), ASKED.items())
def test_a_figure_that_nobody_asked_for_is_not_grounded(answer, expected):
    asked = sample("span", ["412"], "million", reference='412 million\n"Net sales | 412 | 385"')
    assert grounded(asked, answer) == expected


def test_numbers_of_a_right_answer_are_grounded_in_whatever_row():
    asked = sample("arithmetic", ["8.6"], "million", reference="8.6 million")
    assert grounded(asked, "12.6 - 4.0 million") == (2, 2)
    assert grounded(asked, "12.6 - 8.7 million") == (0, 2)


def test_nothing_is_grounded_where_the_filing_has_no_answer():
    asked = sample("unanswerable", ["not stated"], reference="not stated")
    assert grounded(asked, "412 million") == (0, 1)
    assert grounded(asked, "not stated") == grounded(asked, "Retail") == (0, 0)


def test_numbers_of_a_text():
    found = numbers("Sales of $1,234.5 million rose 8.7% from (12) in Q3 2018 to 1.234,56 and 2,5; FY19")
    assert [(n.value, n.factor) for n in found] == [(1234.5, 1e6), (8.7, 0.01), (12, 1), (2018, 1)]


EVIDENCE = {
    '"Net sales | 412 | 385"\n412 million': 1,
    '"net sales 412 385"\n412 million': 1,
    '"| Net sales | 412 | 385 |"\n412 - 385 million': 1,
    '"Net sales | 412 | 385"\n(412 + 385) / 2 million': 1,
    '"Net sales | 412 | 385"\n2019': 1,  # a column's head stands in no row
    '"Net sales | 412 | 385"\n413 million': 0,
    '"Net sales | 412 | 385"\n412 - 9 million': 0.5,
    '"Net sales | 413 | 385"\n413 million': 0,  # no such row
    '"Loss | (12.6) | 4.0"\n12.6 million': 0,  # such a row, which nobody asked for
    '"Loss | (12.6) | 4.0"\n412 million': 0,
    '"Net sales | 412 | 385 | | Loss | (12.6) | 4.0"\n412 million': 1,  # seven words, where the reference quotes four
    '"| 2019 | 2018 |"\n2019': 0,
    '"et sales"\n412': 0,
    "412 million": 0,
    "not stated": 0,
}


@pytest.mark.parametrize(("answer", "score"), EVIDENCE.items())
def test_evidence_overlap(answer, score):
    asked = sample("span", ["412"], "million", reference='412 million\n"Net sales | 412 | 385"')
    assert finance.evidence_overlap(asked, answer) == score


def test_the_whole_filing_is_no_quotation():
    asked = sample("span", ["412"], "million", reference='412 million\n"Net sales | 412 | 385"')
    words = len(finance._plain(CONTEXT).split())
    assert finance.evidence_overlap(asked, f'412 million\n"{" ".join(CONTEXT.split())}"') == pytest.approx(8 / words)


def test_a_calculation_needs_all_its_numbers_in_the_quotation():
    reference = '412 - 385 million\n"Net sales | 412 | 385"'
    asked = sample("arithmetic", ["27"], "million", reference=reference, needed=["412", "385"])
    assert finance.evidence_overlap(asked, reference) == 1
    assert finance.evidence_overlap(asked, '412 million\n"Net sales | 412"') == 0.5


def test_a_count_need_not_stand_in_its_evidence_which_holds_what_is_counted():
    sentence = "The segments are Retail and Online."
    asked = sample("count", ["2"], reference=f'2\n"{sentence}"', needed=["Retail", "Online"])
    assert finance.evidence_overlap(asked, f'"{sentence}"\n2') == 1
    assert finance.evidence_overlap(asked, '"The tax rate was 8.7%."\n2') == 0


def test_without_evidence_in_the_reference_a_quotation_is_unscored():
    unknown = sample("span", ["412"], "million", reference="412 million")
    assert value("evidence_overlap", [unknown], ['412\n"Net sales | 412 | 385"'])[1] == 0


def value(name, examples, answers):
    metric = next(metric for metric in (*finance.TIER1, *finance.TIER2) if metric.name == name)
    rows = metric.statistics(examples, answers)
    return float(metric.value(numpy.nansum(rows, axis=0))), int((~numpy.isnan(rows).any(1)).sum())


def test_abstention_by_hand():
    examples = [sample("unanswerable", ["not stated"])] * 3 + [sample("span", ["412"])] * 4
    answers = ["not stated", "not stated", "412", "not stated", "412", "412", "411"]
    assert value("abstention_precision", examples, answers) == (pytest.approx(2 / 3), 7)
    assert value("abstention_recall", examples, answers) == (pytest.approx(2 / 3), 7)
    assert value("abstention_f1", examples, answers) == (pytest.approx(2 / 3), 7)
    assert value("exact_match", examples, answers) == (pytest.approx(4 / 7), 7)
    assert value("exact_match_span", examples, answers) == (0.5, 4)
    assert value("context_gain", examples, answers) == (0.5, 4)


def test_where_every_question_has_an_answer_abstention_is_unscored_and_not_zero():
    assert value("abstention_f1", [sample("span", ["412"])], ["412"])[1] == 0
