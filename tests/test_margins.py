"""Each test at its margin: against all outcomes, against its own promises, and where it must not decide."""

from dataclasses import replace

import numpy
import pytest
import scipy.stats
from scipy.stats import binom, multinomial, norm

from prism.verdicts import losses
from prism.verdicts.intervals import Error
from prism.verdicts.losses import difference
from prism.verdicts.margins import OUTSIDE, Pairs, SignFlips, Student, exact_p
from tests.test_stats import columns, mean


@pytest.mark.parametrize(("better", "worse"), [(0, 3), (2, 6), (1, 1), (0, 0)])
@pytest.mark.parametrize("limit", [0.0, 0.05, -0.05])
def test_the_exact_p_is_that_of_all_outcomes(better, worse, limit):
    """Of 20 samples, 231 outcomes; the largest over the shares of `better` flips that are not ruled out by their count."""
    n, found = 20, losses.tango_z(better, worse, 20, limit)
    b, c = (counts.ravel() for counts in numpy.meshgrid(range(n + 1), range(n + 1)))
    b, c = b[b + c <= n], c[b + c <= n]
    extreme = losses.tango_z(b, c, n, limit) >= found - 1e-9
    largest = 0.0
    lowest, highest = max(0, -limit), (1 - limit) / 2
    for share in lowest + (highest - lowest) * numpy.concatenate([[1e-6, 1e-4], numpy.linspace(0, 1, 400)]):
        if min(binom.cdf(better, n, share), binom.sf(better - 1, n, share)) < OUTSIDE / 2:
            continue
        chances = [share, share + limit, max(0.0, 1 - 2 * share - limit)]
        outcomes = multinomial.pmf(numpy.stack([b, c, n - b - c], 1)[extreme], n, chances)
        largest = max(largest, float(outcomes.sum()))
    assert exact_p(better, worse, n, limit) == pytest.approx(largest, abs=2e-3)


def test_a_loss_of_exactly_the_limit_fails_in_no_more_runs_than_promised():
    """Of 2,000 answers, 4 % gained and 5 % lost. Tested at 0, as before, this loss of .01 fails in half of all runs."""
    random = numpy.random.default_rng(1)
    counts = random.multinomial(2_000, [0.04, 0.05, 0.91], 4_000)
    z = losses.tango_z(counts[:, 0], counts[:, 1], 2_000, numpy.array([[0.01], [0.0]]))
    at_the_limit, at_zero = (z > norm.isf(0.05)).mean(1)
    assert at_the_limit <= 0.05 + 2 * 0.0034
    assert at_zero > 0.3
    assert Pairs(*map(int, counts[0, :2]), 2_000).exceeds(0.01) == pytest.approx(1 - norm.cdf(z[0, 0]), abs=0.01)


def test_few_flips_are_decided_by_their_exact_distribution():
    """Of 1,000 answers a loss of .01 is some 10 flips: 22 of them Tango's tail finds 3 times as unlikely as they are."""
    for flips in (19, 22):
        truth = binom.sf(flips - 1, 1_000, 0.01)
        assert Pairs(0, flips, 1_000).exceeds(0.01) >= truth
    assert Pairs(0, 22, 1_000).rule == "exact at the margin, n = 1,000, 22 of them differ"
    assert Pairs(100, 150, 1_000).rule == "Tango at the margin"


def test_within_is_the_mirror_of_exceeds():
    assert Pairs(5, 2, 40).within(0.05) == Pairs(2, 5, 40).exceeds(-0.05)
    assert Pairs(200, 150, 2_000).within(0.01) == pytest.approx(norm.cdf(losses.tango_z(200, 150, 2_000, 0.01)))
    error = Error(0.01**2, 50)
    test = Student(0.02, error, 51, 51, 1.0)
    assert test.within(0.05) == pytest.approx(1 - replace(test, loss=0.02).exceeds(0.05), abs=1e-6)


def test_the_smallest_p_is_that_of_losing_everything():
    assert Pairs(0, 0, 3).least(0.01) == Pairs(0, 3, 3).exceeds(0.01) > 0.1
    assert Pairs(0, 0, 8).least(0.01) < 0.05 / 8


def test_a_total_loss_has_the_smallest_p_of_its_groups():
    sides = (columns(numpy.ones(6))[None], columns(numpy.zeros(6))[None])
    found = SignFlips.of(1.0, sides, mean, numpy.ones(6))
    assert found.exceeds(0.01) == found.least(0.01) == 2**-6
    assert SignFlips.of(0.0, (sides[0], sides[0]), mean, numpy.ones(6)).exceeds(0.01) == 1


