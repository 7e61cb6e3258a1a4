"""What a reference could be picked from, and what a comparison with it may cost: counted by the store and by git."""

import math
import os
import re
import subprocess
from dataclasses import replace

import numpy
import pytest
from typer.testing import CliRunner

from prism.acceptance import accept
from prism.cli import app
from prism.cli.fresh import draw, new_seeds
from prism.errors import ScoresError, SpecError, StoreError
from prism.plugin.scheduling import training_seeds
from prism.progress import Console
from prism.report import findings
from prism.report.comparison import acceptance_summary
from prism.setting import Setting
from prism.store import Store
from prism.store.seal import seal
from prism.verdicts import alarms, looks
from prism.verdicts.accepted import FOLDER, ask_git
from prism.verdicts.record import Result
from prism.verdicts.scores import read_scores, write_scores
from tests.scored import answers, scored, tiny_spec
from tests.test_reference import finished


@pytest.fixture
def store(tmp_path):
    return Store(tmp_path / "home")


def measured_with(folder, *seeds, wrong=3, evaluation="ab" * 32):
    """Scores of an adapter a seed: each says something else."""
    said = {seed: answers(40, wrong=range(seed % 30, seed % 30 + wrong)) for seed in seeds}
    made = {"adapters": {str(seed): f"{seed:064x}" for seed in seeds}}
    return scored(tiny_spec(folder), said, evaluation=evaluation, training=made)


def origin_of(root, scores, store, **told):
    [accepted] = accept(finished(root, scores, **told), root, store=store)
    return read_scores(accepted.path).origin, acceptance_summary(accepted)


def test_the_best_of_five_runs_says_so_and_the_next_acceptance_counts_anew(tmp_path, store):
    runs = [measured_with(tmp_path, seed) for seed in range(42, 47)]
    for scores in runs:
        looks.record(scores, store)
    origin, said = origin_of(tmp_path, runs[3], store)
    assert origin["looks"] == 5
    assert "5 measurements since the last acceptance" in said
    assert "in up to 44 %" in said
    following = measured_with(tmp_path, 50)
    looks.record(following, store)
    origin, said = origin_of(tmp_path, following, store)
    assert origin["looks"] == 1
    assert "looks" not in said
    origin, _ = origin_of(tmp_path, runs[0], store)
    assert origin["looks"] == 6, "an older run could be picked among all"


def test_the_same_measurement_is_one_look_wherever_it_is_read_from(tmp_path, store):
    scores = measured_with(tmp_path, 42)
    looks.record(scores, store)
    [first] = looks.seen(scores, store)
    write_scores(scores, tmp_path / "scores.json")
    looks.record(read_scores(tmp_path / "scores.json"), store)
    assert looks.seen(scores, store) == [first]
    judged = replace(scores.measures["accuracy"], judge="some judge", statistics=numpy.ones((1, 40, 2)))
    looks.record(replace(scores, measures={**scores.measures, "Correctness [GEval]": judged}), store)
    assert looks.seen(scores, store) == [first], "a judge reads the same answers"
    looks.record(measured_with(tmp_path, 42, wrong=4), store)
    assert len(looks.seen(scores, store)) == 2, "trained again, the same seed gave another adapter"
    looks.record(measured_with(tmp_path, 43, evaluation="cd" * 32), store)
    assert len(looks.seen(scores, store)) == 2, "another evaluation has looks of its own"
    assert looks.seeds_seen(scores, store) == {42, 43}, "but its seeds are not new"


def test_a_run_of_some_of_the_seeds_is_no_rival_of_all_of_them(tmp_path, store):
    parts, whole = [measured_with(tmp_path, seed) for seed in (42, 43)], measured_with(tmp_path, 42, 43)
    for scores in (*parts, whole):
        looks.record(scores, store)
    assert looks.count(whole, store, since="") == 1
    assert looks.count(parts[0], store, since="") == 3


def test_a_fresh_measurement_could_be_picked_among_fresh_ones_only(tmp_path, store):
    for seed in range(42, 47):
        looks.record(measured_with(tmp_path, seed), store)
    fresh = measured_with(tmp_path, 47, 48)
    looks.record(fresh, store)
    looks.record(fresh, store, fresh=True)
    looks.record(fresh, store)  # scored again later: still fresh
    assert looks.count(fresh, store, since="") == 1
    again = measured_with(tmp_path, 49, 50)
    looks.record(again, store, fresh=True)
    assert looks.count(again, store, since="") == 2, "the first fresh one was not taken"


def test_a_run_of_elsewhere_has_unknown_looks(tmp_path, store):
    looks.record(measured_with(tmp_path, 42), store)
    origin, said = origin_of(tmp_path, measured_with(tmp_path, 43), store)
    assert origin["looks"] is None
    assert "looks: unknown" in said


