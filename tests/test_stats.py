"""Intervals against scipy's, and against what they promise."""

import numpy
import pytest
import scipy.stats

from prism.stats import Estimate, bca, group_sums, over_seeds, resampled_sums, wilson


def mean(sums):
    return sums[..., 0] / sums[..., 1]


def columns(values):
    return numpy.stack([values, numpy.ones(len(values))], axis=1)


def test_bca_equals_scipys():
    values = numpy.random.default_rng(0).exponential(size=120)  # skewed, so that bias and acceleration matter
    sums = columns(values)
    found = bca(sums, resampled_sums(sums, 20_000), mean)
    known = scipy.stats.bootstrap((values,), numpy.mean, n_resamples=20_000, rng=1, method="BCa")
    assert found.value == pytest.approx(values.mean())
    width = known.confidence_interval.high - known.confidence_interval.low
    assert found.low == pytest.approx(known.confidence_interval.low, abs=0.02 * width)
    assert found.high == pytest.approx(known.confidence_interval.high, abs=0.02 * width)
    assert found.standard_error == pytest.approx(known.standard_error, rel=0.02)


def test_paired_differences_share_their_draws():
    random = numpy.random.default_rng(1)
    before = random.random(300)
    after = before + 0.01
    sums = numpy.hstack([columns(before), columns(after)])
    found = bca(sums, resampled_sums(sums), lambda totals: mean(totals[..., 2:]) - mean(totals[..., :2]))
    assert found.low == pytest.approx(0.01, abs=1e-9)
    assert found.high == pytest.approx(0.01, abs=1e-9)


def test_groups_stand_or_fall_together():
    values = numpy.repeat(numpy.random.default_rng(2).integers(0, 2, 50), 10).astype(float)
    groups = [str(n // 10) for n in range(500)]
    alone, grouped = columns(values), group_sums(columns(values), groups)
    assert len(grouped) == 50
    narrow = bca(alone, resampled_sums(alone), mean)
    wide = bca(grouped, resampled_sums(grouped), mean)
    assert wide.value == narrow.value
    assert (wide.high - wide.low) > 2.5 * (narrow.high - narrow.low)


def test_unscored_rows_add_nothing():
    statistics = numpy.array([[1.0, 1.0], [numpy.nan, numpy.nan], [0.0, 1.0]])
    assert group_sums(statistics, ["a", "b", "c"]).sum(0).tolist() == [1, 2]


def test_nothing_varies():
    sums = columns(numpy.ones(30))
    assert bca(sums, resampled_sums(sums, 100), mean) == Estimate(1.0, 1.0, 1.0, pytest.approx(1 / 101), 0.0)


@pytest.mark.parametrize(("right", "n"), [(0, 10), (10, 10), (7, 10), (150, 480), (4999, 5000)])
def test_wilson_equals_scipys(right, n):
    known = scipy.stats.binomtest(right, n).proportion_ci(method="wilson")
    assert wilson(right, n) == pytest.approx((known.low, known.high), abs=1e-12)


def test_interval_covers_what_it_promises():
    random = numpy.random.default_rng(3)
    covered = 0
    for _ in range(300):
        sums = columns((random.random(150) < 0.7).astype(float))
        found = bca(sums, resampled_sums(sums, 1_000), mean)
        covered += found.low <= 0.7 <= found.high
    assert 0.90 <= covered / 300 <= 0.985


def test_seeds_widen_the_interval():
    one = Estimate(0.7, 0.68, 0.72, 0.0001, 0.01)
    assert over_seeds(one, [0.7]) == one
    steady = over_seeds(one, [0.7, 0.7, 0.7, 0.7, 0.7])
    shaky = over_seeds(one, [0.6, 0.8, 0.65, 0.75, 0.7])
    assert steady.high - steady.low == pytest.approx(2 * 1.96 * 0.01, rel=1e-3)
    error = (0.01**2 + numpy.var([0.6, 0.8, 0.65, 0.75, 0.7], ddof=1) / 5) ** 0.5
    assert shaky.standard_error == pytest.approx(error)
    assert shaky.high - shaky.low > 2 * 2.2 * error  # Student's t with few degrees of freedom
