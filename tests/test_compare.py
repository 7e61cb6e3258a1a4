"""Two sides of the same samples: how much was lost, by which question, and which samples flipped."""

import re
from dataclasses import replace
from types import SimpleNamespace

import numpy
import pytest
from typer.testing import CliRunner

from prism.cli import app
from prism.errors import ScoresError
from prism.metrics import Metric, mean
from prism.report.comparison import closing_sentence
from prism.spec import Limit
from prism.store.seal import seal
from prism.tasks import metrics_of
from prism.verdicts import losses, margins
from prism.verdicts.accepted import FOLDER
from prism.verdicts.compare import compare, differences
from prism.verdicts.drops import Against, _by_seed, against_accepted
from prism.verdicts.gate import decide
from prism.verdicts.scores import Measure, write_scores
from tests.conftest import ROOT
from tests.scored import answers, examples, scored, tiny_spec
from tests.test_gate import record
from tests.test_reference import finished

MEAN = Metric("score", "tier2", lambda *_: numpy.empty(0), mean)


@pytest.fixture
def small(tmp_path):
    return tiny_spec(tmp_path)


def held(old, new, thresholds=1):
    found, without = compare(old, new, metrics_of(new, ROOT), thresholds)
    assert not without
    return found


def with_scores(scores, values, **given):
    """The same samples with a mean of these scores, (seeds, samples), in place of their metrics."""
    statistics = numpy.stack([values, numpy.ones_like(values)], -1)
    seeds = {str(42 + i): float(line.mean()) for i, line in enumerate(values)}
    return replace(
        scores, measures={"score": Measure("tier2", 1, "", float(values.mean()), (0, 1), seeds, statistics)}, **given
    )


def test_one_seed_each_is_mcnemar_over_the_samples_that_flipped(small):
    old, new = (
        scored(small, {42: answers(200, wrong=range(20))}),
        scored(small, {42: answers(200, wrong=range(12, 44))}),
    )
    found = held(old, new, thresholds=4)["accuracy"]
    assert found.question == "these adapters differ"
    assert found.test == margins.Pairs(12, 24, 200)
    known = losses.flips(12, 24, 200, level=1 - 0.1 / 4)
    assert (found.loss.low, found.loss.high) == pytest.approx((known.low, known.high))
    assert found.loss == replace(known, low=found.loss.low, high=found.loss.high, p=found.test.exceeds(0.0))
    assert (found.before, found.after) == (0.9, 0.84)
    assert set(found.worse) == {f"{i:012x}" for i in range(20, 44)}
    assert set(found.better) == {f"{i:012x}" for i in range(12)}
    assert found.alpha == 0.05 / 4
    assert found.loss.p == pytest.approx(losses.mcnemar_midp(12, 24)[0], abs=1e-3)
    assert found.state() == "inconclusive"
    assert replace(found, alpha=0.05).state() == "fails"
    assert replace(found, alpha=0.05).state(limit=0.06) == "inconclusive", "it lost .06"
    assert found.state(limit=0.12) == "holds"
    assert found.rule == "exact at the margin, n = 200, 36 of them differ"


def test_over_seeds_a_sample_flips_by_majority_and_the_surest_come_first(small):
    old = scored(small, {seed: answers(100, wrong=range(90, 100)) for seed in (42, 43, 44)})
    wrong = {42: [0, 1, 2], 43: [1, 2, 90], 44: [2, 91]}
    found = held(old, scored(small, {seed: answers(100, wrong=places) for seed, places in wrong.items()}))["accuracy"]
    names = [f"{i:012x}" for i in range(100)]
    assert found.worse == (names[2], names[1]), "0 was wrong once in three"
    assert set(found.better[:8]) == set(names[92:])
    assert set(found.better[8:]) == {names[90], names[91]}


def test_answers_of_several_seeds_to_one_sample():
    assert _by_seed(["bullish"]) == "bullish"
    assert _by_seed(["neutral", "bullish", "neutral"]) == "neutral (2 of 3); bullish (1 of 3)"
    assert _by_seed(["all", "say", "something else"]) == "all"


