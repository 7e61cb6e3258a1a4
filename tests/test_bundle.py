"""Answers of runs brought home and scored again: two runs of one seed each become a run of two, without a model."""

import json
import re

import pytest

from prism.bundle import pack
from prism.errors import ScoresError
from prism.store import Store
from prism.verdicts.accepted import ask_git
from tests.conftest import results
from tests.scored import answers, scored, tiny_spec
from tests.test_drop import prism
from tests.test_plugin import change, run
from tests.test_reference import commit, finished

IGNORED = "home/\nrunpytest-*\nstdout\nstderr\nreports/runs/\nreports/latest\n.pytest_cache/\n__pycache__/\n*.tar.xz\n"


def rescored(checkout, *bundles):
    return prism(checkout, "rescore", *bundles, "--home", "other-home")


@pytest.fixture
def bundles(checkout):
    """Bundles of a run each of the seeds 42 and 43, on a machine without git."""
    change(checkout, "floor = 0.0, gain = 0.9", "floor = 0.0")
    for seed in (42, 43):
        run(checkout, "--prism-seeds", f"{seed}-{seed}")
        packed = prism(checkout, "bundle", "reports/latest", f"{seed}.tar.xz", "--home", str(checkout.path / "home"))
        assert packed.returncode == 0, packed.stderr
    return checkout


NOWHERE = "../" * 8 + "etc"


@pytest.mark.parametrize(
    ("told", "sentence"),
    [
        ({"artifacts": {"tuned": NOWHERE}}, "is no artifact of a store"),
        ({"artifacts": {"tuned": "/etc"}}, "'/etc' is no artifact of a store"),
        ({"artifacts": {"tuned": 5}}, "names no answers"),
        ({"artifacts": {}}, "it has no specs"),
        ({"artifacts": [1]}, "names no answers"),
        ({}, "names no answers"),
    ],
)
def test_a_run_that_names_files_outside_the_store_is_not_packed(tmp_path, told, sentence):
    """A run's folder may be an artifact of a pull request, and its bundle is passed on."""
    run = finished(tmp_path, scored(tiny_spec(tmp_path), {42: answers(6)}), details=told)
    with pytest.raises(ScoresError, match=re.escape(sentence)):
        pack(run, Store(tmp_path / "home"), tmp_path / "out.tar.xz")
    assert not list(tmp_path.glob("*out.tar.xz*"))


@pytest.mark.slow
def test_runs_of_one_seed_each_become_one_run_and_it_can_be_accepted(bundles):
    checkout = bundles
    (checkout.path / ".gitignore").write_text(IGNORED + "other-home/\n")
    ask_git(checkout.path, "init", "-q")
    commit(checkout.path, "the tree of those runs")
    done = rescored(checkout, "42.tar.xz", "43.tar.xz")
    assert done.returncode == 0, done.stderr
    again = results(checkout)
    assert "loading" not in done.stderr, "no model is needed"
    run(checkout, "--prism-seeds", "2")
    direct = results(checkout)
    assert again["records"] == direct["records"]
    assert again["records"][0]["seeds"].keys() == {"42", "43"}
    answered = again["provenance"]["answered"]
    assert [known["commit"] for known in answered] == [None, None]
    assert {known["tree"] for known in answered} == {direct["provenance"]["tree"]}
    accepted = prism(checkout, "accept", again["id"])
    assert accepted.returncode == 0, accepted.stderr
    [path] = (checkout.path / "reports" / "reference" / "phase1").iterdir()
    origin = json.loads(path.read_text())["origin"]
    assert origin["commit"] == ask_git(checkout.path, "rev-parse", "HEAD").strip()
    assert [known["run"] for known in origin["answered"]] == [known["run"] for known in answered]


@pytest.mark.slow
def test_a_run_without_git_is_accepted_on_the_clean_commit_of_its_tree_and_on_no_other(checkout):
    change(checkout, "floor = 0.0, gain = 0.9", "floor = 0.0")
    run(checkout)
    without = results(checkout)["id"]
    (checkout.path / ".gitignore").write_text(IGNORED)
    ask_git(checkout.path, "init", "-q")
    spec = next((checkout.path / "benchmarks" / "specs" / "phase1").glob("*.toml"))
    before = spec.read_text()
    spec.write_text(before + "# another tree\n")
    commit(checkout.path, "another tree")
    assert "its source tree is not that of a clean commit here" in prism(checkout, "accept", without).stderr
    spec.write_text(before)
    assert "its source tree is not that of a clean commit here" in prism(checkout, "accept", without).stderr, (
        "not clean"
    )
    commit(checkout.path, "the tree of the run")
    assert prism(checkout, "accept", without).returncode == 0


@pytest.mark.slow
def test_what_does_not_belong_together_is_refused(bundles):
    checkout = bundles
    assert "two bundles hold seed 42; pass each seed once" in rescored(checkout, "42.tar.xz", "42.tar.xz").stderr
    (checkout.path / "no.tar.xz").write_bytes(b"not one")
    assert "no.tar.xz: is no bundle of answers" in rescored(checkout, "no.tar.xz").stderr
    assert "is not in the store" in prism(checkout, "bundle", "reports/latest", "x.tar.xz", "--home", "nowhere").stderr
    assert not list(checkout.path.glob("*x.tar.xz*")), "nothing half-written"
    spec = next((checkout.path / "benchmarks" / "specs" / "phase1").glob("*.toml"))
    spec.write_text(spec.read_text().replace("test_size = 0.25", "test_size = 0.3"))
    assert (
        "belong to other prompts or another [generate] than those of this checkout"
        in rescored(checkout, "42.tar.xz").stderr
    )


@pytest.mark.slow
def test_answers_by_other_options_are_not_scored_as_this_evaluation(bundles):
    checkout = bundles
    change(checkout, "max_new_tokens = 4", "max_new_tokens = 5")
    assert "or another [generate] than those of this checkout" in rescored(checkout, "42.tar.xz").stderr