@pytest.mark.parametrize("groups", [7, 14])
def test_sign_flips_are_exact_between_equal_models_of_unequal_groups(groups):
    """One group has about half of the samples; a jackknife's weights would alarm up to six times too often."""
    random = numpy.random.default_rng(3)
    sizes = numpy.array([3 * groups, *random.integers(1, 6, groups - 1)]).astype(float)
    ps = []
    for _ in range(400 if groups > 12 else 1_500):
        before, after = (numpy.stack([random.binomial(sizes.astype(int), 0.5), sizes], 1) for _ in "ab")
        loss = float(mean(before.sum(0)) - mean(after.sum(0)))
        ps.append(SignFlips.of(loss, (before[None], after[None]), mean, sizes).exceeds(0.0))
    for alpha in (0.05, 0.2):
        assert numpy.mean(numpy.array(ps) <= alpha) <= alpha + 2.5 * (alpha / len(ps)) ** 0.5


def test_a_recipe_of_few_groups_must_show_its_loss_over_seeds_as_well():
    sides = (columns(numpy.ones(8))[None], columns(numpy.zeros(8))[None])
    wide = Error(0.0, 7, (0.6**2,), 0.0, (4.0,))
    found = SignFlips.of(1.0, sides, mean, numpy.ones(8), wide)
    assert found.exceeds(0.0) == losses.p_value(1.0, wide) > 0.05


def test_flips_that_a_loss_of_the_limit_would_bring_widen_what_holds():
    """Nothing differs between 100 groups; a loss of .02 would still show none in 13 % of runs."""
    test = Student(0.0, Error(0.0, 99, growth=0.01), 100, 0, 1.0)
    assert test.within(0.02) >= 0.98**100 > 0.05
    assert test.within(0.05) <= 0.05
    assert test.exceeds(0.02) == 1


@pytest.mark.parametrize(("old", "new"), [(0.003, 0.02), (0.02, 0.003), (0.01, 0.01)])
@pytest.mark.parametrize("seeds", [(5, 5), (5, 2)])
def test_unequal_spreads_between_seeds_raise_no_more_alarms(old, new, seeds):
    random = numpy.random.default_rng(4)
    covariance = 0.004**2 * numpy.eye(sum(seeds))
    for alpha, runs in ((0.05, 2_000), (0.05 / 8, 2_000)):
        alarms = 0
        for _ in range(runs):
            spreads = numpy.repeat([old, new], seeds)
            values = random.normal(0, (spreads**2 + 0.004**2) ** 0.5)
            loss, error = losses.recipe_error(values, covariance, seeds[0], 299)
            alarms += loss > error.reach(alpha)
        assert alarms / runs <= alpha + 2.5 * (alpha / runs) ** 0.5


@pytest.mark.parametrize(("times", "most"), [(1, 0.05), (2, 0.07)])
@pytest.mark.parametrize("seed_spread", [0.005, 0.03])
def test_one_new_seed_may_spread_twice_as_far_as_the_accepted_ones(times, most, seed_spread):
    random = numpy.random.default_rng(5)
    covariance, runs, alarms = 0.006**2 * numpy.eye(6), 3_000, 0
    for _ in range(runs):
        spreads = seed_spread * numpy.array([1, 1, 1, 1, 1, times])
        loss, error = losses.recipe_error(random.normal(0, (spreads**2 + 0.006**2) ** 0.5), covariance, 5, 299)
        alarms += loss > error.reach(0.05)
    assert alarms / runs <= most


def test_stated_power_is_reached_with_churn():
    """A tenth of 400 answers flips either way between equal models; the stated loss is then added."""
    random = numpy.random.default_rng(6)
    stated = numpy.mean(
        [
            losses.detectable(
                0.02, losses.flips(*map(int, random.multinomial(400, [0.05, 0.05, 0.9])[:2]), 400).error, 0.05
            )
            for _ in range(50)
        ]
    )
    counts = random.multinomial(400, [0.05, 0.05 + stated, 0.9 - stated], 2_000)
    assert (losses.tango_z(counts[:, 0], counts[:, 1], 400, 0.02) > norm.isf(0.05)).mean() >= 0.78


def test_a_skewed_loss_is_shown_by_no_thinner_a_tail():
    """A new side that is all or nothing skews the loss to the left: Student's test alone alarmed in 14 % of runs."""
    error = Error(0.01**2, 149)
    plain, left, right = (Student(0.03, replace(error, skew=skew), 150, 150, 1.0) for skew in (0.0, -0.15, 0.15))
    assert left.exceeds(0.0) > 1.5 * plain.exceeds(0.0)
    assert right.exceeds(0.0) == plain.exceeds(0.0)
    assert right.within(0.06) > 1.5 * plain.within(0.06)
    limits = [left.exceeds(limit) for limit in (-0.5, -0.1, 0.0, 0.01, 0.03, 0.1)]
    assert limits == sorted(limits), "the larger the limit, the less is shown"


def test_skewness_is_that_of_a_mean():
    parts = numpy.random.default_rng(1).exponential(size=(400, 1))
    before, after = numpy.hstack([parts, numpy.ones((400, 1))]), numpy.hstack([0 * parts, numpy.ones((400, 1))])
    found = difference(before, after, lambda sums: sums[..., 0] / sums[..., 1])
    assert found.error.skew == pytest.approx(scipy.stats.skew(parts[:, 0]) / 20, rel=1e-3)
