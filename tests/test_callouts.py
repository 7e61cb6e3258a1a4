"""What stands under the headline although the gate passes: found in records and details, and shown by every report."""

import math
import re
from dataclasses import replace

import pytest

from prism import report
from prism.metrics import Metric
from prism.metrics.patterns import NONE
from prism.report import callouts as shown
from prism.report import terminal
from prism.rows import Prediction
from prism.verdicts.callouts import OF_A_KIND, SHOWN, found
from prism.verdicts.record import Control, Score, from_json, to_json
from tests.test_report import answered, made_up_run, record, sentiment

ACCURACY = Metric("accuracy", "tier1", lambda examples, answers: None)
ANSWERS = [Prediction(str(i), "", 1, "stop") for i in range(504)]


def find(records=(), details=None, untuned=ANSWERS, tuned=ANSWERS):
    return found(records, details or {}, [ACCURACY], untuned, tuned)


def patterns(**counts):
    return {"failures": {"patterns": [{"pattern": p, "baseline": b, "tuned": t} for p, (b, t) in counts.items()]}}


def test_a_pattern_that_rose_or_is_in_most_answers_is_called_out_and_one_within_chance_is_not():
    told = patterns(hallucinates=(182, 430), verbose=(300, 310), empty=(10, 14), **{NONE: (0, 504)})
    said = [(c["kind"], c["about"], c["before"], c["after"], c["n"]) for c in find(details=told)]
    assert said == [("pattern stays", "verbose", 300, 310, 504), ("pattern rose", "hallucinates", 182, 430, 504)]
    assert find(details=patterns(hallucinates=(430, 182), empty=(10, 14))) == []


def test_a_class_that_is_mostly_missed_or_fell_is_called_out():
    before = answered([[100, 0, 0, 0], [0, 100, 0, 0], [0, 0, 60, 0]])
    after = answered([[95, 5, 0, 0], [40, 60, 0, 0], [30, 14, 16, 0]])
    told = {"answers": {"baseline": before, "tuned": after}}
    assert [(c["kind"], c["about"]) for c in find(details=told)] == [
        ("recall fell", "bearish"),
        ("recall fell", "bullish"),
    ]
    low = find(details={"answers": {"baseline": after, "tuned": after}})
    assert [(c["kind"], c["about"], round(c["after"], 3)) for c in low] == [("recall low", "bearish", 0.267)]
    few = answered([[9, 0, 0, 0], [0, 9, 0, 0], [1, 1, 1, 0]])
    assert find(details={"answers": {"baseline": few, "tuned": few}}) == [], "one of three is no finding"


def test_a_metric_whose_interval_lies_below_its_baseline_is_called_out_in_either_direction():
    worse = record(
        "f1", baseline=Score(0.5, (0.4, 0.6)), tuned=Score(0.4, (0.3, 0.5)), gain=Score(-0.1, (-0.15, -0.05))
    )
    rate = record("unparsable_rate", direction="lower", gain=Score(0.2, (0.1, 0.3)))
    chance = record("rougeL", gain=Score(-0.1, (-0.3, 0.1)))
    better = record("unparsable", direction="lower", gain=Score(-0.2, (-0.3, -0.1)))
    cost = record("seconds", tier="cost", gain=Score(-0.2, (-0.3, -0.1)))
    said = find([worse, rate, chance, better, cost])
    assert [(c["about"], c["size"]) for c in said] == [("unparsable_rate", 0.2), ("f1", 0.1)], "worst first"
    assert said[0]["ends"] == (-0.3, -0.1)


def test_more_answers_that_are_cut_off_are_called_out_once():
    cut = [replace(prediction, finish="length") for prediction in ANSWERS[:100]] + ANSWERS[100:]
    assert [(c["kind"], c["after"]) for c in find(tuned=cut)] == [("cut off", 100)]
    assert find(untuned=cut) == []
    both = find(details=patterns(truncated=(0, 100)), tuned=cut)
    assert [c["kind"] for c in both] == ["pattern rose"], "the pattern says it already"


def test_a_classical_control_that_is_not_beaten_and_a_contender_that_is_ahead_are_called_out():
    behind = Control(0.75, (0.7, 0.8), Score(-0.01, (-0.04, 0.02)))
    beaten = Control(0.6, (0.5, 0.7), Score(0.1, (0.05, 0.15)))
    first = record(controls={"classical": behind})
    met = {"contenders": {"contenders": [{"name": "echo", "values": {"accuracy": 0.9, "macro_f1": 1.0}, "passes": ()}]}}
    said = find([first, record("macro_f1", controls={"classical": behind})], met)
    assert [(c["kind"], c["about"], c["other"]) for c in said] == [
        ("contender", "accuracy", "echo"),
        ("classical", "accuracy", "classical"),
    ], "a set's F1 has no score a sample"
    assert find([record(controls={"classical": beaten})]) == []


