"""Intervals and tests against scipy's, and against what they promise."""

import math
from dataclasses import replace
from itertools import product

import numpy
import pytest
import scipy.stats

from prism.verdicts.intervals import (
    Error,
    Estimate,
    bca,
    group_sums,
    influence,
    resampled_sums,
    wilson,
)
from prism.verdicts.losses import detectable, difference, flips, mcnemar_midp, p_value, recipes, tango, tango_z


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


def test_few_groups_have_students_tails():
    values = numpy.random.default_rng(5).normal(size=8)
    sums = columns(values)
    found = bca(sums, resampled_sums(sums), mean)
    known = scipy.stats.ttest_1samp(values, 0).confidence_interval()
    assert found.high - found.low == pytest.approx(known.high - known.low, rel=0.1)


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


# These two adapters differ


def test_mcnemars_midp_equals_the_binomials():
    better, worse = numpy.meshgrid(numpy.arange(30), numpy.arange(30))
    loss, either = mcnemar_midp(better, worse)
    for b, w in product((0, 1, 7, 29), repeat=2):
        flips = scipy.stats.binom(b + w, 0.5)
        assert loss[w, b] == pytest.approx(sum(flips.pmf(k) for k in range(w + 1, b + w + 1)) + flips.pmf(w) / 2)
        exact = scipy.stats.binomtest(w, b + w).pvalue if b + w else 1.0
        assert either[w, b] == pytest.approx(1.0 if b == w else exact - flips.pmf(w))
    assert loss + loss.T == pytest.approx(numpy.ones((30, 30)))  # better and worse are each other's mirror


@pytest.mark.parametrize(
    ("better", "worse", "n", "margin"), [(2, 12, 50, 0.05), (0, 6, 150, 0.01), (40, 33, 500, -0.1)]
)
def test_tangos_statistic_is_the_score_of_the_constrained_likelihood(better, worse, n, margin):
    def unlikely(share):  # the log-likelihood of the flips, had the loss been `margin`
        return -(
            better * numpy.log(share)
            + worse * numpy.log(share + margin)
            + (n - better - worse) * numpy.log(1 - 2 * share - margin)
        )

    lowest, highest = max(0, -margin), (1 - margin) / 2
    share = scipy.optimize.minimize_scalar(
        unlikely, bounds=(lowest, highest), method="bounded", options={"xatol": 1e-12}
    ).x
    error = numpy.sqrt(n * (2 * share + margin - margin**2))
    assert tango_z(better, worse, n, margin) == pytest.approx((worse - better - n * margin) / error, rel=1e-4)


def test_tangos_interval_is_what_his_test_does_not_reject():
    low, high = tango(numpy.array([2, 0, 150]), numpy.array([12, 0, 0]), numpy.array([50, 150, 150]))
    z = scipy.stats.norm.ppf(0.975)
    assert tango_z(2, 12, 50, low[0]) == pytest.approx(z)
    assert tango_z(2, 12, 50, high[0]) == pytest.approx(-z)
    assert low[1] == pytest.approx(-high[1])  # no flip is no proof that there are none: z² / (n + z²)
    assert high[1] == pytest.approx(z**2 / (150 + z**2), rel=1e-6)
    assert low[2] == pytest.approx(-1)
    assert high[2] < -0.95
    assert tango_z(3, 12, 50, 0) == pytest.approx((12 - 3) / 15**0.5)  # McNemar's


def test_flips():
    found = flips(better=5, worse=15, n=400)
    assert found.value == pytest.approx(0.025)
    assert found.p == pytest.approx(mcnemar_midp(5, 15)[0])
    assert [found.low, found.high] == pytest.approx([float(end) for end in tango(5, 15, 400)])
    assert found.standard_error == pytest.approx(numpy.std([1] * 15 + [-1] * 5 + [0] * 380) / 20)


def test_difference_equals_the_paired_t_test():
    random = numpy.random.default_rng(6)
    before, after = random.random(40), random.random(40)
    found = difference(columns(before), columns(after), mean, level=0.98)
    known = scipy.stats.ttest_rel(before, after, alternative="greater")
    assert found.p == pytest.approx(known.pvalue)
    known = scipy.stats.ttest_rel(before, after).confidence_interval(0.98)
    assert (found.low, found.high) == pytest.approx((known.low, known.high))
    assert difference(columns(after), columns(before), mean).p == pytest.approx(1 - found.p)


def test_adapters_of_several_seeds_are_compared_by_their_mean():
    random = numpy.random.default_rng(7)
    before, after = random.random((5, 40)), random.random((2, 40))
    found = difference(numpy.array([columns(v) for v in before]), numpy.array([columns(v) for v in after]), mean)
    known = scipy.stats.ttest_rel(before.mean(0), after.mean(0), alternative="greater")
    assert found.p == pytest.approx(known.pvalue)


def test_influence_is_the_jackknifes():
    """Of a ratio over groups of unequal size: the delta method's, up to terms of 1/groups."""
    random = numpy.random.default_rng(8)
    sizes = random.integers(1, 9, 400).astype(float)
    sums = numpy.stack([sizes * random.random(400), sizes], axis=1)
    delta = (sums[:, 0] - mean(sums.sum(0)) * sizes) / sizes.mean()
    assert influence(sums, mean) == pytest.approx(delta, abs=0.02)
    assert influence(sums, mean).mean() == pytest.approx(0, abs=1e-12)


