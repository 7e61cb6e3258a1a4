"""A base that FSDP divides among processes. On GPUs for real; on a CPU with accelerate told that it is one."""

import json
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
from safetensors.torch import load_file

from prism.errors import SpecError
from prism.models import captured, launch, layout, load, parity, sharding
from prism.plugin import scheduling, workers
from prism.spec import Launch, load_spec
from tests.conftest import ROOT, SPEC, examples_of, write_spec

torch = pytest.importorskip("torch")


def recipe(processes=2, **sft):
    """Phase 2's nano recipe for four steps over processes that divide the base."""
    spec = load_spec(ROOT / "benchmarks" / "specs" / "phase2" / "nano.toml")
    kept = {key: value for key, value in spec.sft.items() if key != "train_sampling_strategy"}
    few = {"max_steps": 4, "per_device_train_batch_size": 4, "gradient_accumulation_steps": 1, "fsdp": True}
    return spec.model_copy(update={"sft": kept | few | sft, "launch": Launch(processes=processes)})


def alone(spec):
    """The same recipe for one process, which holds the whole base."""
    sft = {key: value for key, value in spec.sft.items() if not key.startswith("fsdp")}
    return spec.model_copy(update={"sft": sft, "launch": Launch(processes=1)})


def trained(spec, folder):
    folder.mkdir()
    base = load.load(spec, ROOT)
    training, held_out, *_ = examples_of(spec, ROOT)
    notes = launch.train(base, training[:40], 42, folder, probed=held_out)
    assert (base.model is None) == spec.sharded  # its memory is the processes', so `LazyBase` loads it again
    if spec.sharded:
        base = load.load(alone(spec), ROOT)
        found = parity.check(base, folder, held_out, held_out)
        assert found["differences"]["reload"] < 1e-3 < found["differences"]["changes"]
        assert not (folder / parity.LOGITS).exists()
    return notes, load_file(folder / "adapter_model.safetensors")


def assert_same(one, two, share):
    """The same losses, and adapters whose difference is a small share of what training moved."""
    (noted, whole), (shared, gathered) = one, two
    assert [loss for _, loss in shared["loss"]] == pytest.approx([loss for _, loss in noted["loss"]], rel=share)
    assert (shared["steps"], shared["tokens"]) == (noted["steps"], noted["tokens"])
    assert (shared["trainable"], shared["parameters"]) == (noted["trainable"], noted["parameters"])
    assert whole.keys() == gathered.keys()
    ups = [name for name in whole if "lora_B" in name]
    moved = sum(float(whole[name].norm()) for name in ups)
    assert sum(float((whole[name] - gathered[name]).float().norm()) for name in ups) < share * moved


@pytest.mark.slow
@pytest.mark.skipif(torch.cuda.is_available(), reason="on GPUs a base is divided for real")
def test_a_divided_base_trains_the_adapter_of_a_whole_one(tmp_path, monkeypatch):
    monkeypatch.setattr(launch, "MODULE", "tests.divided")
    spec = recipe()
    assert_same(trained(alone(spec), tmp_path / "one"), trained(spec, tmp_path / "two"), 0.001)
    assert not list((tmp_path / "two").glob("*.txt"))


@pytest.mark.skipif(len(list(Path("/dev").glob("nvidia[0-9]*"))) < 2, reason="needs two GPUs")
@pytest.mark.parametrize("four_bits", ["true", "false"])
def test_on_two_gpus_from_the_baseline_to_the_verdict(checkout, tiny, monkeypatch, four_bits):
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    monkeypatch.setenv("PRISM_GPUS", "")
    data = checkout.path / "data" / "train.jsonl"
    text = SPEC.format(data=data, model=tiny).replace("use_cpu = true\nbf16 = false", "bf16 = true\nfsdp = true")
    text = text.replace("[lora]", f"load_in_4bit = {four_bits}\n\n[lora]").replace(", gain = 0.9", "")
    write_spec(checkout.path, text + "\n[launch]\nprocesses = 2\n")
    run = checkout.runpytest_subprocess("benchmarks", "-m", "phase1", "--prism-profile", "nano")
    assert run.ret == 0
    (adapter,) = (checkout.path / "home" / "adapters").glob("*/manifest.json")
    notes = json.loads(adapter.read_text())["notes"]
    assert (notes["processes"], notes["engine"], notes["why"]) == (2, "plain", "[sft] fsdp divides the base")
    assert notes["loss"][-1][1] < notes["loss"][0][1] - 0.2
    differences = notes["parity"]["differences"]
    assert differences["changes"] > 0.1
    assert differences["reload"] <= notes["parity"]["tolerance"]  # the processes' base was the one that is asked


