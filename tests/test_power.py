"""`prism power`: what an accepted run's rows, groups and seeds can show, and what a wanted loss takes."""

import math
import re
from dataclasses import replace

import numpy
import pytest
from typer.testing import CliRunner

from prism.cli import app
from prism.metrics import Metric
from prism.report.planning import Asked, power_table
from prism.verdicts import power
from prism.verdicts.accepted import FOLDER
from prism.verdicts.compare import compare
from prism.verdicts.scores import Measure, Scores, write_scores
from tests.scored import EVALUATION, answers, scored, tiny_spec

ALPHA = 0.05 / 4
MEAN = Metric("score", "tier1", lambda examples, said: numpy.empty((0, 2)), sample="score")


def with_seeds(random, *, seeds, groups, size, alike=0.0, spread=0.0, churn=0.1, value=0.6, shift=0.0):
    """Scores of a mean over samples, whose variance is .01 and `churn`² of each seed's own."""
    topics = numpy.repeat(random[0].normal(0, 0.1 * math.sqrt(alike), groups), size)
    shared = topics + random[0].normal(0, 0.1 * math.sqrt(1 - alike), groups * size)
    own = random[1].normal(0, churn, (seeds, groups * size)) + random[1].normal(0, spread, (seeds, 1))
    return of_samples(value - shift + shared + own, size)


def of_samples(samples, size=1):
    statistics = numpy.stack([samples, numpy.ones_like(samples)], -1)
    means = {str(42 + seed): float(mean) for seed, mean in enumerate(samples.mean(1))}
    measure = Measure("tier1", 1, "", float(samples.mean()), (0.0, 1.0), means, statistics)
    ids = tuple(f"{i:012x}" for i in range(samples.shape[1]))
    groups = ids if size == 1 else tuple(f"{i // size:06x}" for i in range(samples.shape[1]))
    return Scores("phase1", "tiny", "nano", "mine", EVALUATION, ids, groups, {"score": measure}, {}, {})


def generators(*seeds):
    return [numpy.random.default_rng(seed) for seed in seeds]


def known(scores, metric=MEAN):
    return power.variances(metric, scores.measures[metric.name], scores.groups)


def test_the_variances_are_those_of_the_samples_their_groups_and_the_seeds():
    found = known(with_seeds(generators(0, 1), seeds=5, groups=800, size=1))
    assert found.own == pytest.approx(0.02 / 800, rel=0.1)
    assert found.shared == pytest.approx(0.01 / 800, rel=0.1)
    grouped = known(with_seeds(generators(0, 1), seeds=5, groups=400, size=10, alike=0.5, churn=0.1))
    assert grouped.alike == pytest.approx(0.25, abs=0.05), "half of the shared half"
    halved = grouped.scaled(replace(grouped.plan, groups=800))
    effects = (1 + 9 * grouped.alike), (1 + 4 * grouped.alike)
    assert halved.own / grouped.own == pytest.approx(effects[1] / effects[0])
    assert grouped.scaled(replace(grouped.plan, rows=8000, groups=800)).own == pytest.approx(grouped.own / 2)


def test_rows_do_not_draw_seeds_together():
    wide = known(with_seeds(generators(0, 1), seeds=8, groups=500, size=1, spread=0.05))
    many = wide.scaled(replace(wide.plan, rows=10**7, groups=10**7))
    assert many.own < 1e-6
    assert many.between == pytest.approx(0.0025, rel=0.9)
    assert power.takes(wide.plan, 0.02, lambda plan: power.smallest_loss(wide, plan, 0.0, ALPHA)).rows is None


def test_the_stated_loss_is_that_of_the_comparison_itself():
    """One seed against the others, each in turn, as the gate would compare them."""
    scores = with_seeds(generators(2, 3), seeds=6, groups=600, size=1, spread=0.004)
    stated = power.smallest_loss(known(scores), power.Plan(600, 600, 5, 1), 0.0, ALPHA)
    samples = scores.measures["score"].statistics[..., 0]
    compared = []
    for seed in range(6):
        old, new = of_samples(numpy.delete(samples, seed, 0)), of_samples(samples[[seed]])
        compared.append(compare(old, new, [MEAN], 4)[0]["score"].detectable(0.0))
    assert stated == pytest.approx(numpy.mean(compared), rel=0.15)


def test_eighty_percent_of_runs_show_the_stated_loss():
    old = with_seeds(generators(4, 5), seeds=5, groups=300, size=1, spread=0.003)
    plan = power.Plan(300, 300, 5, 5)
    loss = power.smallest_loss(known(old), plan, 0.01, ALPHA)
    assert 0.01 < loss < 0.1

    def shown(shift: float) -> int:
        news = (
            with_seeds(generators(4, 100 + run), seeds=5, groups=300, size=1, spread=0.003, shift=shift)
            for run in range(100)
        )
        return sum(compare(old, new, [MEAN], 4)[0]["score"].is_worse(0.01) for new in news)

    assert shown(loss) >= 78
    assert shown(0.01 + (loss - 0.01) / 3) < 60, "what is stated is not far more than it takes"


def test_what_it_takes_is_enough_and_one_less_is_not():
    scores = with_seeds(generators(6, 7), seeds=5, groups=60, size=8, alike=0.6, spread=0.002)
    found = known(scores)
    plan = power.planned(found.plan, None, None, 2)

    def smallest(other):
        return power.smallest_loss(found, other, 0.0, ALPHA)

    wanted = 0.8 * smallest(plan)
    needed = power.takes(plan, wanted, smallest)
    size = plan.rows / plan.groups
    assert needed.rows > plan.rows
    assert smallest(replace(plan, rows=needed.rows, groups=needed.rows / size)) <= wanted
    assert smallest(replace(plan, rows=needed.rows - 8, groups=(needed.rows - 8) / size)) > wanted
    assert plan.groups < needed.groups <= plan.rows
    assert smallest(replace(plan, groups=needed.groups - 1)) > wanted
    assert smallest(replace(plan, after=needed.seeds)) <= wanted
    assert power.takes(plan, 1e-6, smallest) == power.Takes(None, None, None)


