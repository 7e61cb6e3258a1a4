"""The simulation of verdicts: its answers have the truth that it says, and a known-bad method is shown as a miss."""

from dataclasses import replace

import numpy
import pytest

from benchmarks.simulation import coverage, measure, references, tables
from benchmarks.simulation.__main__ import missed, report
from benchmarks.simulation.answers import Cell, metric, rate_of, simulate, truth
from benchmarks.simulation.measure import (
    Figure,
    alarms,
    at_alpha,
    compared,
    comparisons,
    covers,
    stated,
    states,
    verdict,
)
from benchmarks.simulation.questions import QUESTIONS
from prism.verdicts import scoring
from prism.verdicts.compare import Comparison


def random() -> numpy.random.Generator:
    return numpy.random.default_rng(7)


@pytest.mark.parametrize(
    ("kind", "rate"),
    [("right/wrong", 0.02), ("continuous", 0.9), ("many zeros", 0.1), ("many zeros", 0.98), ("F1", 0.5)],
)
def test_simulated_answers_have_the_stated_truth(kind, rate):
    cell = Cell(40_000, kind, rate)
    loss = 0.01
    old, new = simulate(cell, 1, random(), loss)
    value = metric(kind).value
    assert value(old[0, 0].sum(0)) == pytest.approx(truth(kind, rate), abs=0.01)
    assert value(old[0, 0].sum(0)) - value(new[0, 0].sum(0)) == pytest.approx(loss, abs=0.007)


def test_equal_models_disagree_as_often_as_the_churn_says():
    cell = Cell(100_000, rate=0.75, churn=0.36)
    old, new = simulate(cell, 1, random())
    assert (old[0, 0, :, 0] != new[0, 0, :, 0]).mean() == pytest.approx(2 * 0.75 * 0.25 * 0.36, abs=0.005)


def test_seeds_of_a_recipe_differ_by_its_spread():
    cell = Cell(20_000, seeds=(40, 40), spreads=(0.0, 0.05))
    old, new = simulate(cell, 1, random())
    same, apart = (side[0, :, :, 0].mean(1).std() for side in (old, new))
    assert same < 0.005
    assert apart == pytest.approx(0.05, abs=0.015)


def test_samples_of_a_group_are_alike():
    cell = Cell(6_000, rate=0.5, groups=2_000)
    old, _ = simulate(cell, 1, random())
    first, second = old[0, 0, :, 0].reshape(2_000, 3)[:, :2].T
    assert numpy.corrcoef(first, second)[0, 1] == pytest.approx(0.3, abs=0.06)


@pytest.mark.parametrize(("sizes", "low", "high"), [("equal", 99.9, 100.1), ("lognormal", 35, 60), ("Zipf", 10, 30)])
def test_groups_have_the_samples_and_the_inequality_that_are_asked_for(sizes, low, high):
    cell = Cell(500, groups=100, sizes=sizes)
    assert cell.counts.sum() == 500
    assert cell.counts.min() >= 1
    assert low < cell.effective < high
    assert len(set(cell.names)) == 100


def test_the_rate_of_a_value_is_the_inverse_of_the_truth():
    assert truth("F1", rate_of("F1", 0.4)) == pytest.approx(0.4)


def test_an_interval_without_knowledge_is_no_miss():
    assert numpy.isnan(covers((float("nan"), float("nan")), 0.5, (0, 1)))
    assert numpy.isnan(covers((0.0, 1.0), 0.5, (0, 1)))
    assert numpy.isnan(covers((-numpy.inf, numpy.inf), 0.5, (0, 1)))
    assert covers((0.4, 0.6), 0.5, (0, 1)) == 1
    assert covers((0.4, 0.6), 0.7, (0, 1)) == 0
    assert str(Figure.share([numpy.nan, numpy.nan], (93, 100))) == "unknown"
    assert str(Figure.share([1, 1, 1, numpy.nan], (93, 100))) == "100.0 (25 % unknown)"


@pytest.mark.parametrize(("percent", "misses"), [(5.0, False), (5.9, False), (6.1, True)])
def test_a_miss_is_beyond_two_standard_errors(percent, misses):
    assert Figure(percent, 2_000, (0.0, 5.0)).misses is misses


