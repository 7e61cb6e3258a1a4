"""Families of base models on a GPU, in bfloat16: with Unsloth where it is installed, else with transformers alone.

Unsloth patches transformers' classes for the whole process, so each of the two ways is a run of its own:
`pytest tests/test_families_gpu.py`, with Unsloth installed and without.
"""

import math

import pytest

from prism.devices import cuda_devices
from prism.errors import ModelError
from prism.models import adapters, likelihoods, load, parity, train
from prism.models.identity import engine
from prism.rows.answers import LIKELIHOODS, read_json_lines
from tests.test_families import FAMILIES, LABELS, answered, example, log_probabilities, make, spec_of

pytestmark = pytest.mark.skipif(not cuda_devices(), reason="needs a GPU")
# What Unsloth cannot train, and the sentence that says so: where the tokenizer has no padding token but the end, and
# Gemma 2's soft capping, which torch 2.11 does not compile for a model as small as this one.
REFUSED = {"granite": "the padding token is the end token", "gemma-2": "TORCHDYNAMO_DISABLE=1"}
BF16 = 0.02  # of a log probability, relative: twice what rounding to bfloat16 may change in one value


@pytest.mark.parametrize("name", FAMILIES)
def test_family_on_a_gpu(tmp_path, name):
    (tmp_path / "base").mkdir()
    make(FAMILIES[name], tmp_path / "base")
    spec = spec_of(tmp_path / "base", tmp_path)
    spec = spec.model_copy(update={"sft": {k: v for k, v in spec.sft.items() if k not in ("use_cpu", "bf16")}})
    training, held_out = [example(n, LABELS[n % 3]) for n in range(24)], [example(n) for n in range(30, 42)]
    if engine(spec)["library"] == "unsloth" and name in REFUSED:
        with pytest.raises(ModelError, match=REFUSED[name]):
            train.train(load.load(spec, tmp_path), training, 42, tmp_path / "adapter")
        return
    base = load.load(spec, tmp_path)
    assert base.library == engine(spec)["library"]
    assert {p.device.type for p in base.model.parameters()} == {"cuda"}

    before = answered(base, base.model, held_out, tmp_path / "baseline")
    assert [p.id for p in before] == [e.id for e in held_out]
    likelihoods.likelihoods(base, base.model, held_out, LABELS, tmp_path)
    scored = {line["id"]: line["labels"] for line in read_json_lines(tmp_path / LIKELIHOODS)}
    for asked in held_out:
        for label in LABELS:
            each = log_probabilities(base, asked, label)
            assert scored[asked.id][label] == pytest.approx(sum(each), abs=sum(abs(v) for v in each) * BF16 + 0.05)

    folder = tmp_path / "adapter"
    notes = train.train(base, training, 42, folder)
    assert len(notes["loss"]) == 3
    assert all(math.isfinite(loss) for _, loss in notes["loss"])
    found = parity.check(load.load(spec, tmp_path), folder, training, held_out)
    assert found["holds"]["reload"] is None
    base = load.load(spec, tmp_path)
    after = answered(base, adapters.load_adapter(base, folder), held_out, tmp_path / "tuned")
    assert [p.answer for p in after] != [p.answer for p in before], "the adapter changes the answers"
