"""A base that an experiment leaves loaded serves the next spec with the same, and nothing else."""

import gc
import weakref

import pytest
import torch

from prism.models import lazy, load
from prism.models.lazy import LazyBase
from prism.progress import CONSOLE
from prism.spec import load_spec
from tests.conftest import ROOT, SPEC, write_rows, write_spec


@pytest.fixture
def shown(tiny, rows, tmp_path, monkeypatch):
    monkeypatch.setattr(lazy, "_left", [])
    data = write_rows(tmp_path / "rows.jsonl", rows)
    return load_spec(write_spec(tmp_path, SPEC.format(data=data, model=tiny)))


@pytest.fixture
def clean(monkeypatch):
    """Let a base be kept as a quantized one on a GPU is."""
    monkeypatch.setattr(load.Base, "unloads_cleanly", True)


def base_of(spec, tmp_path):
    return LazyBase(spec, ROOT, tmp_path, CONSOLE)


def test_the_next_spec_with_the_same_base_loads_nothing(shown, clean, tmp_path):
    first = base_of(shown, tmp_path)
    model = first.load().model
    first.leave()
    other = shown.model_copy(
        update={"name": "other", "model": shown.model.model_copy(update={"max_seq_length": 17}), "generate": {}}
    )
    second = base_of(other, tmp_path)
    assert second.load().model is model
    assert second.load().spec is other
    assert lazy._left == []
    third = base_of(shown, tmp_path)
    assert third.load().model is not model  # while it is in use it is nobody else's


@pytest.mark.parametrize("changed", ["revision", "load_in_4bit", "another folder", "on a CPU that is told so"])
def test_another_base_frees_it_and_is_loaded(shown, clean, tmp_path, changed, monkeypatch):
    first = base_of(shown, tmp_path)
    model = weakref.ref(first.load().model)
    first.leave()
    held = lazy._left[0]
    assert held.serves(shown, first.source)
    if changed == "another folder":
        assert not held.serves(shown, str(tmp_path))
    elif changed == "on a CPU that is told so":
        with monkeypatch.context() as told:
            told.setattr(load, "engine", lambda given: {"device": "cuda" if given is shown else "cpu"})
            assert not held.serves(shown.model_copy(), first.source)
    else:
        given = {"revision": "a" * 40, "load_in_4bit": True}[changed]
        assert not held.serves(
            shown.model_copy(update={"model": shown.model.model_copy(update={changed: given})}), first.source
        )
    monkeypatch.setattr(load.Base, "serves", lambda *_: False)
    del held
    fresh = base_of(shown, tmp_path).load()
    assert model() is None
    assert isinstance(fresh.model, torch.nn.Module)


def test_what_an_adapter_may_have_changed_is_not_left(shown, tmp_path):
    base = base_of(shown, tmp_path)
    model = weakref.ref(base.load().model)
    base.leave()
    gc.collect()
    assert lazy._left == []
    assert model() is None


def test_what_is_left_can_be_freed(shown, clean, tmp_path):
    base = base_of(shown, tmp_path)
    model = weakref.ref(base.load().model)
    base.leave()
    lazy.forget()
    assert lazy._left == []
    assert model() is None
