"""Every interval of a score and of a gain: the rule that chose it, its coverage, and when it is unknown."""

import numpy
import pytest
import scipy.stats

from prism.metrics import Metric, mean
from prism.verdicts.intervals import clopper_pearson
from prism.verdicts.margins import signs
from prism.verdicts.rules import FLIPS, Groups, Measured, interval, lead, loss

RIGHT = Metric("accuracy", "tier1", lambda *_: None, mean, sample="right or wrong")
SCORE = Metric("rougeL", "tier2", lambda *_: None, mean)


def columns(values):
    return numpy.stack([numpy.asarray(values, float), numpy.ones(len(values))], axis=1)


def measured(metric, groups, *seeds):
    return Measured.of(metric, [columns(seed) for seed in seeds], groups)


def alone(n):
    return Groups.named([str(i) for i in range(n)])


def grouped(*sizes):
    return Groups.named([f"{g}" for g, size in enumerate(sizes) for _ in range(size)])


def flipped(n, up, down):
    """Answers before and after: the first `up` become right, the next `down` wrong, the others stay right."""
    before, after = numpy.ones(n), numpy.ones(n)
    before[:up], after[up : up + down] = 0, 0
    return before, after


def gain(metric, groups, before, *after):
    return lead(metric, measured(metric, groups, *after), measured(metric, groups, before), groups)


@pytest.mark.parametrize(("right", "n"), [(0, 10), (10, 10), (7, 10), (150, 480), (4999, 5000)])
def test_clopper_pearson_equals_scipys(right, n):
    known = scipy.stats.binomtest(right, n).proportion_ci(method="exact")
    assert clopper_pearson(right, n) == pytest.approx((known.low, known.high), abs=1e-9)


@pytest.mark.parametrize(
    ("metric", "groups", "seeds", "of_score", "of_gain"),
    [
        (RIGHT, alone(60), 1, "Clopper–Pearson", "Tango"),
        (RIGHT, alone(60), 2, "Korn–Graubard, 2 seeds", "Tango at the effective n, 2 seeds"),
        (
            RIGHT,
            grouped(*[5] * 12),
            1,
            "Korn–Graubard, 12 effective groups",
            "Tango at the effective n, 12 effective groups",
        ),
        (SCORE, alone(60), 1, "Wilson at the effective n", "Tango at the effective n"),
        (
            SCORE,
            grouped(*[5] * 12),
            3,
            "Wilson at the effective n, 12 effective groups, 3 seeds",
            "Tango at the effective n, 12 effective groups, 3 seeds",
        ),
    ],
)
def test_the_data_choose_the_rule(metric, groups, seeds, of_score, of_gain):
    random = numpy.random.default_rng(1)
    given = [(random.random(60) < 0.6).astype(float) for _ in range(seeds + 1)]
    if metric is SCORE:
        given = [values * random.random(60) for values in given]
    before, *after = given
    assert interval(metric, measured(metric, groups, *after), groups).rule == of_score
    assert gain(metric, groups, before, *after).rule == of_gain


@pytest.mark.parametrize(
    ("up", "down", "shown"), [(3, 0, False), (4, 0, False), (6, 0, True), (15, 6, False), (30, 6, True)]
)
def test_a_gain_of_independent_answers_agrees_with_mcnemars_exact_test(up, down, shown):
    found = gain(RIGHT, alone(250), *flipped(250, up, down))
    exact = scipy.stats.binomtest(up, up + down, alternative="greater").pvalue
    assert found.p == pytest.approx(exact, rel=0.2)
    assert found.p >= exact - 1e-12
    assert (found.ci[0] > 0) == (found.p <= 0.025) == shown


def test_lower_is_better_turns_p_and_not_the_interval():
    groups = alone(250)
    fewer = Metric("unparsable_rate", "tier1", lambda *_: None, mean, direction="lower", sample="right or wrong")
    up, down = flipped(250, 30, 6), flipped(250, 30, 6)[::-1]
    higher, lower = gain(RIGHT, groups, *up), gain(fewer, groups, *down)
    assert lower.p == pytest.approx(higher.p)
    assert lower.ci == pytest.approx((-higher.ci[1], -higher.ci[0]))


def test_groups_widen_a_gain_by_what_they_have_in_common():
    random = numpy.random.default_rng(2)
    groups = grouped(*[10] * 40)
    before, after = ((numpy.repeat(random.random(40), 10) < share).astype(float) for share in (0.4, 0.6))
    together, apart = gain(RIGHT, groups, before, after), gain(RIGHT, alone(400), before, after)
    assert together.value == apart.value
    assert together.ci[1] - together.ci[0] > 2.5 * (apart.ci[1] - apart.ci[0])