@pytest.mark.parametrize(
    ("processes", "changed", "sentence"),
    [
        (2, {"use_cpu": True}, "accelerate divides no base on a CPU; delete it"),
        (1, {}, r"there is one process to divide the base among; raise \[launch\] processes, or delete it"),
        (2, {"fsdp": "full_shard offload"}, r"write true; how it is divided is for \[sft.fsdp_config\]"),
        (2, {"fsdp_config": {"fsdp_version": 1}}, "fsdp_config.version is none of auto_wrap_policy, .*; delete it"),
        (2, {"torch_compile": True}, "torch_compile compiles the layers of a whole base; delete one of them"),
        (
            2,
            {"optim": "adamw_8bit"},
            'optim = "adamw_8bit" takes no divided weights; write optim = "adamw_torch_fused"',
        ),
    ],
)
def test_what_would_be_left_out_or_fail_later_is_refused(monkeypatch, processes, changed, sentence):
    on_gpus(monkeypatch)
    spec = recipe(processes, **({"use_cpu": False} | changed))
    with pytest.raises(SpecError, match=rf"phase2/nano.toml \[sft\] fsdp = .*: {sentence}"):
        sharding.check(spec)
    sharding.check(recipe(use_cpu=False, fsdp_config={"reshard_after_forward": False}))


def test_8_bits_and_images_are_not_divided(monkeypatch):
    on_gpus(monkeypatch)
    spec = recipe(use_cpu=False)
    in_8_bits = spec.model_copy(update={"model": spec.model.model_copy(update={"load_in_8bit": True})})
    with pytest.raises(SpecError, match="weights of 8 bits cannot be divided; load_in_4bit, or delete it"):
        sharding.check(in_8_bits)
    pictures = load_spec(ROOT / "benchmarks" / "specs" / "phase5" / "nano.toml").image
    with pytest.raises(SpecError, match="a vision-language model is not divided; delete it"):
        sharding.check(spec.model_copy(update={"image": pictures}))


def test_a_base_that_waits_to_be_divided_is_quantized_by_a_gpu(monkeypatch):
    placed = []
    state = SimpleNamespace(to=lambda device: placed.append(("state", device)))
    functional = SimpleNamespace(quantize_4bit=lambda weight, *given, **named: (weight + 1, state, given, named)[:2])
    monkeypatch.setitem(sys.modules, "bitsandbytes", SimpleNamespace(functional=functional))
    monkeypatch.setitem(sys.modules, "bitsandbytes.functional", functional)
    monkeypatch.setattr(torch.Tensor, "cuda", lambda self: placed.append("weight") or self * 2)
    before = functional.quantize_4bit
    with sharding.quantizing_on_the_gpu():
        quantized, _ = functional.quantize_4bit(torch.ones(2), blocksize=64)
    assert (quantized.tolist(), placed) == ([3, 3], ["weight", ("state", "cpu")])
    assert functional.quantize_4bit is before


def on_gpus(monkeypatch):
    monkeypatch.setattr("prism.models.identity.cuda_devices", lambda: 2)
    monkeypatch.setattr("prism.models.identity.cuda_memory", lambda: [("H100", 80.0)] * 2)


def test_a_divided_base_lies_on_all_gpus_and_each_process_begins_without_one(monkeypatch):
    spec = recipe(use_cpu=False)
    assert load._places(spec, "cuda") == "auto"
    assert load._places(alone(spec), "cpu") == {"": "cpu"}
    monkeypatch.setenv("LOCAL_RANK", "1")
    assert load._places(spec, "cuda") == {"": "cpu"}
    assert (
        captured.unsupported(load.Base(spec, None, None, "transformers", None), None, 100)
        == "[sft] fsdp divides the base"
    )  # type: ignore[arg-type]


def test_layers_on_several_gpus_are_asked_by_generate():
    model = load.load(alone(recipe()), ROOT).model
    assert layout.unsupported(model) == ""
    model.hf_device_map = {"model.layers.0": 0, "model.layers.1": 1}
    assert layout.unsupported(model) == "its layers lie on several GPUs"


def test_a_base_that_is_asked_on_all_gpus_is_not_another_specs():
    spec = recipe()
    base = load.Base(spec, None, None, "transformers", None, asked="m")  # type: ignore[arg-type]
    assert base.serves(spec, "m")
    assert not base.serves(alone(spec), "m")


def test_gpus_are_hidden_unless_a_spec_divides_its_base(pytester, monkeypatch):
    found = []
    monkeypatch.setattr(workers, "use_one_gpu", lambda: found.append("hidden"))
    folder = pytester.mkdir("benchmarks") / "specs" / "phase2"
    folder.mkdir(parents=True)
    file = folder / "large.toml"
    for written, hidden in (
        ("[sft]\noptim = 1", True),
        ("[sft]\nfsdp = true", False),
        ("[sft]\nfsdp = false", True),
        ("[sft\nfsdp", True),
        ("sft = 'fsdp'", True),
    ):
        file.write_text(written)
        found.clear()
        workers.pin(pytester.parseconfig("-p", "no:prism"))
        assert (found == ["hidden"]) == hidden, written
    file.write_bytes(b"\xff fsdp")
    assert not scheduling.sharded(file)