def test_few_groups_can_never_fail_and_the_sentence_says_why():
    six = known(with_seeds(generators(8, 9), seeds=3, groups=6, size=50))
    plan = power.planned(six.plan, None, None, 1)
    assert "can never fail: 6 groups give p = 0.016 at the least" in power.never(six, plan, 0.01, ALPHA)
    assert "can never fail: the whole score is" in power.never(six, replace(plan, groups=60), 0.7, ALPHA)
    assert "of unknown power: under 10 effective groups" in power.never(six, plan, 0.01, 0.05)
    assert math.isinf(power.smallest_loss(six, plan, 0.01, ALPHA))
    more = power.planned(six.plan, None, 40, 1)
    assert (more.rows, more.groups) == (2000, 40)
    assert math.isfinite(power.smallest_loss(six, more, 0.01, ALPHA))


def test_one_accepted_seed_knows_no_spread():
    one = known(with_seeds(generators(8, 9), seeds=1, groups=400, size=1))
    assert math.isfinite(power.smallest_loss(one, one.plan, 0.0, ALPHA)), "these adapters"
    several = power.planned(one.plan, None, None, 3)
    assert "one seed, which shows no spread" in power.never(one, several, 0.0, ALPHA)
    assert math.isinf(power.smallest_gain(one, several))
    several_seeds = known(with_seeds(generators(8, 9), seeds=5, groups=400, size=1))
    gains = [power.smallest_gain(several_seeds, power.planned(several_seeds.plan, n, None, 5)) for n in (400, 1600)]
    assert gains[1] < gains[0] < 0.1


def test_what_has_no_variance_is_said_and_not_guessed():
    same = of_samples(numpy.full((3, 40), 0.5))
    assert math.isnan(power.smallest_loss(known(same), known(same).plan, 0.0, ALPHA))
    said = power_table(same, [MEAN], {"score": 0.1}, 1, Asked())
    assert "score: no sample differs from another" in said
    single = of_samples(numpy.full((3, 1), 0.5))
    assert "score: has fewer than two scored samples" in power_table(single, [MEAN], {"score": 0.1}, 1, Asked())


# The command


@pytest.fixture
def accepted(tmp_path):
    spec = tiny_spec(tmp_path)
    said = {42 + k: answers(240, wrong=[*range(20), *range(20 + 6 * k, 26 + 6 * k)]) for k in range(5)}
    scores = replace(scored(spec, said), origin={"date": "2026-01-02"})
    write_scores(scores, tmp_path / FOLDER / f"{scores.name}.json")
    path = tmp_path / "benchmarks" / "specs" / "phase1" / "tiny.toml"
    path.write_text(path.read_text().replace("gain = 0.9", "drop = 0.02"))
    return tmp_path


def asked(root, *words):
    return CliRunner().invoke(app, ["power", "tiny", "--root", str(root), *words])


def test_the_table_says_what_is_shown_and_what_more_takes(accepted):
    shown = asked(accepted, "--drop", "0.06")
    assert shown.exit_code == 0, shown.output
    [line] = re.findall(r"^accuracy .*$", shown.output, re.MULTILINE)
    cells = line.split()
    assert cells[:4] == ["accuracy", "240", "240", ".020"]
    assert cells[5] == ".060"
    assert int(cells[6].replace(",", "")) > 240
    assert "5 accepted seeds, 1 of a run, α = .05/1" in " ".join(shown.output.split())
    more = asked(accepted, "--drop", "0.06", "--rows", cells[6].replace(",", ""))
    assert float(re.findall(r"^accuracy .*$", more.output, re.MULTILINE)[0].split()[4]) <= 0.06
    dearer = asked(accepted, "--drop", "0.06", "--alarms", "reference")
    assert "α = .05/40" in " ".join(dearer.output.split())
    assert "gain over the baseline" in asked(accepted, "--gain", "0.05", "--seeds", "3").output
    assert "can never fail: 4 groups" in asked(accepted, "--groups", "4").output
    assert "a loss of .010 is tolerated by drop = .020" in asked(accepted, "--drop", "0.01").output


def test_mistakes_are_one_sentence_each(accepted):
    for words, sentence in {
        ("--drop", "0"): "--drop 0: must be a difference above 0",
        ("--gain", "nan"): "--gain nan: must be a difference above 0",
        ("--drop", "0.1", "--gain", "0.1"): "ask for one of them at a time",
        ("--rows", "50", "--groups", "60"): "--groups 60: are more than the 50 rows",
    }.items():
        refused = asked(accepted, *words)
        assert refused.exit_code == 2
        assert sentence in refused.output
    assert asked(accepted, "--seeds", "0").exit_code == 2
    [path] = (accepted / FOLDER).rglob("*.json")
    path.unlink()
    assert "phase1/tiny: has no accepted run to read variances off; `prism accept`" in asked(accepted).output


def test_a_metric_of_another_version_is_named(accepted, monkeypatch):
    [path] = (accepted / FOLDER).rglob("*.json")
    scores = scored(tiny_spec(accepted), {42: answers(40), 43: answers(40)})
    old = {name: replace(measure, version=measure.version + 7) for name, measure in scores.measures.items()}
    write_scores(replace(scores, measures=old), path)
    assert re.search(r"accuracy: accepted by version \d+, now \d+; accept a new run", asked(accepted).output)