def test_intervals_of_half_the_width_are_shown_as_misses(monkeypatch):
    row, table = ("continuous", Cell(150)), coverage.COVERAGE.tables[0]
    honest = [coverage.COVERAGE.line(row, 120)[0]]
    assert tables.misses(table, honest) == []

    def halved(*arguments):
        return [
            replace(
                record, tuned=replace(record.tuned, ci=tuple((end + record.tuned.value) / 2 for end in record.tuned.ci))
            )
            for record in scoring.score(*arguments)
        ]

    monkeypatch.setattr(measure, "score", halved)
    dishonest = [coverage.COVERAGE.line(row, 120)[0]]
    found = tables.misses(table, dishonest)
    assert len(found) == 6  # every rate, and their mean
    assert found[0].startswith("scores continuous, n 150; at .02: ")
    assert found[0].endswith(", wanted at least 93")
    shown = tables.markdown(table, dishonest)
    assert shown.count("✗") == 6
    assert all(f"- {miss}" in shown for miss in found)
    assert "6 misses" in report({"coverage": [coverage.COVERAGE.line(row, 120)]}, "command", "120 runs", "no time", 0)


def test_four_times_the_alarms_are_shown_as_misses(monkeypatch):
    cell = Cell(150, "continuous", 0.2)

    def rates() -> list[bool]:
        return [f.misses for f in alarms(list(comparisons(cell, 400, random(), 0.0)), 0.0, (0.0, 5.0), (1, 8))]

    assert rates() == [False, False]
    monkeypatch.setattr(Comparison, "is_worse", lambda self, drop: self.exceeds(drop) <= 4 * self.alpha)
    assert rates() == [True, True]


def test_a_loss_of_f1_is_caught_as_often_as_is_stated():
    """F1 of a set is lost by flips as accuracy is, and its variance grows with them: without that 64 % were caught."""
    cell = Cell(150, "F1")
    loss = stated(cell, random(), 0.01, 1, 100)
    said = states(comparisons(cell, 400, random(), loss), 0.01, 1)
    assert (said == "fails").mean() >= 0.78


@pytest.mark.parametrize(
    "cell",
    [
        Cell(60),
        Cell(300, "continuous", 0.2, groups=40, sizes="Zipf"),
        Cell(200, groups=6),
        Cell(100, "F1", seeds=(3, 1), spreads=(0.01, 0.01)),
    ],
    ids=str,
)
def test_the_gate_says_the_state_that_the_simulation_counts(cell):
    against = compared(cell, *simulate(cell, 12, random(), 0.1), 8)
    found = list(against.comparisons.values())
    by_gate = [verdict(cell, comparison, against, 0.02).state for comparison in found]
    assert by_gate == states(found, 0.02, 8).tolist()


def test_a_comparison_is_decided_at_other_levels_as_if_it_had_been_made_for_them():
    cell = Cell(400, rate=0.7)
    sides = simulate(cell, 40, random(), 0.1)
    alone = list(compared(cell, *sides).comparisons.values())
    among = list(compared(cell, *sides, 40).comparisons.values())
    said = states(alone, 0.0, 40).tolist()
    assert said == [one.state(0.0) for one in among]
    assert said != [one.state(0.0) for one in alone]
    assert [at_alpha(one, 40).alpha for one in alone] == [one.alpha for one in among]


def test_a_row_with_a_miss_is_known_to_be_measured_again():
    (line,) = coverage.FEW_GROUPS.line(coverage.FEW[0], 40)
    assert not missed("few", (line,))
    wrong = tables.Line(line.labels, (Figure(50.0, 400, (93.0, 100.0)), *line.entries[1:]))
    assert missed("few", (wrong,))


def test_a_line_depends_on_its_row_alone():
    row = references.PICKED.rows[0]
    first = references.PICKED.line(row, 10)
    references.PICKED.line(references.PICKED.rows[1], 10)
    assert references.PICKED.line(row, 10) == first


def test_the_best_of_five_runs_raises_more_alarms_than_a_fresh_one():
    line = references.PICKED.line(references.Kept(Cell(500, "continuous", 0.2), 1, 0.0), 300)[0]
    first, best, fresh = line.entries
    assert best.percent > 2 * max(first.percent, fresh.percent)


def test_every_row_has_a_name_of_its_own():
    for question in QUESTIONS.values():
        assert len({str(row) for row in question.rows}) == len(question.rows)