def test_a_single_group_proves_nothing():
    reference, new = columns(numpy.ones(1)), columns(numpy.zeros(1))
    found = difference(reference, new, mean)
    assert (found.low, found.high, found.p) == (-numpy.inf, numpy.inf, 0.5)
    assert detectable(0.01, found.error, 0.05) == numpy.inf
    assert recipes(numpy.array([reference] * 3), new[None], mean).high == numpy.inf


# This recipe is worse


def trained(means, n, random):
    return numpy.array([columns((random.random(n) < mean).astype(float)) for mean in means])


def test_seeds_count_once_what_samples_explain():
    """Seeds that differ by nothing but their samples leave the error what the samples make it."""
    random = numpy.random.default_rng(13)
    same, apart = [], []
    for _ in range(200):
        reference, new = trained([0.7] * 5, 400, random), trained([0.7] * 5, 400, random)
        samples = difference(reference, new, mean).standard_error
        same.append(recipes(reference, new, mean).standard_error / samples)
        apart.append(
            recipes(*(trained(0.7 + random.normal(0, 0.05, 5), 400, random) for _ in "ab"), mean).standard_error
        )
    assert min(same) > 0.999
    assert numpy.mean(same) < 1.15
    spread = (2 * 0.7 * 0.3 / 400 / 5 + 0.05**2 * (1 / 5 + 1 / 5)) ** 0.5
    assert numpy.mean(numpy.square(apart)) ** 0.5 == pytest.approx(spread, rel=0.05)


def test_two_adapters_may_differ_while_their_recipes_do_not():
    random = numpy.random.default_rng(14)
    reference = trained([0.60, 0.65, 0.70, 0.75, 0.80], 4_000, random)
    new = trained([0.64], 4_000, random)
    assert difference(reference[3], new[0], mean).p < 1e-6
    assert recipes(reference, new, mean).p > 0.1


def test_the_interval_and_p_of_recipes_agree():
    random = numpy.random.default_rng(15)
    reference, new = trained([0.72, 0.70, 0.71, 0.74, 0.70], 900, random), trained([0.64, 0.66], 900, random)
    p = recipes(reference, new, mean).p
    assert 1e-4 < p < 0.2
    assert recipes(reference, new, mean, level=1 - 2 * p).low == pytest.approx(0, abs=1e-9)
    assert recipes(new, reference, mean).p == pytest.approx(1 - p)


def test_one_seed_a_side_shows_no_spread():
    one = trained([0.5], 200, numpy.random.default_rng(16))
    with pytest.raises(ValueError, match="1 and 1 seeds"):
        recipes(one, one, mean)


# What could have been seen


def test_detectable_is_the_designs_formula_where_the_error_is_known():
    critical = {alpha: scipy.stats.norm.isf(alpha) for alpha in (0.05, 0.05 / 40)}
    for (alpha, c), drop in product(critical.items(), (0.0, 0.01, 0.1)):
        expected = drop + (c + scipy.stats.norm.ppf(0.8)) * 0.02
        assert detectable(drop, Error(0.02**2), alpha) == pytest.approx(expected, rel=1e-6)


@pytest.mark.parametrize("freedom", [4, 29, 500])
def test_detectable_is_the_noncentral_ts_where_it_is_estimated(freedom):
    found = detectable(0.0, Error(0.02**2, freedom), 0.05)
    assert scipy.stats.nct.sf(scipy.stats.t.isf(0.05, freedom), freedom, found / 0.02) == pytest.approx(0.8, abs=0.002)


def test_detectable_counts_the_flips_that_a_loss_brings():
    """Nothing flipped in 150 answers: McNemar's mid-p takes 4 flips to see a loss, and 80 % power takes about 6."""
    none = flips(0, 0, 150).error
    found = detectable(0.0, none, 0.05)
    flipped = scipy.stats.binom(150, found)
    power = sum(flipped.pmf(k) for k in range(151) if mcnemar_midp(0, k)[0] <= 0.05)
    assert 0.8 <= power < 0.95


def test_the_same_seeds_on_both_sides_have_lost_nothing():
    """What rounding leaves of their difference must not come out as a variance below 0."""
    random = numpy.random.default_rng(3)
    for trial in range(20):
        answers = numpy.stack([columns((random.random(80) < 0.8).astype(float)) for _ in range(5)])
        found = recipes(answers, answers[::-1], mean, right_or_wrong=True)
        assert found.value == 0, trial
        assert found.low <= 0 <= found.high
        assert 0.5 <= found.p <= 1
        assert 0 < detectable(0.01, found.error, 0.05) < 0.3


def test_p_of_a_loss_far_beyond_two_seeds_is_a_number():
    """With one degree of freedom the quantile of a tiny tail has a square beyond what a float holds."""
    assert 0 < p_value(0.5, Error(1e-9, 99, between=(1e-12,), seed_freedom=(1.0,))) < 1e-4


def test_detectable_counts_that_a_loss_is_larger_where_scores_are():
    """A loss in proportion to each score varies with the samples as the score does; else the power is overstated."""
    scores = numpy.random.default_rng(0).random(200) ** 4
    before = numpy.stack([scores, numpy.ones(200)], 1)
    after = before * [[1.0, 1.0]]
    after[:20, 0] *= 0.9
    error = difference(before, after, mean).error
    assert error.uneven == pytest.approx(scores.var(ddof=1) / 200 / scores.mean() ** 2, rel=1e-6)
    loss = detectable(0.01, error, 0.05)
    assert loss > 1.1 * detectable(0.01, replace(error, uneven=0.0), 0.05)
    assert detectable(0.01, replace(error, uneven=2.0), 0.05) == math.inf  # each loss varies more than it is