def test_one_seed_is_said_to_be_no_recipe_unless_the_adapter_is_finished(tmp_path, store):
    _, said = origin_of(tmp_path, measured_with(tmp_path, 42), store)
    assert "held against this adapter and not its recipe" in said
    _, said = origin_of(tmp_path, measured_with(tmp_path, 42, 43), store)
    assert "recipe" not in said
    finished_one = measured_with(tmp_path, 42, evaluation="cd" * 32)
    finished_one = replace(finished_one, training={**finished_one.training, "finished": "ab" * 32})
    _, said = origin_of(tmp_path, finished_one, store)
    assert "recipe" not in said


def test_accepting_the_same_scores_again_keeps_their_date_and_looks(tmp_path, store):
    runs = [measured_with(tmp_path, seed) for seed in (42, 43)]
    for scores in runs:
        looks.record(scores, store)
    first, _ = origin_of(tmp_path, runs[0], store)
    again, _ = origin_of(tmp_path, runs[0], store)
    assert (again["accepted"], again["looks"]) == (first["accepted"], 2), "else the spent alarms would come back"


def test_the_report_of_a_later_run_says_what_it_is_compared_with():
    accepted = {"file": "tiny@abababab.json", "seeds": ["42"], "differences": [], "question": "these adapters differ"}
    result = Result("phase1", "tiny", "tiny", "nano", (), {}, {})
    picked = {**accepted, "origin": {"looks": 5}, "comparison": 21}
    sentence = findings.against_accepted(replace(result, details={"reference": picked}))
    assert "It could be picked among 5 measurements, so that later runs fail more often by chance." in sentence
    assert "Comparison 21 with it; its false alarms are shared by all of them." in sentence
    for origin in ({"looks": 1}, {"looks": None}, {}):
        plain = {**accepted, "origin": origin, "comparison": None}
        sentence = findings.against_accepted(replace(result, details={"reference": plain}))
        assert "picked" not in sentence
        assert "Comparison" not in sentence


def test_a_store_that_cannot_be_written_or_read_is_named(tmp_path, store):
    said = []
    (tmp_path / "file").write_text("")
    broken = Store(tmp_path / "file", said.append)
    looks.record(measured_with(tmp_path, 42), broken)
    assert re.search(r"file.*set a writable folder with --prism-home; until then `prism accept`", said[0])
    with pytest.raises(StoreError, match="set a writable folder with --prism-home"):
        looks.require_writable(broken)
    scores = measured_with(tmp_path, 42)
    looks.record(scores, store)
    [path] = (store.home / "evaluations").rglob("*.json")
    path.write_text("{}")
    with pytest.raises(StoreError, match=r"cannot be read .*; delete it, and run that measurement again"):
        looks.count(scores, store, since="")


# Fresh seeds


def test_new_seeds_are_those_that_nobody_has_seen():
    assert new_seeds(42, 3, {42, 43, 45}) == [44, 46, 47]
    assert new_seeds(2**32 - 1, 2, {2**32 - 1}) == [0, 1], "within the range that NumPy takes"


@pytest.mark.parametrize("asked", ["4294967296-4294967296", "4294967290-4294967300", "7,4294967296"])
def test_a_seed_beyond_numpys_range_is_refused_before_training(asked):
    with pytest.raises(SpecError, match=r"must be below 2\*\*32"):
        training_seeds(asked, 42)


def test_as_many_seeds_are_drawn_as_either_run_has_and_at_least_two(tmp_path, store):
    setting = Setting(tmp_path, store, Console())
    one, spec = measured_with(tmp_path, 42), tiny_spec(tmp_path)
    looks.record(measured_with(tmp_path, 44), store)
    assert draw(one, spec, setting) == [43, 45]
    accept(finished(tmp_path, measured_with(tmp_path, 46, 47, 48)), tmp_path)
    assert draw(one, spec, setting) == [43, 45, 49], "else it could not replace the accepted one"


def test_a_judged_run_needs_its_judge_again(tmp_path):
    scores = measured_with(tmp_path, 42)
    graded = replace(scores.measures["accuracy"], judge="openai:some 1234")
    run = finished(tmp_path, replace(scores, measures={**scores.measures, "accuracy": graded}))
    ask = ["accept", str(run), "--fresh", "--force", "--root", str(tmp_path), "--home", str(tmp_path / "home")]
    refused = CliRunner().invoke(app, ask, env={"PRISM_JUDGE": ""})
    assert "was judged by openai:some 1234; name that judge with --judge" in refused.output


def test_fresh_is_refused_before_anything_is_trained(tmp_path):
    scores = measured_with(tmp_path, 42)
    run = finished(tmp_path, scores)

    def refused(*words):
        ask = ["accept", str(run), "--fresh", "--root", str(tmp_path), "--home", str(tmp_path / "home"), *words]
        return CliRunner().invoke(app, ask)

    spec = tmp_path / "benchmarks" / "specs" / "phase1" / "tiny.toml"
    assert "there is no git commit to repeat it from" in refused().output
    (tmp_path / "file").write_text("")
    assert "set a writable folder with --prism-home" in refused("--force", "--home", str(tmp_path / "file")).output
    text = spec.read_text()
    spec.write_text(text.replace('profile  = "nano"', 'profile  = "nano"\nadapter = "mine"'))
    assert "no new seed trains again; accept its run without --fresh" in refused("--force").output
    next((run / "scores").iterdir()).unlink()
    seal(run)
    assert "contains no scores" in refused("--force").output


