"""Phase 4: how is a vision-language model built, and which of its parts has to learn?

What can be checked of the architecture is a test here; the whole study is a section of the report. Thresholds:
benchmarks/specs/phase4.
"""

import pytest

from prism.study import PLACEMENTS, Study

pytestmark = pytest.mark.phase4


@pytest.fixture(scope="session")
def study(experiment, run, session):
    found = Study(experiment).found
    session.results.add_details(run.result, "study", found)
    return found


def test_thresholds(spec, threshold, run):
    run.check(threshold)


def test_every_part_has_parameters(spec, study):
    counts = study["anatomy"]["parameters"]
    print(*(f"{part}: {n:,}" for part, n in counts.items()), sep="\n")
    assert all(counts[part] for part in ("tower", "projector", "language"))


def test_visual_tokens_are_those_of_the_published_formula(spec, study):
    for row in study["anatomy"]["tokens"]:
        assert row["counted"] == row["formula"], row


def test_attention_reaches_the_picture_in_every_layer(spec, study):
    masses = study["anatomy"]["attention"]["by_layer"]
    print(*(f"layer {n}: {mass:.3f}" for n, mass in enumerate(masses)), sep="\n")
    assert all(0 < mass < 1 for mass in masses)


def test_a_blank_picture_changes_what_is_said(spec, study):
    print(study["anatomy"]["blank"])
    assert study["anatomy"]["blank"]["mean"] > 0.01


@pytest.mark.parametrize("placement", PLACEMENTS)
def test_lora_moves_each_part_that_it_is_placed_on(spec, study, placement):
    if spec.adapter:
        pytest.skip("the spec names a finished adapter, so nothing is trained")
    row = next(row for row in study["placements"] if row["placement"] == placement)
    print(f"{row['trainable']:,} trainable, gain {row['gain']['value']:+.3f} {row['gain']['ci']}")
    parts = {"tower", "projector", "language"} if placement == "all" else {placement}
    assert row["moved"].keys() == parts
    assert all(trained for _, trained in row["moved"].values())