def test_a_set_metric_is_tested_by_its_jackknife(small):
    old, new = scored(small, {42: answers(90, wrong=range(9))}), scored(small, {42: answers(90, wrong=range(5, 25))})
    found = held(old, new)["macro_f1"]
    sides = [side.measures["macro_f1"].statistics[0] for side in (old, new)]
    value = next(metric for metric in metrics_of(new, ROOT) if metric.name == "macro_f1").value
    assert found.loss.value == pytest.approx(value(sides[0].sum(0)) - value(sides[1].sum(0)))
    known = losses.difference(*sides, value)
    assert known.p < found.loss.p == pytest.approx(margins._p(known.value, known.error)), (
        "few samples tell its variance"
    )
    assert found.rule == "t over 90.0 effective groups"
    assert found.worse == found.better == (), "F1 is of no single sample"


def test_a_loss_where_lower_is_better_is_a_rise(small):
    old, new = scored(small, {42: answers(60)}), scored(small, {42: answers(60, silent=range(6))})
    found = held(old, new)["unparsable_rate"]
    assert found.loss.value == pytest.approx(0.1)
    assert len(found.worse) == 6
    assert found.state() == "fails"


def test_several_seeds_ask_about_the_recipe(small):
    random = numpy.random.default_rng(0)
    said = {seed: answers(300, wrong=set(random.permutation(300)[:60].tolist())) for seed in range(42, 48)}
    old = scored(small, {seed: said[seed] for seed in range(42, 47)})
    new = scored(small, {47: said[47]})
    found = held(old, new)["accuracy"]
    assert found.question == "this recipe is worse"
    assert found.seeds == (5, 1)
    sides = [side.measures["accuracy"].statistics for side in (old, new)]
    value = next(metric for metric in metrics_of(new, ROOT) if metric.name == "accuracy").value
    assert found.loss.value == pytest.approx(losses.recipes(*sides, value, 0.9, True).value)
    assert found.loss.p == pytest.approx(losses.recipes(*sides, value, 0.9, True).p)
    majority = value(sides[0]).mean(0) > 0.5
    assert set(found.worse) == set(numpy.array(new.ids)[majority & (value(sides[1][0]) == 0)].tolist())


def test_dependent_samples_count_by_group(small):
    """What flips in groups of ten copies is a tenth of the evidence that it seems."""
    alone, grouped = (
        held(
            scored(small, {42: answers(200)}, groups=groups),
            scored(small, {42: answers(200, wrong=range(10))}, groups=groups),
        )["accuracy"].loss.p
        for groups in (0, 10)
    )
    assert alone < 0.002
    assert grouped > 0.1


@pytest.mark.parametrize(
    ("groups", "thresholds", "state"),
    [(2, 1, "inconclusive"), (3, 1, "inconclusive"), (8, 1, "fails"), (8, 12, "fails"), (8, 13, "inconclusive")],
)
def test_a_total_collapse_never_holds(small, groups, thresholds, state):
    """A sign flip of G groups has no p below 2^-G: over fewer groups no loss can be shown at .05/m."""
    n = 10 * groups
    old, new = scored(small, {42: answers(n)}, groups=10), scored(small, {42: answers(n, wrong=range(n))}, groups=10)
    found = held(old, new, thresholds)["accuracy"]
    assert found.loss.value == 1
    assert found.state(0.01) == state
    assert found.can_fail(0.01) == (state == "fails")
    assert found.detectable(0.01) == numpy.inf
    assert found.rule == f"sign flips of {groups} groups"
    assert found.test.within(0.01) == 1, "so few groups never show that there is no loss"


def test_a_total_collapse_of_three_samples_is_not_shown_either(small):
    found = held(scored(small, {42: answers(3)}), scored(small, {42: answers(3, wrong=range(3))}))["accuracy"]
    assert found.state(0.01) == "inconclusive"
    assert not found.can_fail(0.01)
    assert found.rule == "exact at the margin, n = 3"


