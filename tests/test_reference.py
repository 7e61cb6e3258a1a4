"""Accepted results: what a file says of itself, what is refused, and what git remembers."""

import json
import os
import platform
import re
import subprocess
from dataclasses import replace

import numpy
import pytest
from typer.testing import CliRunner

from prism import report
from prism.acceptance import accept
from prism.cli import app
from prism.errors import PrismError, ScoresError, StoreError
from prism.spec import Limit, threshold_id
from prism.store import digest
from prism.store.seal import seal
from prism.tasks import metrics_of
from prism.verdicts.accepted import FOLDER, ask_git, competing_drops, gather_scores
from prism.verdicts.drops import against_accepted, shown
from prism.verdicts.gate import decide
from prism.verdicts.history import history
from prism.verdicts.possible import require_possible
from prism.verdicts.record import NO_SCORE, Record, Result, Run, Score, Verdict
from prism.verdicts.scores import Measure, Scores, parse_scores, read_scores, write_scores
from tests.conftest import ROOT, SPEC, write_spec
from tests.scored import EVALUATION, answers, scored, tiny_spec
from tests.test_gate import record


@pytest.fixture
def scores(tmp_path):
    return scored(tiny_spec(tmp_path), {42: answers(40, wrong=range(5)), 43: answers(40, wrong=range(4, 8))})


def same(one: Scores, other: Scores) -> bool:
    arrays = all(
        numpy.array_equal(one.measures[name].statistics, other.measures[name].statistics, equal_nan=True)
        for name in one.measures
    )
    bare = [
        replace(side, measures={k: replace(m, statistics=None) for k, m in side.measures.items()})
        for side in (one, other)
    ]
    return arrays and bare[0] == bare[1]


def test_file_comes_back_as_it_was_and_is_one_line_a_sample(tmp_path, scores):
    path = tmp_path / f"tiny@{EVALUATION[:8]}.json"
    write_scores(scores, path)
    text = path.read_text()
    assert same(read_scores(path), scores)
    write_scores(read_scores(path), path)
    assert path.read_text() == text, "the same scores are the same bytes"
    assert sum('"00000000' in line for line in text.splitlines()) == 40
    # Sample 0 of seed 42 is right now.
    write_scores(
        scored(tiny_spec(tmp_path), {42: answers(40, wrong=range(1, 5)), 43: answers(40, wrong=range(4, 8))}), path
    )
    differing = [a for a, b in zip(text.splitlines(), path.read_text().splitlines(), strict=True) if a != b]
    assert [line for line in differing if line.startswith('"0000')] == ['"000000000000":[[4,5]],']


def test_real_set_of_five_seeds_and_five_metrics_is_small(tmp_path):
    random = numpy.random.default_rng(0)
    said = {seed: answers(7_619, wrong=set(random.permutation(7_619)[:2000].tolist())) for seed in range(42, 47)}
    write_scores(scored(tiny_spec(tmp_path), said), tmp_path / "large.json")
    assert (tmp_path / "large.json").stat().st_size < 300_000


def test_unscored_samples_stay_unscored_and_group_names_stay_out(tmp_path):
    spec = tiny_spec(tmp_path)
    scores = scored(spec, {42: answers(40)}, groups=4)
    values = numpy.random.default_rng(0).random((1, 40, 1)).round(6)
    statistics = numpy.concatenate([values, numpy.ones((1, 40, 1))], -1)
    statistics[0, 7] = numpy.nan
    judged = Measure("tier3", 1, "openai:some 1234", 0.5, (0.4, 0.6), {"42": 0.5}, statistics)
    scores = replace(scores, measures=scores.measures | {"Sentiment Correctness [GEval]": judged})
    write_scores(scores, tmp_path / "scores.json")
    assert same(read_scores(tmp_path / "scores.json"), scores)
    assert numpy.isnan(
        read_scores(tmp_path / "scores.json").measures["Sentiment Correctness [GEval]"].statistics[0, 7]
    ).all()
    assert "topic" not in (tmp_path / "scores.json").read_text(), "a group's name may be text of a row"


def mended(text, **changes):
    """A file changed by somebody who knows how to make the checksum fit."""
    content = json.loads(text) | changes
    content.pop("checksum")
    return json.dumps({"checksum": digest(content), **content})


def deep(levels):
    return "[" * levels + "]" * levels


def metric(text, **changes):
    """A file whose accuracy says something else."""
    metrics = json.loads(text)["metrics"]
    return mended(text, metrics=metrics | {"accuracy": metrics["accuracy"] | changes})