@pytest.mark.parametrize("sizes", [[20] * 9, [400, *[1] * 60]])
@pytest.mark.parametrize("metric", [RIGHT, SCORE])
def test_fewer_than_ten_effective_groups_know_nothing(metric, sizes):
    groups = grouped(*sizes)
    n = sum(sizes)
    found = gain(metric, groups, numpy.zeros(n), numpy.ones(n))
    assert found.value == 1
    assert numpy.isnan(found.ci).all()
    assert found.p is None
    assert found.rule == f"unknown: {groups.effective:.3g} effective groups"
    assert numpy.isnan(interval(metric, measured(metric, groups, numpy.ones(n)), groups).ci).all()


@pytest.mark.parametrize(("metric", "groups"), [(RIGHT, alone(100)), (SCORE, alone(100)), (RIGHT, grouped(*[5] * 20))])
def test_answers_that_never_vary_still_leave_chance(metric, groups):
    n = len(groups.of)
    nothing = gain(metric, groups, numpy.ones(n), numpy.ones(n))
    assert nothing.ci[0] < 0 < nothing.ci[1]
    assert nothing.p > 0.025
    assert 0.8 < interval(metric, measured(metric, groups, numpy.ones(n)), groups).ci[0] < 1
    everything = gain(metric, groups, numpy.zeros(n), numpy.ones(n))
    assert 0.65 < everything.ci[0] < 1 == everything.ci[1]
    assert everything.p < 1e-3


def test_a_metric_below_zero_has_its_interval_on_its_own_range():
    similarity = Metric("semantic_similarity", "tier2", lambda *_: None, mean, range=(-1.0, 1.0))
    values = numpy.random.default_rng(3).normal(-0.2, 0.1, 200)
    groups = alone(200)
    low, high = interval(similarity, measured(similarity, groups, values), groups).ci
    known = scipy.stats.ttest_1samp(values, 0).confidence_interval()
    assert (low, high) == pytest.approx((known.low, known.high), abs=2e-3)


def test_the_interval_of_a_continuous_gain_is_students_but_longer_towards_more_changes():
    random = numpy.random.default_rng(4)
    before = random.random(80)
    after = before + random.uniform(-0.1, 0.14, 80)
    found = gain(SCORE, alone(80), before, after)
    known = scipy.stats.ttest_1samp(after - before, 0)
    low, high = known.confidence_interval()
    assert found.ci == pytest.approx((low, high), abs=0.002)
    assert found.ci[1] - found.value > found.value - found.ci[0]
    assert found.p == pytest.approx(known.pvalue / 2, rel=0.3)


def test_a_gain_that_four_samples_make_may_be_larger_but_not_much_smaller():
    before, after = numpy.zeros(200), numpy.zeros(200)
    after[:4] = 0.5
    found = gain(SCORE, alone(200), before, after)
    low, high = scipy.stats.ttest_1samp(after - before, 0).confidence_interval()
    assert found.ci[0] > low
    assert found.ci[1] > high


@pytest.mark.parametrize("sizes", [[10] * 12, [40, *[6] * 30]], ids=["every flip", "drawn flips"])
def test_the_interval_of_a_loss_agrees_with_sign_flips(sizes):
    """It holds no loss if at least 5 % of the sign flips of the groups have as large a t, and only then."""
    random, groups = numpy.random.default_rng(8), grouped(*sizes)
    shares = groups.sizes / groups.sizes.sum()
    shown = 0
    for _ in range(60):
        common = random.normal(0.01, 0.03, (len(sizes)))[groups.of]
        before = measured(SCORE, groups, random.random(len(groups.of)) * 0.5 + 0.3)
        after = measured(SCORE, groups, before.by_sample[0] + before.value - common)
        low, high = loss(SCORE, before, after, groups, 0.95)
        parts = numpy.bincount(groups.of, common) / len(groups.of)
        flipped = parts * signs(len(sizes), FLIPS)
        residuals = (flipped - shares * flipped.sum(1, keepdims=True)) / (1 - shares)
        t = abs(flipped.sum(1)) / numpy.sqrt((residuals**2).sum(1))
        rejected = (t >= t[0] * (1 - 1e-9)).mean() <= 0.05
        students = abs(scipy.stats.t.ppf(0.025, groups.effective - 1))
        assert (low > 0 or high < 0) == (rejected or t[0] * (len(sizes) / (len(sizes) - 1)) ** 0.5 > students)
        shown += rejected
    assert 5 < shown < 55