def test_the_same_training_and_the_same_answers_have_lost_nothing(small):
    said = {42: answers(40, wrong=range(4))}
    rerun = held(scored(small, said), scored(small, said), thresholds=40)["accuracy"]
    assert (rerun.state(0.0), rerun.state(0.01)) == ("holds", "holds")
    assert "the same adapters" in rerun.rule
    retrained = held(scored(small, said), scored(small, said, training={"rows": "ef" * 32}))["accuracy"]
    assert retrained.state(0.01) == "inconclusive", "a loss of .01 shows in 40 samples in a third of runs"
    many = {42: answers(400, wrong=range(4))}
    retrained = held(scored(small, many), scored(small, many, training={"rows": "ef" * 32}))["accuracy"]
    assert retrained.state(0.01) == "holds", "it would show in 400 samples in 98 of 100 runs"


def test_equal_changes_of_few_groups_are_no_proof(small):
    """Without any spread t is infinite; the sign flips of ten groups end at 2^-10."""
    n = 100
    scores = scored(small, {42: answers(n)}, groups=10)
    old, new = with_scores(scores, numpy.full((1, n), 0.5)), with_scores(scores, numpy.full((1, n), 0.4))
    found = compare(old, new, [MEAN])[0]["score"]
    assert found.exceeds(0.01) == 2**-10
    nothing = compare(old, replace(old, training={"rows": "ef" * 32}), [MEAN])[0]["score"]
    assert nothing.loss.standard_error == 0
    assert nothing.within(0.01) == pytest.approx(0.99**10)


def test_one_new_seed_has_an_assumed_spread_and_the_rule_says_so(small):
    random = numpy.random.default_rng(2)
    said = {seed: answers(300, wrong=set(random.permutation(300)[:60].tolist())) for seed in range(42, 52)}
    old = scored(small, {seed: said[seed] for seed in range(42, 47)})
    one = held(old, scored(small, {47: said[47]}))["accuracy"]
    assert one.rule == (
        "t over 300.0 effective groups, the spread of the one new seed assumed to be 2 times that of the 5 accepted ones"
    )
    two = held(old, scored(small, {seed: said[seed] for seed in (47, 48)}))["accuracy"]
    assert two.rule == "t over 300.0 effective groups, 5 and 2 seeds, each side with its own spread"


def test_power_knows_that_a_worse_model_wins_somewhere_too(small):
    """A cached rerun has no flips; the accepted seeds, or answers as if independent, say how many there will be."""
    said = {42: answers(250, wrong=range(50))}
    rerun = held(scored(small, said), scored(small, said))["accuracy"]
    assert rerun.churn == pytest.approx(2 * 0.2 * 0.8 / 249)
    assert rerun.detectable() > 2.4 * rerun.churn**0.5
    one = losses.detectable(0.0, rerun.loss.error, 0.05)
    assert rerun.detectable() > 3 * one, "with the flips of the loss alone"
    several = {seed: answers(250, wrong=range(seed, seed + 50)) for seed in range(42, 47)}
    found = held(scored(small, several), scored(small, several))["accuracy"]
    assert 0 < found.churn < rerun.churn, "the accepted seeds disagree in 2 to 8 answers of 250"


def test_samples_lie_in_any_order_and_only_those_scored_on_both_sides_count(small):
    random = numpy.random.default_rng(1)
    values = random.random((1, 50))
    scores = scored(small, {42: answers(50)})
    old, new = with_scores(scores, values), with_scores(scores, values - 0.1)
    found = compare(old, new, [MEAN])[0]["score"]
    assert found.loss.value == pytest.approx(0.1)
    order = random.permutation(50)
    shuffled = replace(
        old,
        ids=tuple(old.ids[i] for i in order),
        groups=tuple(old.groups[i] for i in order),
        measures={"score": replace(old.measures["score"], statistics=old.measures["score"].statistics[:, order])},
    )
    assert compare(shuffled, new, [MEAN])[0]["score"] == replace(found, same=False)
    old.measures["score"].statistics[0, :20] = numpy.nan
    new.measures["score"].statistics[0, 10:30] = numpy.nan
    assert compare(old, new, [MEAN])[0]["score"].n == 20
    new.measures["score"].statistics[:] = numpy.nan
    assert compare(old, new, [MEAN]) == ({}, {"score": "no sample is scored on both sides"})


