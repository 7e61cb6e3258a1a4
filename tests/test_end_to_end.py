"""The side-by-side of whole recipes: what it extrapolates, which rows it makes, and its table."""

import pytest

from benchmarks.speed import contenders, end_to_end


def test_what_was_not_run_is_extrapolated_from_the_steady_part():
    compiling = [30.0 + step for step in range(contenders.WARM + 1)]
    times = [*compiling, *(compiling[-1] + 0.5 * step for step in range(1, 101))]
    assert contenders.whole(times, len(times)) == times[-1]
    assert contenders.whole(times, len(times) + 1_000) == pytest.approx(times[-1] + 500)


def test_a_data_set_that_is_not_at_hand_is_made_of_bundled_rows(tmp_path, monkeypatch):
    """As many as the recipe takes, and no two alike."""
    monkeypatch.setattr(end_to_end, "TWINS", {})
    end_to_end.prepare(["phase2/qwen2.5-1.5b"], tmp_path, None, None)
    spec = end_to_end.spec_of("phase2/qwen2.5-1.5b")
    training, held_out = contenders.rows_of(spec, end_to_end.ROOT, tmp_path / "data")
    assert (len(training), len(held_out)) == (4_000, 1_000)
    assert len({example.question for example in [*training, *held_out]}) == 5_000


def test_the_table_says_how_much_of_a_contenders_time_prism_takes():
    recipe = "phase1/qwen3-4b"
    found = {
        (recipe, "prism"): {"total": 90.0, "peak_gib": 11.2, "seconds": {"training": 60.0}, "extrapolated": []},
        (recipe, "trl"): {"total": 900.0, "peak_gib": 9.0, "seconds": {}, "extrapolated": ["training"]},
        (recipe, "unsloth"): {"error": "no GPU"},
    }
    lines = [[cell.strip() for cell in line.split("|")[1:-1]] for line in end_to_end.table(found).splitlines()[2:]]
    assert lines[0] == [recipe, "PRISM", "90", "", "11.2", "nothing"]
    assert lines[1] == [recipe, "plain TRL and `generate`", "900", "0.10", "9.0", "training"]
    assert lines[2] == [recipe, "Unsloth's notebook", "no GPU", "", "", ""]
    assert "- phase1/qwen3-4b, PRISM: training 60.0" in end_to_end.page(found)