def test_at_most_five_are_shown_and_two_of_a_kind():
    falls = [record(f"metric {i}", gain=Score(-0.01 * i, (-0.5, -0.001))) for i in range(1, 9)]
    told = patterns(**{f"p{i}": (0, 100 + i) for i in range(8)})
    table = answered([[9, 90, 0, 0], [90, 9, 0, 0], [60, 30, 10, 0]])
    told |= {"answers": {"baseline": table, "tuned": table}}
    said = find(falls, told)
    assert len(said) == SHOWN
    assert sum(c["kind"] == "metric" for c in said) <= OF_A_KIND
    assert [c["size"] for c in said] == sorted((c["size"] for c in said), reverse=True)


CALLED = {
    "kind": "pattern rose",
    "about": "hallucinates",
    "before": 182,
    "after": 430,
    "size": 0.49,
    "n": 504,
    "ends": None,
    "other": "",
}
MET = {
    "thresholds": ["tier1-accuracy-floor", "tier1-accuracy-gain"],
    "contenders": [
        {
            "name": "nearest <b>answer",
            "values": {"accuracy": 0.61, "weighted_f1": math.nan},
            "passes": ["tier1-accuracy-floor"],
        },
        {"name": "question echo", "values": {"accuracy": 0.0}, "passes": []},
    ],
}


@pytest.mark.parametrize("all_pass", [False, True])
def test_findings_and_contenders_stand_in_markdown_html_and_terminal(tmp_path, all_pass):
    met = MET
    if all_pass:
        first, *others = MET["contenders"]
        met = MET | {"contenders": [first | {"passes": MET["thresholds"]}, *others]}
    result = sentiment()
    result = replace(result, details=result.details | {"callouts": [CALLED], "contenders": met})
    run = made_up_run(results=(from_json(to_json(result)),))
    report.write(tmp_path, run, {})
    markdown = (tmp_path / "report.md").read_text(encoding="utf-8")
    html = (tmp_path / "report.html").read_text(encoding="utf-8")
    told = "more answers fail as “hallucinates”: 182 → 430 of 504 answers"
    assert markdown.index(told) < markdown.index("## phase1"), "under the headline"
    assert html.index(told) < html.index("<main")
    screen = " ".join("\n".join(terminal.lines(run)).split())
    assert told in screen
    passes = "This gate asks for no knowledge: nearest &lt;b&gt;answer would pass it"
    nearest = "No know-nothing contender passes this gate; the nearest: nearest &lt;b&gt;answer, 1 of 2"
    for page in (markdown, html):
        assert (passes in page) is all_pass
        assert (nearest in page) is not all_pass
        assert "<b>answer" not in page
        assert re.search(r"question echo\W.*?\.000.*?0 of 2", page, re.DOTALL), "the folded table"
    assert ("would pass it" in screen) is all_pass


def test_several_specs_share_five_lines_and_each_keeps_its_own():
    results = tuple(
        replace(sentiment(spec=f"s{i}"), details={"callouts": [CALLED | {"size": i / 10}]}, records=())
        for i in range(7)
    )
    run = made_up_run(results=results)
    lines = shown.of_run(run)
    assert [line.partition(":")[0] for line in lines] == [f"phase1/s{i}" for i in (6, 5, 4, 3, 2)]
    assert len(shown.of_spec(results[0], run)) == 1
    assert shown.of_spec(results[0], made_up_run(results=results[:1])) == [], "it stands under the headline"


@pytest.mark.parametrize(
    ("kind", "sentence"),
    {
        "metric": "f1 x is worse than the baseline: .500 → .400, ahead by [−.150, −.050]",
        "pattern stays": "most answers fail as “f1 x”: 0 → 0 of 9 answers",
        "recall fell": "the recall of f1 x fell: .500 → .400 (n = 9)",
        "recall low": "most of f1 x is missed: recall .500 → .400 (n = 9)",
        "cut off": "more answers are cut off at max_new_tokens: 0 → 0 of 9 answers",
    }.items(),
)
def test_each_kind_has_its_sentence(kind, sentence):
    called = {"kind": kind, "about": "f1 x", "before": 0.5, "after": 0.4, "size": 0.1, "n": 9, "other": ""}
    result = replace(sentiment(), details={"callouts": [called | {"ends": [-0.15, -0.05]}]})
    assert shown.of_run(made_up_run(results=(result,))) == [f"phase1/nano: {sentence}"]


def test_the_sentences_about_others_name_them():
    called = {"about": "accuracy", "before": 0.5, "after": 0.4, "size": 0.1, "n": 9, "ends": [-0.2, 0.1]}
    kinds = (("metric", "label_likelihood"), ("classical", "classical"), ("contender", "question echo"))
    said = [called | {"kind": kind, "other": other} for kind, other in kinds]
    result = replace(sentiment(), details={"callouts": said})
    assert [line.removeprefix("phase1/nano: ") for line in shown.of_run(made_up_run(results=(result,)))] == [
        "accuracy is below label likelihood: .400 against .500, ahead by [−.200, +.100]",
        "not shown to beat the classical control by accuracy: .400 against .500, ahead by [−.200, +.100]",
        "question echo, which knows nothing, is ahead by accuracy: this adapter .400 against .500",
    ]
