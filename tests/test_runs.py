"""A smoke run with few rows, the profile of a project that has one, and the list of runs."""

import json
import re

import pytest
from typer.testing import CliRunner

from prism.cli import app
from prism.plugin.results import partial
from prism.plugin.scheduling import choose_profile, limited
from prism.spec import load_spec
from prism.verdicts.scores import read_scores
from tests.conftest import SPEC, results, write_spec

ADAPTER = 'adapter = "owner/name"\n[data]'


@pytest.mark.parametrize(
    ("rows", "expected"), [(None, (96, 40)), (8, (8, 8)), (60, (60, 40))], ids=["all", "fewer", "fewer to train on"]
)
def test_a_limit_only_takes_rows_away(tmp_path, rows, expected):
    spec = limited(load_spec(write_spec(tmp_path, SPEC.format(data="rows.csv", model="base"))), rows)
    assert (spec.data.train_rows, spec.data.eval_rows) == expected


def test_a_limit_names_no_training_rows_of_a_finished_adapter(tmp_path):
    text = SPEC.format(data="rows.csv", model="base").replace("[data]", ADAPTER).replace("train_rows = 96\n", "")
    text = text.replace('split = { test_size = 0.25, stratify = "sentiment" }\n', "")
    spec = limited(load_spec(write_spec(tmp_path, text)), 8)
    assert (spec.data.train_rows, spec.data.eval_rows) == (None, 8)


def test_a_limited_run_is_partial_whatever_it_decided():
    assert partial([], [], "") == ""
    assert partial([], [], "", 8).startswith("a smoke run, --prism-limit 8: at most 8 held-out and 8 training rows")
    assert partial([], [], "the run was interrupted", 8) == "the run was interrupted"


@pytest.mark.parametrize("rows", ["1", "-4", "ten", "1.5"])
def test_a_limit_that_is_no_number_of_rows_is_refused(checkout, rows):
    out = checkout.runpytest_subprocess("benchmarks", "--prism-limit", rows)
    assert out.ret == 4
    out.stderr.fnmatch_lines([f"ERROR: --prism-limit {rows}: must be a whole number of rows, 2 or more"])


@pytest.mark.slow
def test_a_smoke_run_is_said_to_be_one_and_is_not_accepted(checkout):
    out = checkout.runpytest_subprocess("benchmarks", "--prism-limit", "9")
    out.stdout.fnmatch_lines(["PARTIAL: a smoke run, --prism-limit 9: at most 9 held-out and 9 training rows*"])
    found = results(checkout)
    assert {record["n"] for record in found["records"] if record["tier"] == "tier1"} == {9}
    (scores,) = (checkout.path / "reports" / "latest" / "scores").rglob("*.json")
    assert read_scores(scores).training["training_rows"] == 9
    for page in ("report.md", "report.html"):
        assert "--prism-limit 9" in (checkout.path / "reports" / "latest" / page).read_text(encoding="utf-8")
    done = CliRunner().invoke(app, ["accept", "reports/latest", "--home", "home"])
    assert done.exit_code == 2
    assert "not accepted, because it is partial (a smoke run" in done.output


def test_the_only_profile_of_a_project_is_run(tmp_path, monkeypatch):
    monkeypatch.setattr("prism.plugin.scheduling.cuda_devices", lambda: 0)
    monkeypatch.setattr("prism.plugin.scheduling.cuda_fault", lambda: "")
    text = SPEC.format(data="rows.csv", model="base").replace('"nano"', '"small"')
    one = write_spec(tmp_path, text, "one")
    assert choose_profile(None, [one]) == ("small", "the only one of these specs")
    assert choose_profile("full", [one]) == ("full", "--prism-profile")
    broken = write_spec(tmp_path, "profile = [", "broken")
    assert choose_profile(None, [one, broken])[0] == "small", "what cannot be read is said later, and decides nothing"
    other = write_spec(tmp_path, text.replace('"small"', '"full"'), "other")
    assert choose_profile(None, [one, other]) == ("nano", "no CUDA device")


def run_folder(root, name, **changed):
    folder = root / "reports" / "runs" / name
    folder.mkdir(parents=True)
    told = {
        "schema": 1,
        "specs": [{"phase": "phase1", "spec": "nano"}, {"phase": "desk", "spec": "mine"}],
        "verdict": "pass",
        "partial": "",
        "provenance": {"commit": "0123456789abcdef", "dirty": False},
    }
    (folder / "results.json").write_text(json.dumps(told | changed))


def listed(root):
    return CliRunner().invoke(app, ["runs", "--root", str(root)])


def test_runs_are_listed_with_what_they_are(tmp_path, monkeypatch):
    run_folder(tmp_path, "20260102-030405-1f", partial="a smoke run\x1b[2J", provenance={"commit": None, "dirty": None})
    run_folder(tmp_path, "20260103-030405-2f", verdict="fail", provenance={"commit": "f" * 40, "dirty": True})
    run_folder(tmp_path, "20260104-030405-3f", schema=2)
    run_folder(tmp_path, "20260105-030405-4f", specs=None)
    (tmp_path / "reports" / "runs" / ".20260106-030405-5f").mkdir()  # still being written
    monkeypatch.setenv("COLUMNS", "120")
    done = listed(tmp_path)
    assert done.exit_code == 0
    head, _, *lines = done.stdout.splitlines()
    assert head.split() == ["verdict", "run", "date", "specs", "partial", "commit"]
    assert re.search("2026-01-02 03:04 +phase1/nano, desk/mine", lines[0])
    assert "a smoke run\\x1b[2J" in lines[0]
    assert lines[0].endswith("none")
    assert lines[1].split()[:2] == ["fail", "20260103-030405-2f"]
    assert lines[1].split()[-3:] == ["ffffffff", "+", "changes"]
    whole = " ".join(done.stdout.split())
    assert "unread: schema 2, not 1 20260104-030405-3f" in whole
    assert re.search(r"unread: \w+ 20260105-030405-4f", whole)
    assert "5f" not in whole
    assert max(map(len, done.stdout.splitlines())) <= 120
    monkeypatch.setenv("COLUMNS", "80")
    narrow = listed(tmp_path).stdout.splitlines()
    assert max(map(len, narrow)) <= 80
    assert any(re.match(r"unread: schema 2, not 1 +20260104-030405-3f", line) for line in narrow), (
        "verdict and id are whole"
    )


def test_no_run_is_one_sentence(tmp_path):
    done = listed(tmp_path)
    assert done.exit_code == 2
    assert (
        done.output
        == f"prism: {tmp_path}/reports/runs: holds no run; `pytest benchmarks` makes one, or name its folder by --reports\n"
    )
