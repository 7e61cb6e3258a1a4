"""The captured training step: the plain path's losses and adapter, and the plain path where it cannot go on.

A CPU captures nothing, but runs the same packing, loss and gradients; in float32 only roundings may differ.
"""

import pytest
import torch
from safetensors.torch import load_file

from prism.models import captured, load, train
from prism.spec import load_spec
from tests.conftest import ROOT, SPEC, examples_of, write_rows, write_spec


@pytest.fixture
def recipe(tiny, rows, tmp_path):
    data = write_rows(tmp_path / "rows.jsonl", rows)
    return load_spec(write_spec(tmp_path, SPEC.format(data=data, model=tiny)))


def trained(spec, folder, **sft):
    """The notes and the weights of an adapter."""
    spec = spec.model_copy(update={"sft": spec.sft | sft})
    notes = train.train(load.load(spec, ROOT), examples_of(spec, ROOT)[0], 42, folder)
    return notes, load_file(folder / "adapter_model.safetensors")


@pytest.fixture
def on_cpu(monkeypatch):
    """Let the captured step train on a CPU, at most so many tokens at once."""
    return lambda most: monkeypatch.setattr(captured, "decide", lambda *_: (most, ""))


def same(found, expected):
    (notes, weights), (plain_notes, plain_weights) = found, expected
    assert torch.tensor(notes["loss"]) == pytest.approx(torch.tensor(plain_notes["loss"]), abs=1e-4)
    assert weights.keys() == plain_weights.keys()
    for name, weight in weights.items():
        torch.testing.assert_close(weight, plain_weights[name], rtol=1e-2, atol=1e-4)


@pytest.mark.parametrize("most", [16_384, 150], ids=["a batch at once", "in pieces"])
@pytest.mark.parametrize(
    "options", [{}, {"gradient_accumulation_steps": 3, "per_device_train_batch_size": 3}], ids=["one batch", "three"]
)
def test_the_losses_and_the_adapter_are_the_plain_paths(recipe, tmp_path, on_cpu, most, options):
    plain = trained(recipe, tmp_path / "plain", **options)
    assert (plain[0]["engine"], plain[0]["why"]) == ("plain", "there is no GPU")
    on_cpu(most)
    found = trained(recipe, tmp_path / "captured", **options)
    assert (found[0]["engine"], found[0]["most_tokens"]) == ("captured", most)
    same(found, plain)