def test_seeds_that_differ_widen_the_interval():
    random = numpy.random.default_rng(5)
    groups, base = alone(400), random.random(400) * 0.5
    steady = [base + random.normal(0, 0.01, 400) for _ in range(3)]
    shaky = [seed + shift for seed, shift in zip(steady, (-0.1, 0.0, 0.1))]
    narrow, wide = (interval(SCORE, measured(SCORE, groups, *seeds), groups) for seeds in (steady, shaky))
    single = interval(SCORE, measured(SCORE, groups, steady[0]), groups)
    assert narrow.ci[1] - narrow.ci[0] == pytest.approx(single.ci[1] - single.ci[0], rel=0.05)
    # Between three seeds: t with 2 degrees of freedom times .1/√3.
    assert wide.ci[1] - wide.ci[0] == pytest.approx(2 * 4.303 * 0.1 / 3**0.5, rel=0.1)


def likeness(random, groups, runs):
    """Standard normal numbers, a third of whose variance is common to a group: (runs, samples)."""
    common = random.standard_normal((runs, len(groups.sizes)))[:, groups.of]
    return (common + 2**0.5 * random.standard_normal((runs, len(groups.of)))) / 3**0.5


SIZES = {
    "equal": [10] * 20,
    "lognormal": numpy.maximum(
        1, numpy.round(5 * numpy.exp(scipy.stats.norm.ppf((numpy.arange(40) + 0.5) / 40)))
    ).astype(int),
    "Zipf": numpy.maximum(1, 60 // numpy.arange(1, 61)),
}


@pytest.mark.parametrize("sizes", SIZES.values(), ids=SIZES)
@pytest.mark.parametrize("rate", [0.03, 0.5, 0.97])
def test_a_gain_between_equal_models_is_rarely_shown_whatever_the_groups(sizes, rate):
    """400 runs: 95 % coverage has a standard error of 1.1 %, a share of false gains of 2.5 % one of .8 %."""
    random, groups = numpy.random.default_rng(6), grouped(*sizes)
    sides = [(likeness(random, groups, 400) < scipy.stats.norm.ppf(rate)).astype(float) for _ in range(2)]
    gains = [gain(RIGHT, groups, before, after) for before, after in zip(*sides)]
    assert numpy.mean([found.ci[0] <= 0 <= found.ci[1] for found in gains]) >= 0.925
    assert numpy.mean([found.ci[0] > 0 for found in gains]) <= 0.041


@pytest.mark.parametrize("sizes", SIZES.values(), ids=SIZES)
@pytest.mark.parametrize("rate", [0.03, 0.5, 0.97])
def test_a_score_covers_the_truth_whatever_the_groups(sizes, rate):
    random, groups = numpy.random.default_rng(7), grouped(*sizes)
    answers = (likeness(random, groups, 400) < scipy.stats.norm.ppf(rate)).astype(float)
    found = [interval(RIGHT, measured(RIGHT, groups, run), groups).ci for run in answers]
    assert numpy.mean([low <= rate <= high for low, high in found]) >= 0.925


def test_a_variance_that_two_samples_make_is_not_taken_at_its_word():
    """Two scores of .1 among fifty of 0: their variance is tiny, and a third sample might have a score of 1."""
    two = numpy.zeros(50)
    two[:2] = 0.1
    found = interval(SCORE, measured(SCORE, alone(50), two), alone(50))
    jackknife = two.var(ddof=1) / 50
    effective = found.value * (1 - found.value) / jackknife
    assert effective > 400
    assert found.ci[1] > 1.5 * clopper_pearson(found.value * effective, effective)[1]


def test_one_large_group_unlike_the_others_leaves_a_gain_in_doubt():
    """A fifth of the samples is one group, and half of it flipped: 50 of the 90 flips are no 50 independent ones."""
    groups = grouped(100, *[4] * 100)
    flips = numpy.zeros(500)
    flips[:100:2] = 1.0
    flips[100::10] = 1.0
    found = gain(RIGHT, groups, numpy.zeros(500), flips)
    small = gain(RIGHT, grouped(*[4] * 100), numpy.zeros(400), flips[100:])
    assert found.ci[0] < 0.02 < small.ci[0]


def test_one_group_that_differs_shows_no_loss():
    groups = grouped(*[5] * 30)
    lost = numpy.ones(150)
    lost[:4] = 0.0
    before, after = measured(RIGHT, groups, numpy.ones(150)), measured(RIGHT, groups, lost)
    low, high = loss(RIGHT, before, after, groups, 0.95)
    assert low <= 0 < high