def test_sides_that_cannot_be_compared(small):
    old = scored(small, {42: answers(40)})
    with pytest.raises(ScoresError, match=r"different evaluations, with 40 of 40 samples in common"):
        compare(old, scored(small, {42: answers(40)}, evaluation="cd" * 32), metrics_of(old, ROOT))
    strangers = tuple(f"f{name[1:]}" for name in old.ids)
    with pytest.raises(ScoresError, match=r"different evaluations, with 0 of 40 samples in common"):
        compare(old, replace(old, ids=strangers, groups=strangers, evaluation_digest="cd" * 32), metrics_of(old, ROOT))
    with pytest.raises(ScoresError, match=r"the accepted run lacks 40 of 40 samples"):
        compare(old, replace(old, ids=strangers, groups=strangers), metrics_of(old, ROOT))
    with pytest.raises(ScoresError, match=r"the run lacks 10 of 40 samples, first 0+1e"):
        compare(old, scored(small, {42: answers(30)}), metrics_of(old, ROOT))


UNLIKE = {
    "version": ({"version": 2}, "versions 2 and 1, now 1"),
    "judge": ({"judge": "openai:other"}, "judged by openai:other, now by nobody"),
}


@pytest.mark.parametrize(("change", "why"), UNLIKE.values(), ids=UNLIKE)
def test_a_metric_measured_otherwise_is_not_comparable(tmp_path, small, change, why):
    new = scored(small, {42: answers(40)})
    measures = {
        name: replace(measure, **change) if name == "accuracy" else measure for name, measure in new.measures.items()
    }
    write_scores(replace(new, measures=measures), tmp_path / FOLDER / f"{new.name}.json")
    against = against_accepted(tmp_path, new, metrics_of(new, ROOT), 1)
    assert "macro_f1" in against.comparisons
    verdict = decide(Limit(tier="tier1", metric="accuracy", key="drop", value=0.0), record(), against)
    assert verdict.state == "not_comparable"
    assert why in verdict.reason


def test_a_score_that_is_no_number_fails_the_gate(small):
    scores = scored(small, {42: answers(40)})
    broken = replace(MEAN, value=lambda sums: mean(sums) * numpy.nan)
    found, _ = compare(*(with_scores(scores, numpy.ones((1, 40))) for _ in "ab"), [broken])
    limit = Limit(tier="tier1", metric="accuracy", key="drop", value=0.0)
    verdict = decide(limit, record(), Against(comparisons={"accuracy": found["score"]}))
    assert verdict.state == "fails"
    assert "not a number" in verdict.reason


def test_how_the_training_sides_differ(small):
    said = {42: answers(20)}
    old = scored(
        small, said, training={"sft": {"epochs": 2, "packing": False}, "rows": "ab" * 32, "adapters": {"42": "1"}}
    )
    new = scored(small, said, training={"sft": {"epochs": 2, "lr": 1e-3}, "rows": "cd" * 32, "adapters": {"42": "2"}})
    assert differences(old, new) == [
        ("sft.packing", "False", ""),
        ("rows", "abababababab", "cdcdcdcdcdcd"),
        ("sft.lr", "", "0.001"),
    ]