def of_all(text, value):
    """A file in which every number of the first family of statistics is this one."""
    rows = json.loads(text)["rows"]
    return mended(text, rows=[[[value for _ in row] for row in rows[0]], *rows[1:]])


FAULTS = {
    "another schema": (lambda text: mended(text, schema=2), "has schema 2, but this PRISM reads 1"),
    "edited by hand": (lambda text: text.replace('"value":0.8875', '"value":0.8'), "was edited by hand or damaged"),
    "a sample left out": (lambda text: re.sub(r'"000000000007":.*\n', "", text), "was edited by hand or damaged"),
    "cut off": (lambda text: text[: len(text) // 2], "is not a file of scores"),
    "not a number": (lambda text: text.replace("0.8875", "NaN"), "NaN is not a score"),
    "a list": (lambda text: "[]", "is not a file of scores"),
    "no seeds": (lambda text: mended(text, rows=[]), "is an incomplete file of scores"),
    "nested deeply": (
        lambda text: text.replace('"origin": {}', f'"origin": {deep(100_000)}'),
        "is not a file of scores",
    ),
    "5,000 digits": (lambda text: text.replace('"origin": {}', f'"origin": {"9" * 5_000}'), "is not a file of scores"),
    "half of a character": (lambda text: text.replace('"origin": {}', '"origin": {"run": "\\ud83d"}'), "is not a file"),
    "a number beyond floats": (
        lambda text: of_all(text, 10**400),
        "incomplete file of scores (ValueError('a row of sta",
    ),
    "numbers as text": (lambda text: of_all(text, "1"), "incomplete file of scores (ValueError('a row of statistics"),
    "a width beyond memory": (lambda text: metric(text, width=10**12), "incomplete file of scores (ValueError('a row"),
    "a value beyond floats": (lambda text: metric(text, value=10**400), "(metrics.accuracy.value: Input should be"),
    "a name that is a path": (lambda text: mended(text, spec="../../tiny"), "(spec: Value error, '../../tiny' must be"),
    "a phase that is absolute": (
        lambda text: mended(text, phase="/tmp"),
        "(phase: Value error, '/tmp' must be a plain",
    ),
    "seeds that are none": (
        lambda text: metric(text, seeds={"x": 1}),
        "(metrics.accuracy.seeds.x.[key]: String should",
    ),
    "training of another type": (lambda text: mended(text, training={"adapters": [1]}), "(training.adapters: Input sh"),
    "looks of another type": (lambda text: mended(text, origin={"looks": "5"}), "(origin.looks: Input should be"),
    "a row that is not there": (
        lambda text: mended(text, samples={name: [[0, 99]] for name in json.loads(text)["samples"]}),
        "a sample names a row of statistics that is not there",
    ),
    "a row counted from the end": (
        lambda text: mended(text, samples={name: [[0, -2]] for name in json.loads(text)["samples"]}),
        "a sample names a row of statistics that is not there",
    ),
    "other samples than its name says": (
        lambda text: mended(text, evaluation_digest="cd" * 32),
        "contains phase1/tiny@cdcdcdcd but is named differently; rename it to tiny@cdcdcdcd.json",
    ),
}


@pytest.mark.parametrize(("damage", "sentence"), FAULTS.values(), ids=FAULTS)
def test_a_bad_reference_is_named_and_the_gate_fails(tmp_path, scores, damage, sentence):
    path = tmp_path / FOLDER / f"{scores.name}.json"
    write_scores(scores, path)
    limit = Limit(tier="tier1", metric="accuracy", key="drop", value=0.0)
    assert decide(limit, record(), against_accepted(tmp_path, scores, metrics_of(scores, ROOT), 1)).state == "holds"
    bad = damage(path.read_text())
    assert bad != path.read_text()
    path.write_text(bad)
    with pytest.raises(ScoresError, match=re.escape(sentence)) as fault:
        read_scores(path)
    assert re.search(r"restore it|accept|give it that name", str(fault.value)), "the remedy"
    verdict = decide(limit, record(), against_accepted(tmp_path, scores, metrics_of(scores, ROOT), 1))
    assert verdict.state == "fails"
    assert sentence in verdict.reason


IMPOSSIBLE = {
    "statistics of -1000": (lambda text: of_all(text, -1000), "a sample (0000", "statistics outside [0, 1]"),
    "another value": (
        lambda text: metric(text, value=0.95, ci=[0.9, 1]),
        "a value of 0.95 that is not the mean of its",
    ),
    "another value of a seed": (
        lambda text: metric(text, value=0.9, ci=[0.8, 1], seeds={"42": 0.9, "43": 0.9}),
        "a value of 0.9 with seed 42, but its samples give 0.875",
    ),
    "a value out of range": (lambda text: metric(text, value=1.5), "a value of 1.5, outside its range [0, 1]"),
    "an interval beside it": (lambda text: metric(text, ci=[0.1, 0.2]), "an interval [0.1, 0.2] that leaves out its"),
    "more samples than scored": (lambda text: metric(text, n=41), "a value of 41 samples, of which 40 are scored"),
}


@pytest.mark.parametrize(
    ("forge", "sentence", "also"), [(*case, "")[:3] for case in IMPOSSIBLE.values()], ids=IMPOSSIBLE
)
def test_a_reference_whose_numbers_no_run_can_measure_is_refused(tmp_path, scores, forge, sentence, also):
    """Somebody who makes the checksum fit is told what cannot be."""
    path = tmp_path / FOLDER / f"{scores.name}.json"
    write_scores(scores, path)
    path.write_text(forge(path.read_text()))
    limit = Limit(tier="tier1", metric="accuracy", key="drop", value=0.0)
    verdict = decide(limit, record(), against_accepted(tmp_path, scores, metrics_of(scores, ROOT), 1))
    assert verdict.state == "fails"
    assert f"phase1/tiny@abababab: accuracy has {sentence}" in verdict.reason
    assert also in verdict.reason
    write_scores(scores, tmp_path / "run.json")
    shown = CliRunner().invoke(app, ["compare", str(path), str(tmp_path / "run.json"), "--root", str(ROOT)])
    assert shown.exit_code == 2
    assert sentence in " ".join(shown.output.split())


def test_a_value_of_fewer_samples_than_are_scored_is_not_held_against_all_of_them(scores):
    """The baseline's judge may have left some unscored, and an older file does not say how many."""
    measure = replace(scores.measures["accuracy"], value=0.9, ci=(0.8, 1.0), seeds={"42": 0.9, "43": 0.9})
    for n in (39, None):
        require_possible(replace(scores, measures={"accuracy": replace(measure, n=n)}), metrics_of(scores, ROOT))
    with pytest.raises(ScoresError, match="its samples give"):
        require_possible(replace(scores, measures={"accuracy": replace(measure, n=40)}), metrics_of(scores, ROOT))


def test_the_accepted_runs_of_this_repository_are_read_and_possible():
    files = sorted((ROOT / FOLDER).rglob("*@*.json"))
    assert files
    for path in files:
        found = read_scores(path)
        require_possible(found, metrics_of(found, ROOT))


def test_a_reference_that_lacks_samples_fails_the_gate(tmp_path, scores):
    part = {name: replace(m, statistics=m.statistics[:, 3:], n=None) for name, m in scores.measures.items()}
    write_scores(
        replace(scores, ids=scores.ids[3:], groups=scores.groups[3:], measures=part),
        tmp_path / FOLDER / f"{scores.name}.json",
    )
    verdict = decide(
        Limit(tier="tier1", metric="accuracy", key="drop", value=0.0),
        record(),
        against_accepted(tmp_path, scores, metrics_of(scores, ROOT), 1),
    )
    assert verdict.state == "fails"
    assert "lacks 3 of 40 samples, first 000000000000" in verdict.reason


# Accepting


def told_of(scores, **changed):
    """A record a metric that says what the scores say, the first with a floor that holds."""
    records = []
    for name, measure in scores.measures.items():
        counted = ~numpy.isnan(measure.statistics).any((0, 2))
        found = Record(
            phase=scores.phase,
            spec=scores.spec,
            profile=scores.profile,
            data="rows",
            evaluation_digest=scores.evaluation_digest,
            tier=measure.tier,
            metric=name,
            direction="higher",
            n=int(counted.sum()),
            groups=len({group for group, scored in zip(scores.groups, counted) if scored}),
            unscored=int((~counted).sum()),
            seeds=dict(measure.seeds),
            baseline=NO_SCORE,
            tuned=Score(measure.value, measure.ci),
            gain=NO_SCORE,
            verdicts=() if records else (Verdict("floor", 0.0, "holds", "0.8 ≥ 0"),),
        )
        records.append(replace(found, **changed) if not records else found)
    return records


def finished(root, scores, records=None, details=None, **told):
    """The folder of a run, as the plugin leaves it."""
    provenance = {"commit": "0123456789abcdef", "dirty": False, "machine": {"cores": 2}} | told.pop("provenance", {})
    records = told_of(scores) if records is None else records
    decided = tuple(
        threshold_id(record.tier, record.metric, verdict.key) for record in records for verdict in record.verdicts
    )
    known = {
        "id": "20260102-030405-1f",
        "complete": True,
        "partial": "",
        "verdict": "pass",
        "reason": "all 3 hold",
        "command": "pytest",
        "provenance": provenance,
    }
    folder = root / "reports" / "runs" / "20260102-030405-1f"
    result = Result(scores.phase, scores.spec, "Tiny", scores.profile, tuple(records), details or {}, {}, decided)
    write_scores(scores, folder / "scores" / f"{scores.phase}-{scores.spec}.json")
    report.write(folder, Run(results=(result,), **known | told), {})
    seal(folder)
    return folder


def test_accept_writes_what_the_run_measured_and_where(tmp_path, scores):
    [accepted] = accept(finished(tmp_path, scores), tmp_path)
    assert accepted.path == tmp_path / "reports" / "reference" / "phase1" / "tiny@abababab.json"
    assert accepted.old is None
    found = read_scores(accepted.path)
    assert found.origin["commit"] == "0123456789abcdef"
    assert found.origin["date"] == "2026-01-02"
    assert same(replace(found, origin={}), scores)


DOUBTS = {
    "partial": (
        {"complete": False, "partial": "2 of 3 thresholds were not selected"},
        "it is partial (2 of 3 thresholds",
    ),
    "failed": ({"verdict": "fail", "reason": "1 of 3 thresholds do not hold"}, "it failed (1 of 3"),
    "changed tree": ({"provenance": {"dirty": True}}, "its working tree had uncommitted changes"),
    "unknown tree": ({"provenance": {"dirty": None}}, "git could not say whether its working tree had"),
    "no commit": ({"provenance": {"commit": None}}, "no commit is known"),
}


@pytest.mark.parametrize(("told", "sentence"), DOUBTS.values(), ids=DOUBTS)
def test_doubtful_runs_are_refused_unless_forced(tmp_path, scores, told, sentence):
    run = finished(tmp_path, scores, **told)
    with pytest.raises(ScoresError, match=re.escape(sentence)):
        accept(run, tmp_path)
    assert not (tmp_path / FOLDER).exists()
    [accepted] = accept(run, tmp_path, force=True)
    assert sentence in read_scores(accepted.path).origin["forced"][0], "a reference says that it was forced"


def test_what_cannot_be_accepted_at_all(tmp_path, scores):
    with pytest.raises(StoreError, match=r"has no seal\.json, so it is not a finished run"):
        accept(tmp_path, tmp_path)
    bad = replace(scores, measures={"accuracy": replace(scores.measures["accuracy"], value=numpy.nan)})
    with pytest.raises(ScoresError, match="accuracy is not a number"):
        accept(finished(tmp_path, bad), tmp_path, force=True)
    (tmp_path / "reports" / "reference").write_text("a file")
    with pytest.raises(ScoresError, match=r"cannot be written .* make reports/reference writable"):
        accept(finished(tmp_path, scores), tmp_path)


def test_a_run_of_a_name_that_is_a_path_is_refused_whatever_is_forced(tmp_path, scores):
    """An artifact of a pull request says where its reference is to be written."""
    run = finished(tmp_path, scores)
    before = sorted(tmp_path.rglob("*"))
    names = (
        "../../out",
        "/tmp/out",
        "..",
        ".",
        "",
        "a\\b",
        "c:d",
        "nul\0",
        "line\nend",
        "x" * 300,
        "\x1b[2J",
        " ",
        "a@b",
    )
    for key in ("phase", "spec"):
        for name in names:
            content = json.loads((run / "results.json").read_text())
            for table in (*content["records"], *content["specs"], *content["cost"]):
                table[key] = name
            (run / "results.json").write_text(json.dumps(content))
            seal(run)
            with pytest.raises(ScoresError, match=r"is not a finished run .* must be a plain name of at most 80"):
                accept(run, tmp_path, force=True)
    path = run / "scores" / "phase1-tiny.json"
    finished(tmp_path, scores)
    path.write_text(mended(path.read_text(), phase="../../../out"))
    seal(run)
    with pytest.raises(ScoresError, match=r"incomplete file of scores .*'../../../out' must be a plain name"):
        accept(run, tmp_path, force=True)
    assert sorted(tmp_path.rglob("*")) == before


def test_nothing_is_written_through_a_link(tmp_path, scores):
    run, outside = finished(tmp_path, scores), tmp_path / "outside"
    outside.mkdir()
    (tmp_path / FOLDER).mkdir()
    (tmp_path / FOLDER / "phase1").symlink_to(outside, target_is_directory=True)
    with pytest.raises(ScoresError, match="phase1: is reached by a link, so that git has no file of it"):
        accept(run, tmp_path, force=True)
    assert not list(outside.iterdir())
    (tmp_path / FOLDER / "phase1").unlink()
    (run / "scores").rename(tmp_path / "elsewhere")
    (run / "scores").symlink_to(tmp_path / "elsewhere", target_is_directory=True)
    with pytest.raises(StoreError, match="scores: is a link, which a run's folder has none of"):
        accept(run, tmp_path, force=True)


def rewrite(file, old, new):
    text = file.read_text()
    assert old in text
    file.write_text(text.replace(old, new, 1))


EDITS = {
    "a verdict": (lambda run: rewrite(run / "results.json", '"holds"', '"fails"'), "results.json: was changed since"),
    "the commit": (lambda run: rewrite(run / "results.json", "0123456789", "9876543210"), "results.json: was changed"),
    "the tree": (lambda run: rewrite(run / "results.json", '"dirty": false', '"dirty": true'), "results.json: was"),
    "the report": (lambda run: rewrite(run / "report.md", "Tiny", "Huge"), "report.md: was changed since"),
    "a score": (lambda run: rewrite(run / "scores" / "phase1-tiny.json", "[[", "[ ["), "phase1-tiny.json: was changed"),
    "a file more": (lambda run: (run / "scores" / "phase1-mine.json").write_text("{}"), "phase1-mine.json: was added"),
    "a file less": (lambda run: (run / "report.html").unlink(), "report.html: was removed since"),
    "the seal": (lambda run: rewrite(run / "seal.json", "report.md", "report.me"), "seal.json: was edited by hand"),
    "no seal": (lambda run: (run / "seal.json").unlink(), "has no seal.json, so it is not a finished run"),
    "a seal of nothing": (lambda run: (run / "seal.json").write_text("[]"), "seal.json: cannot be read"),
    "a deep seal": (lambda run: (run / "seal.json").write_text(deep(100_000)), "seal.json: cannot be read"),
}


@pytest.mark.parametrize(("edit", "sentence"), EDITS.values(), ids=EDITS)
def test_a_run_that_was_changed_since_it_was_finished_is_refused(tmp_path, scores, edit, sentence):
    run = finished(tmp_path, scores)
    edit(run)
    with pytest.raises(StoreError, match=re.escape(sentence)) as fault:
        accept(run, tmp_path, force=True)
    assert re.search("run the benchmarks again|move it away", str(fault.value)), "the remedy"
    assert not (tmp_path / FOLDER).exists()


def test_a_hidden_file_in_a_run_is_nobodys_result(tmp_path, scores):
    run = finished(tmp_path, scores)
    (run / "scores" / ".DS_Store").write_bytes(b"\0")
    accept(run, tmp_path)


def test_compare_names_the_file_of_a_run_that_was_changed(tmp_path, scores):
    run = finished(tmp_path, scores)
    rewrite(run / "report.md", "Tiny", "Huge")
    [same_scores] = gather_scores(str(run), tmp_path)
    assert same_scores.name == scores.name, "compare does not read the report"
    rewrite(run / "scores" / "phase1-tiny.json", "[[", "[ [")
    with pytest.raises(StoreError, match=r"phase1-tiny\.json: was changed since the run was finished"):
        gather_scores(str(run), tmp_path)


FLOOR = Verdict("floor", 0.99, "holds", "0.8875 ≥ 0.99")
GAIN = Verdict("gain", 0.1, "holds", "gain +0.3 ≥ +0.1")
CONTRADICTIONS = {
    "another value": ({"tuned": Score(0.99, (0.9, 1.0))}, "accuracy is 0.99 (all seeds), in the scores 0.8875"),
    "another seed": ({"seeds": {"42": 0.875, "44": 0.9}}, "accuracy is 0.9 (44), in the scores None"),
    "more samples": ({"n": 41}, "accuracy has 41 samples in 40 groups and 0 unscored; the scores have 40 in 40, of 40"),
    "fewer groups": ({"groups": 7}, "accuracy has 40 samples in 7 groups"),
    "more unscored": ({"unscored": 1}, "accuracy has 40 samples in 40 groups and 1 unscored"),
    "another evaluation": ({"evaluation_digest": "cd" * 32}, "accuracy is of evaluation_digest 'cdcd"),
    "another profile": ({"profile": "full"}, "accuracy is of profile 'full', the scores of 'nano'"),
    "another metric": ({"metric": "f1"}, "there are no scores by f1"),
}


@pytest.mark.parametrize(("changed", "sentence"), CONTRADICTIONS.values(), ids=CONTRADICTIONS)
def test_a_sealed_run_whose_results_are_not_those_of_its_scores_is_refused(tmp_path, scores, changed, sentence):
    """Scores of another run copied in, and sealed again."""
    run = finished(tmp_path, scores, told_of(scores, **changed))
    with pytest.raises(ScoresError, match=r"results\.json and .* contradict each other: " + re.escape(sentence)):
        accept(run, tmp_path, force=True)


@pytest.mark.parametrize("verdict", [FLOOR, GAIN], ids=["floor", "gain"])
def test_a_verdict_is_decided_again_from_its_numbers(tmp_path, scores, verdict):
    """A run says that it passed; its gain's interval holds 0, or its value is below the floor."""
    gain = Score(0.2, (-0.1, 0.5))
    run = finished(tmp_path, scores, told_of(scores, verdicts=(verdict,), gain=gain))
    with pytest.raises(ScoresError, match="it failed \\(1 of 1 threshold does not hold\\)"):
        accept(run, tmp_path)


def test_a_drop_is_decided_again_against_the_scores_that_are_accepted(tmp_path, scores):
    spec = tiny_spec(tmp_path)
    good, bad = (scored(spec, {42: answers(200, wrong=range(wrong))}) for wrong in (10, 90))
    accept(finished(tmp_path, good), tmp_path)
    metrics = metrics_of(bad, ROOT)
    against = against_accepted(tmp_path, bad, metrics, 1)
    [first, *others] = told_of(bad, verdicts=(Verdict("drop", 0.0, "holds", "nothing lost"),))
    told = shown(against, bad, [{"id": name} for name in bad.ids], {name: ["bullish"] for name in bad.ids})
    run = finished(tmp_path, bad, [against.beside(first), *others], {"reference": told | {"flipped": None}})
    with pytest.raises(ScoresError, match="it failed \\(1 of 1 threshold does not hold\\)"):
        accept(run, tmp_path)


def test_thresholds_that_were_not_reached_make_a_run_partial_whatever_it_says(tmp_path, scores):
    run = finished(tmp_path, scores)
    content = json.loads((run / "results.json").read_text())
    content["specs"][0]["decided"] = []
    (run / "results.json").write_text(json.dumps(content))
    seal(run)
    with pytest.raises(ScoresError, match="it is partial \\(1 of 1 thresholds of phase1/tiny were not selected"):
        accept(run, tmp_path)


def paths_of(value, here=()):
    """Every place in a JSON value; of a list, the first item."""
    for key in value if isinstance(value, dict) else range(min(1, len(value))) if isinstance(value, list) else ():
        yield (*here, key)
        yield from paths_of(value[key], (*here, key))


def changed_at(content, path, new):
    """A copy with the value at a path replaced, or deleted if `new` is ..."""
    content = json.loads(json.dumps(content))
    place = content
    for key in path[:-1]:
        place = place[key]
    if new is ...:
        del place[path[-1]]
    else:
        place[path[-1]] = new
    return content


@pytest.mark.parametrize("file", ["results.json", "scores/phase1-tiny.json"])
def test_a_run_without_one_of_its_keys_or_of_another_type_gets_one_sentence(tmp_path, file, monkeypatch):
    """Every key in turn, sealed again: accepted as it says nothing of importance, or refused, and no traceback."""
    monkeypatch.setattr(os, "fsync", lambda file: None)  # thousands of them would take a minute
    few = scored(tiny_spec(tmp_path), {42: answers(6)})
    run = finished(tmp_path, few)
    (run / "report.html").unlink()  # which takes time to check
    whole = json.loads((run / file).read_text())
    refused = []
    for path in list(paths_of(whole)):
        for new in (..., "text", None, [5], {"a": 5}, -1, 10**400):
            content = changed_at(whole, path, new)
            if "checksum" in content and path != ("checksum",):
                content["checksum"] = digest({key: value for key, value in content.items() if key != "checksum"})
            (run / file).write_text(json.dumps(content))
            seal(run)
            try:
                accept(run, tmp_path)
            except PrismError as error:
                refused.append((path, new, str(error)))
    assert len(refused) > 150
    assert not [case for case in refused if "\n" in case[2] or len(case[2]) > 1_000]
    assert {found.parent for found in (tmp_path / FOLDER).rglob("*.json")} <= {tmp_path / FOLDER / "phase1"}


@pytest.mark.parametrize("text", [deep(100_000), "9" * 5_000, "[]", "5", "", '{"a": "\\ud800"}', "\0"])
def test_a_results_file_that_is_none_gets_one_sentence(tmp_path, scores, text):
    run = finished(tmp_path, scores)
    (run / "results.json").write_text(text)
    seal(run)
    refused = CliRunner().invoke(app, ["accept", str(run), "--root", str(tmp_path), "--force"])
    assert refused.exit_code == 2
    assert "is not a finished run" in " ".join(refused.output.split())


def test_what_a_killed_accept_leaves_is_not_taken_by_git_and_goes_with_the_next(tmp_path, scores):
    subprocess.run(["git", "init", "-q", tmp_path], check=True)
    (tmp_path / ".gitignore").write_text((ROOT / ".gitignore").read_text())
    folder = tmp_path / FOLDER / "phase1"
    folder.mkdir(parents=True)
    gone = subprocess.Popen(["true"])
    gone.wait()
    here = platform.node().partition(".")[0]
    leftover = folder / f".{scores.name.partition('/')[2]}.json.{here}-{gone.pid}"
    leftover.write_text("{")
    run = finished(tmp_path, scores)
    ask_git(tmp_path, "add", "-A")
    assert leftover.name not in ask_git(tmp_path, "status", "--porcelain")
    assert not gather_committed(tmp_path)
    [accepted] = accept(run, tmp_path)
    assert list(folder.iterdir()) == [accepted.path]
    ask_git(tmp_path, "add", "-A")
    assert accepted.path.name in ask_git(tmp_path, "status", "--porcelain")


def gather_committed(root):
    """The files of accepted scores that git would commit."""
    return ask_git(root, "ls-files", "--", FOLDER.as_posix()).split()


def test_separators_in_a_name_or_an_answer_end_no_line(tmp_path):
    """U+2028, U+0085 and form feeds end a line for str.splitlines, not for JSON lines; nor do other alphabets need quotes."""
    subprocess.run(["git", "init", "-q", tmp_path], check=True)
    spec = tiny_spec(tmp_path).model_copy(update={"name": "größe 1"})
    old, new = (scored(spec, {42: answers(40, wrong=range(wrong))}) for wrong in (5, 8))
    accept(finished(tmp_path, old), tmp_path)
    commit(tmp_path, "first")
    assert [entry.scores.id for entry in history(tmp_path)] == ["phase1/größe 1"]
    assert [side.id for side in gather_scores("git:HEAD", tmp_path)] == ["phase1/größe 1"]
    run = finished(tmp_path, new)
    odd = "one\u2028two\u2029three\x85four\x0cfive\x1cend"
    lines = [{"id": name, "question": odd, "tuned": odd, "reference": odd} for name in new.ids]
    (run / "samples").mkdir()
    (run / "samples" / "phase1-größe 1.jsonl").write_text(
        "".join(json.dumps(line, ensure_ascii=False) + "\n" for line in lines), encoding="utf-8"
    )
    ask = ["compare", "git:HEAD", str(run), "--root", str(tmp_path)]
    seal(run)
    found = CliRunner().invoke(app, ask)
    assert found.exit_code in (0, 1), found.output
    assert "worse by accuracy: 3 samples" in found.output
    assert found.output.count("'one") == 9, "question, answer and reference of each"
    for bad in ("{", deep(100_000), "5", "[]", "{}", '{"id": []}'):
        (run / "samples" / "phase1-größe 1.jsonl").write_text(bad)
        seal(run)
        found = CliRunner().invoke(app, ask)
        assert found.exit_code == 2, bad
        assert "is not a file of samples" in " ".join(found.output.split())


def test_accept_prints_what_changes(tmp_path, scores):
    ask = ["accept", str(finished(tmp_path, scores)), "--root", str(tmp_path)]
    first = CliRunner().invoke(app, ask)
    assert first.exit_code == 0
    assert "tiny@abababab.json: new, 2 seeds" in first.output
    better = scored(
        tiny_spec(tmp_path), {42: answers(40)}, training={"sft": {"learning_rate": 2e-3}, "rows": "cd" * 32}
    )
    finished(tmp_path, better)
    refused = CliRunner().invoke(app, ask)
    assert refused.exit_code == 2
    assert "it has 1 of the 2 seeds of the accepted run that it would replace" in refused.output
    second = CliRunner().invoke(app, [*ask, "--force"])
    forced = read_scores(next((tmp_path / FOLDER).rglob("*.json"))).origin["forced"]
    assert forced == ["it has 1 of the 2 seeds of the accepted run that it would replace"]
    assert re.search(r"accuracy +\.887 +1\.000 +\+\.113\n", second.output)
    assert "sft.learning_rate: 0.001 → 0.002" in second.output
    assert "seeds: 42, 43 → 42" in second.output
    finished(tmp_path, scores, verdict="fail")
    refused = CliRunner().invoke(app, ask)
    assert refused.exit_code == 2
    assert "pass --force" in refused.output


# Git


def commit(root, message):
    ask_git(root, "add", "-A")
    ask_git(root, "-c", "user.name=t", "-c", "user.email=t@t", "commit", "-qm", message)


@pytest.fixture
def committed(tmp_path, scores):
    """Two acceptances in git, the second one better and of one seed."""
    subprocess.run(["git", "init", "-q", tmp_path], check=True)
    accept(finished(tmp_path, scores), tmp_path)
    commit(tmp_path, "first")
    accept(finished(tmp_path, scored(tiny_spec(tmp_path), {42: answers(40)})), tmp_path, force=True)
    commit(tmp_path, "second")
    return tmp_path


def test_history_shows_each_metric_over_the_accepted_references(committed):
    assert [entry.scores.measures["accuracy"].value for entry in history(committed)] == [0.8875, 1.0]
    path = next((committed / FOLDER).rglob("*.json"))
    path.write_text(path.read_text().replace('"value":1.0', '"value":1.1'))
    shown = CliRunner().invoke(app, ["history", "--root", str(committed)]).output
    assert re.search(r"abababab +2 +\.887", shown)
    assert re.search(r"abababab +1 +1\.000", shown)
    assert re.search(r"not committed +abababab +tiny@abababab\.json: was edited by hand", shown)
    none = CliRunner().invoke(app, ["history", "phase9/none", "--root", str(committed)])
    assert none.exit_code == 2
    assert "no accepted run of phase9/none yet" in none.output


def test_history_names_a_revision_that_is_no_text(committed):
    path = next((committed / FOLDER).rglob("*.json"))
    path.write_bytes(b"\xff\xfe{")
    commit(committed, "damaged")
    assert history(committed)[-1].damage.startswith("tiny@abababab.json: is not a file of scores")


def test_a_revision_of_git_is_a_side_like_any_other(committed):
    [old] = gather_scores("git:HEAD~1", committed)
    [new] = gather_scores("git:HEAD", committed)
    assert [side.measures["accuracy"].value for side in (old, new)] == [0.8875, 1.0]
    with pytest.raises(ScoresError, match="git ls-tree .*: fatal: Not a valid object name none"):
        gather_scores("git:none", committed)
    with pytest.raises(ScoresError, match="no such run or accepted file"):
        gather_scores("nowhere", committed)


def test_a_name_that_carries_no_evaluation_is_not_checked(scores, tmp_path):
    write_scores(scores, tmp_path / "phase1-tiny.json")
    assert parse_scores((tmp_path / "phase1-tiny.json").read_text(), "phase1-tiny.json").name == "phase1/tiny@abababab"


def test_only_specs_with_accepted_scores_share_the_false_alarms(tmp_path, scores):
    """Somebody's new spec beside the shipped ones must not take power from their `drop` thresholds."""
    text = SPEC.format(data="rows.jsonl", model="fixtures/models/nano-text").replace("gain = 0.9", "drop = 0.02")
    write_spec(tmp_path, text)
    write_spec(tmp_path, text, "mine")
    assert competing_drops(tmp_path, "nano") == 0
    write_scores(scores, tmp_path / FOLDER / f"{scores.name}.json")
    assert competing_drops(tmp_path, "nano") == 1
    assert competing_drops(tmp_path, "full") == 0
    assert competing_drops(tmp_path, "nano", besides="phase1/tiny") == 0
    mine = replace(scores, spec="mine", evaluation_digest="cd" * 32)
    write_scores(mine, tmp_path / FOLDER / f"{mine.name}.json")
    assert competing_drops(tmp_path, "nano") == 2