# Alarms over a reference


def test_a_reference_spends_its_false_alarms_once():
    spent = [0.05 / alarms.parts(number) for number in range(1, 2001)]
    assert sum(spent[:20]) == pytest.approx(0.025)
    assert math.fsum(spent) <= 0.05
    assert spent == sorted(spent, reverse=True)


def git_commit(root, message, date):
    ask_git(root, "add", "-A")
    command = ["git", "-c", "user.name=t", "-c", "user.email=t@t", "commit", "-qm", message, "--allow-empty"]
    subprocess.run(command, cwd=root, check=True, env={**os.environ, "GIT_COMMITTER_DATE": date})


@pytest.fixture
def history(tmp_path, store):
    """A reference of one seed, and 21 commits since, the first of which commits it."""
    root = tmp_path / "checkout"
    scores = measured_with(root, 42)
    path = root / "benchmarks" / "specs" / "phase1" / "tiny.toml"
    path.write_text(path.read_text().replace("gain = 0.9", "drop = 0.02").replace("ceiling = 1.0", "drop = 0.01"))
    subprocess.run(["git", "init", "-q", root], check=True)
    git_commit(root, "before", "2026-01-01T00:00:00+00:00")
    origin = {"accepted": "2026-01-02T00:00:00.000000+00:00"}
    write_scores(replace(scores, origin=origin), root / FOLDER / f"{scores.name}.json")
    for day in range(3, 24):
        git_commit(root, f"day {day}", f"2026-01-{day:02}T00:00:00+00:00")
    return root


def test_each_commit_since_the_acceptance_is_a_comparison(history, store):
    new = measured_with(store.home, 43)
    assert alarms.share(history, "nano", new, "run", store) == alarms.Share(2)
    assert alarms.share(history, "nano", new, "reference", store) == alarms.Share(2 * 80, 21)
    ask_git(history, "checkout", "-q", "HEAD~1")
    assert alarms.share(history, "nano", new, "reference", store) == alarms.Share(2 * 40, 20)


def test_a_fresh_clone_counts_as_its_origin_and_a_cut_one_is_refused(history, tmp_path, store):
    new = measured_with(tmp_path, 43)
    subprocess.run(["git", "clone", "-q", history, tmp_path / "whole"], check=True)
    assert alarms.share(tmp_path / "whole", "nano", new, "reference", Store(tmp_path / "empty")).comparison == 21
    subprocess.run(["git", "clone", "-q", "--depth=3", f"file://{history}", tmp_path / "cut"], check=True)
    with pytest.raises(ScoresError, match="set fetch-depth: 0 in actions/checkout"):
        alarms.share(tmp_path / "cut", "nano", new, "reference", store)


def test_without_git_the_store_counts(tmp_path, store):
    reference = measured_with(tmp_path, 42)
    looks.record(reference, store)
    accept(finished(tmp_path, reference), tmp_path, store=store)
    later = [measured_with(tmp_path, seed) for seed in range(43, 65)]
    for scores in later:
        looks.record(scores, store)
    found = [alarms.share(tmp_path, "nano", scores, "reference", store).comparison for scores in (later[0], later[21])]
    assert found == [1, 22]
    assert alarms.share(tmp_path, "nano", reference, "reference", store).comparison == 1, "not one with itself"


def test_a_reference_without_a_date_is_refused_and_none_costs_nothing(tmp_path, store):
    new = measured_with(tmp_path, 43)
    assert alarms.share(tmp_path, "nano", new, "reference", store) == alarms.Share(1)
    write_scores(measured_with(tmp_path, 42), tmp_path / FOLDER / f"{new.name}.json")
    with pytest.raises(ScoresError, match="does not say when it was accepted"):
        alarms.share(tmp_path, "nano", new, "reference", store)


@pytest.mark.parametrize("text", ["[" * 100_000, "5", "[]", "{}", '{"seeds": [' + "9" * 5_000 + "]}", "\0"])
def test_a_look_that_is_none_is_named_with_its_remedy(tmp_path, store, text):
    scores = measured_with(tmp_path, 42)
    looks.record(scores, store)
    [file] = (tmp_path / "home" / "evaluations").rglob("*.json")
    file.write_text(text)
    with pytest.raises(StoreError, match=r"cannot be read \(.*\); delete it, and run that measurement again") as fault:
        accept(finished(tmp_path, scores), tmp_path, store=store)
    assert "\n" not in str(fault.value)
    assert not (tmp_path / FOLDER).exists()
