"""The simulation of verdicts: its answers have the truth that it says, and a known-bad method is shown as a miss."""

from dataclasses import replace

import numpy
import pytest

from benchmarks.simulation import coverage, measure, tables
from benchmarks.simulation.answers import Cell, metric, rate_of, simulate, truth
from benchmarks.simulation.measure import Figure, covers


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
    """The harness sees a known-bad interval: the same run's coverages without it all reach their target."""
    question = replace(coverage.COVERAGE, rows=[])
    row = ("continuous", Cell(150))
    table = question.tables[0]
    honest = [question.line(row, 60)[0]]
    assert tables.misses(table, honest) == []

    def narrow(*arguments):
        return covers_of(*arguments)

    original = measure.covers

    def covers_of(ci, true, widest):
        middle, half = (ci[0] + ci[1]) / 2, (ci[1] - ci[0]) / 4
        return original((middle - half, middle + half), true, widest)

    monkeypatch.setattr(measure, "covers", narrow)
    dishonest = [question.line(row, 60)[0]]
    found = tables.misses(table, dishonest)
    assert found
    assert "scores continuous, n 150" in found[0]
    assert "✗" in tables.markdown(table, dishonest)
