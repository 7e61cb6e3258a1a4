"""Where a run's time goes is in its record, part by part."""

import time

import pytest

from prism.models.cost import Clock
from prism.report import clock
from prism.verdicts.record import Result
from tests.conftest import results


@pytest.fixture
def ticking(monkeypatch):
    """A clock that is moved by hand."""
    now = [100.0]
    monkeypatch.setattr(time, "perf_counter", lambda: now[0])

    def move(seconds):
        now[0] += seconds

    return move


def test_a_part_within_a_part_is_taken_out_of_the_outer_one(ticking):
    measured = Clock("phase1/tiny")
    ticking(1)
    with measured("training"):
        ticking(2)
        with measured("loading"):
            ticking(4)
        ticking(8)
    with measured("training"):
        ticking(16)
    assert measured.read() == {"training": 26, "loading": 4, "total": 31}


def test_time_counts_also_where_a_part_fails(ticking):
    measured = Clock("phase1/tiny")

    def fail():
        with measured("rows"):
            ticking(3)
            raise ValueError("no")

    with pytest.raises(ValueError, match="no"):
        fail()
    ticking(1)
    assert measured.read() == {"rows": 3, "total": 4}


def test_the_table_sums_up_to_the_whole_time():
    found = Result(
        "phase1", "tiny", "", "nano", (), {}, {"clock": {"rows": 1.0, "training, seed 42": 6.0, "total": 8.0}}
    )
    table = clock.table([found])
    assert [row[1] for row in table.rows] == ["rows", "training, seed 42", clock.REST, "all"]
    assert [row[3] for row in table.rows] == ["12.5%", "75.0%", "12.5%", ""]
    assert clock.table([Result("phase1", "old", "", "nano", (), {}, {})]) is None


@pytest.mark.usefixtures("new_interpreter")
def test_a_run_tells_where_its_time_went_and_a_cached_one_imports_no_library_that_computes(checkout, monkeypatch):
    run = ("benchmarks", "-m", "phase1", "--prism-profile", "nano")
    checkout.runpytest_subprocess(*run)
    first = results(checkout)
    [cost] = first["cost"]
    stages = {"answers, baseline", "label likelihoods", "training, seed 42", "answers, tuned, seed 42"}
    work = {"rows", "importing the libraries", "loading the base", "checks of the adapter", "scores and verdicts"}
    assert cost["clock"].keys() == {*stages, *work, "rows in the window", "total"}
    assert sum(cost["clock"].values()) <= 2 * cost["clock"]["total"]
    assert clock.REST in (checkout.path / "reports" / "latest" / "report.html").read_text()

    monkeypatch.setenv("PYTHONPROFILEIMPORTTIME", "1")
    out = checkout.runpytest_subprocess(*run, "-s")  # pytest captures what imports say
    imported = {line.rpartition("|")[2].strip().partition(".")[0] for line in out.errlines if "import time:" in line}
    assert {"pytest", "numpy"} <= imported
    assert not imported & {"torch", "transformers", "datasets", "ray", "sklearn", "scipy", "nltk"}
    again = results(checkout)
    assert again["records"] == first["records"]
    assert again["cost"][0]["clock"].keys() == {"rows", "scores and verdicts", "total"}
