"""A folder in place of the hub: --prism-models, and thresholds that were measured with other weights."""

import shutil

import pytest

from prism.store.sources import base_identity, model_source
from prism.verdicts import gate
from prism.verdicts.record import Score, empty_record
from tests.conftest import ROOT
from tests.scored import tiny_spec

NANO = ROOT / "fixtures" / "models" / "nano-text"


def test_a_folder_called_like_a_hub_model_replaces_it(tmp_path):
    models = tmp_path / "models"
    folder = models / "SmolLM2-135M-Instruct"
    shutil.copytree(NANO, folder)
    name = "HuggingFaceTB/SmolLM2-135M-Instruct"
    assert model_source(name, tmp_path, models) == str(folder)
    assert base_identity(model_source(name, tmp_path, models), tmp_path) == base_identity(str(NANO), tmp_path)
    assert (
        model_source("HuggingFaceTB/SmolLM2-360M-Instruct", tmp_path, models) == "HuggingFaceTB/SmolLM2-360M-Instruct"
    )
    assert model_source(name, tmp_path) == name
    assert model_source(str(NANO), tmp_path, models) == str(NANO), "a local folder is what it says"


@pytest.mark.parametrize(("base", "provisional"), [("ab12cd34ef", None), ("99999999ef", "measured with other weights")])
def test_thresholds_of_another_base_are_provisional(tmp_path, base, provisional):
    spec = tiny_spec(tmp_path)
    spec = spec.model_copy(update={"model": spec.model.model_copy(update={"measured_with": "ab12cd34"})})
    limit = next(spec.limits())
    sure = Score(1.0, (1.0, 1.0), 0.0)
    known = {
        "n": 10,
        "groups": 10,
        "seeds": {"42": 1.0},
        "baseline": Score(0.0, (0.0, 0.0)),
        "tuned": sure,
        "gain": sure,
    }
    found = [empty_record(spec, "0" * 64, one.tier, one.metric, 0, **known) for one in spec.limits()]
    decided = gate.decide_all(spec, list({record.metric: record for record in found}.values()), base=base)
    verdict = next(record for record in decided if record.metric == limit.metric).verdicts[0]
    assert bool(verdict.provisional) == bool(provisional)
    assert (verdict.provisional or "").startswith(provisional or "")
    assert verdict.state in ("holds", "fails", "skipped"), "it is decided all the same"


def test_a_mistyped_folder_of_models_is_one_sentence(pytester):
    pytester.makeconftest('pytest_plugins = ["prism.plugin.hooks"]')
    pytester.mkdir("benchmarks").joinpath("specs").mkdir()
    result = pytester.runpytest("--prism-models", "nowhere")
    result.stderr.fnmatch_lines(["*--prism-models *nowhere: no such folder*"])