def test_the_command_says_what_was_lost_and_ends_with_exit_code_1(tmp_path, small):
    run = finished(tmp_path, scored(small, {42: answers(100, wrong=range(20))}, training={"rows": "ef" * 32}))
    lines = (
        f'{{"id": "{example.id}", "question": "q\\u001b[31m{i}", "tuned": "said", "reference": "truth"}}\n'
        for i, example in enumerate(examples(100))
    )
    (run / "samples").mkdir()
    (run / "samples" / "phase1-tiny.jsonl").write_text("".join(lines))
    seal(run)
    good = scored(small, {42: answers(100, wrong=range(5))})
    write_scores(good, tmp_path / "good.json")
    ask = ["compare", str(tmp_path / "good.json"), run.name, "--root", str(tmp_path), "--flips", "3"]
    found = CliRunner(env={"COLUMNS": "120"}).invoke(app, ask)
    assert found.exit_code == 1, found.output
    assert "these adapters differ? (1 seed against 1; it speaks of this adapter)" in " ".join(found.output.split())
    assert re.search(
        r"\nWORSE +accuracy +\.950 +\.800 +\+\.150 \[.*\] +\S+e-05 +\.\d+ +15 +0\n",
        found.output,
    )
    assert "tests: exact at the margin, n = 100, 15 of them differ (accuracy)" in " ".join(found.output.split())
    closing = found.output.strip().splitlines()[-1]
    assert closing.startswith("B is worse than A: a loss is shown in phase1/tiny@abababab accuracy by .150")
    assert "knowledge_gain" not in found.output, "it repeats accuracy"
    assert "rows: cdcdcdcdcdcd → efefefefefef" in found.output
    assert "worse by accuracy: 15 samples, 3 of them" in found.output
    assert "'said' · 'truth'" in found.output
    assert "\x1b" not in found.output
    tolerated = CliRunner().invoke(app, [*ask, "--drop", "0.2"])
    assert tolerated.exit_code == 0
    closing = tolerated.output.strip().splitlines()[-1]
    assert re.match(
        r"B is (not worse than A|neither shown to be worse).* a loss of more than 0\.2 is ruled out in", closing
    )
    other_way = CliRunner().invoke(app, ["compare", ask[2], ask[1], *ask[3:]])
    assert other_way.exit_code == 0, "the other way it is a gain"
    assert "any loss is ruled out in" in other_way.output


@pytest.mark.parametrize("columns", [80, 120])
def test_a_comparison_fits_the_terminal_and_begins_with_its_verdict(tmp_path, small, monkeypatch, columns):
    monkeypatch.setenv("COLUMNS", str(columns))
    for name, wrong in {"one": 5, "two": 20}.items():
        write_scores(scored(small, {42: answers(100, wrong=range(wrong))}), tmp_path / f"{name}.json")
    ask = ["compare", str(tmp_path / "one.json"), str(tmp_path / "two.json"), "--flips", "0", "--root", str(tmp_path)]
    table = CliRunner().invoke(app, ask).output.splitlines()[:-2]
    assert max(map(len, table)) <= columns
    assert any(re.match(r"WORSE +accuracy +\.950 +\.800 ", line) for line in table)


def states(**given: int) -> list:
    """Comparisons that are in these states, whatever the limit."""

    def one(state):
        return SimpleNamespace(
            state=lambda _: state,
            is_worse=lambda _: state == "fails",
            metric=SimpleNamespace(name="accuracy"),
            loss=SimpleNamespace(value=0.05),
        )

    return [one(state) for state, n in given.items() for _ in range(n)]


@pytest.mark.parametrize(
    ("found", "drop", "said"),
    [
        (states(holds=3), 0.02, "B is not worse than A: a loss of more than 0.02 is ruled out in all of 3 metrics."),
        (
            states(holds=2, fails=1),
            0.02,
            "B is worse than A: a loss of more than 0.02 is shown in p/s accuracy by .050.",
        ),
        (
            states(holds=2, inconclusive=1),
            0.02,
            (
                "B is neither shown to be worse than A nor shown not to be: a loss of more than 0.02 is ruled out in 2 of 3 "
                "metrics; more rows or seeds decide."
            ),
        ),
        (
            states(inconclusive=1),
            0.0,
            (
                "B is neither shown to be worse than A nor shown not to be: any loss is ruled out in 0 of 1 metric; --drop "
                "names a loss that is tolerated, and more rows or seeds decide."
            ),
        ),
    ],
)
def test_the_last_sentence_says_what_the_comparison_comes_to(found, drop, said):
    assert closing_sentence({"p/s": found}, drop) == said


def test_two_sides_without_a_spec_in_common(tmp_path, small):
    good = scored(small, {42: answers(20)})
    write_scores(good, tmp_path / "one.json")
    write_scores(replace(good, spec="other"), tmp_path / "two.json")
    found = CliRunner().invoke(app, ["compare", str(tmp_path / "one.json"), str(tmp_path / "two.json")])
    assert found.exit_code == 2
    assert "(phase1/tiny) and" in found.output
    assert "no spec in common" in found.output
