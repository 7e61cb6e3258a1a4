"""What a GPU run needs and a CPU can show: the same options on both paths, one GPU a worker, and faults in one sentence."""

import ctypes
import json
import os
import re
import subprocess
import sys
import types

import pytest
import torch

from benchmarks.speed import gpu as speed
from fixtures.make import twin
from prism import devices
from prism.errors import ModelError, ResourceError, SpecError
from prism.models import adapters, checkpointing, cost, generate, identity, layout, load, reading, train
from prism.plugin import scheduling, workers
from prism.spec import load_spec
from prism.tasks.check import load_checked_spec
from prism.verdicts.scoring import cost_records
from tests.conftest import ROOT, SPEC, examples_of, write_rows, write_spec

# What unsloth 2026.10 replaces in SFTConfig, of all that changes what is learned.
REPLACED = {
    "per_device_train_batch_size", "gradient_accumulation_steps", "weight_decay", "optim", "learning_rate",
    "warmup_steps", "padding_free", "seed", "bf16",
}  # fmt: skip
SCHEDULE = {"lr_scheduler_type", "num_train_epochs", "max_grad_norm", "packing", "max_length", "completion_only_loss"}


@pytest.fixture
def spec_file(tiny, rows, tmp_path):
    data = write_rows(tmp_path / "rows.jsonl", rows)
    return write_spec(tmp_path, SPEC.format(data=data, model=tiny))


def without_gpu_key(spec, **sft):
    return spec.model_copy(update={"sft": {k: v for k, v in spec.sft.items() if k != "use_cpu"} | sft})


@pytest.mark.parametrize("accumulated_rows", [None, 2], ids=["one row a step", "two rows accumulated"])
def test_both_paths_receive_the_same_options(accumulated_rows, spec_file, tmp_path, monkeypatch):
    """Whatever either library's defaults are: batch, schedule, loss and targets are written down for both."""
    accumulated = f"gradient_accumulation_steps = {accumulated_rows}" if accumulated_rows else ""
    spec_file.write_text(spec_file.read_text().replace("gradient_accumulation_steps = 1", accumulated))
    spec = load_spec(spec_file)
    given: dict = {}
    made = types.SimpleNamespace(n_gpu=2)  # as where all GPUs stay visible
    monkeypatch.setattr(train, "SFTConfig", lambda **options: given.update(options) or made)
    assert train.sft_config(spec, tmp_path, seed=7)._n_gpu == 1
    assert given.keys() >= REPLACED | SCHEDULE
    batch = spec.sft["per_device_train_batch_size"] * (accumulated_rows or 1)
    assert given["per_device_train_batch_size"] * given["gradient_accumulation_steps"] == batch
    asked: dict = {}
    fake = types.SimpleNamespace(get_peft_model=lambda model, **options: asked.update(options))
    monkeypatch.setitem(sys.modules, "unsloth", types.SimpleNamespace(FastLanguageModel=fake))
    load.add_adapter(load.Base(spec, None, None, "unsloth", None), 7, checkpointing=True)
    config = load.lora_config(spec)
    assert set(asked.pop("target_modules")) == set(config.target_modules)
    assert (asked.pop("random_state"), asked.pop("use_gradient_checkpointing")) == (7, True)
    assert {name: getattr(config, name) for name in asked} == asked
    assert asked.keys() >= {"r", "lora_alpha", "lora_dropout", "bias", "use_rslora"}


def test_both_paths_take_the_published_tokenizer(tiny, tmp_path, monkeypatch):
    """Unsloth's own may have another template or padding token."""
    spec = load_spec(write_spec(tmp_path, SPEC.format(data="rows.jsonl", model=tiny)))
    plain = load.load(spec, tmp_path)
    fake = types.SimpleNamespace(from_pretrained=lambda **_: (plain.model, "Unsloth's tokenizer"))
    monkeypatch.setitem(sys.modules, "unsloth", types.SimpleNamespace(FastLanguageModel=fake))
    monkeypatch.setattr(load, "engine", lambda _: {"library": "unsloth", "device": "cpu", "dtype": "float32"})
    patched = load.load(spec, tmp_path)
    assert patched.tokenizer.chat_template == plain.tokenizer.chat_template
    assert patched.tokenizer.pad_token_id == plain.tokenizer.pad_token_id


def test_unsloth_is_imported_before_what_it_patches():
    """Whichever of PRISM's modules comes first. `unsloth` stands for the package, and a GPU for the driver's answer."""
    code = """
import os, sys
from prism import devices
devices.cuda_devices = lambda: 1
class Finder:
    def find_spec(self, name, *_):
        import importlib.machinery
        if name == "unsloth":
            return importlib.machinery.ModuleSpec(name, self)
    def create_module(self, spec): return None
    def exec_module(self, module):
        print("before:", sorted({"transformers", "peft", "trl"} & set(sys.modules)), flush=True)
        os._exit(0)
sys.meta_path.insert(0, Finder())
import prism.models.%s
"""
    for module in ("generate", "train", "parity"):
        done = subprocess.run(
            [sys.executable, "-c", code % module], capture_output=True, text=True, cwd=ROOT, check=True
        )
        assert done.stdout.strip() == "before: []", module


def test_unsloth_is_not_imported_where_no_spec_uses_it(spec_file, monkeypatch):
    """Its import takes longer than a small recipe's training."""
    spec = load_spec(spec_file)
    monkeypatch.setattr(identity, "engine", lambda spec: {"library": "unsloth" if spec.image else "transformers"})
    monkeypatch.setattr(identity, "_expected", [])
    assert identity.imports_unsloth(), "whoever loads a model without a session may want it"
    identity.expect([spec, spec])
    assert not identity.imports_unsloth()
    identity.expect([spec, spec.model_copy(update={"image": types.SimpleNamespace(size=32)})])
    assert identity.imports_unsloth()


def test_a_class_that_unsloth_patched_is_not_loaded_without_it(spec_file, tmp_path, monkeypatch):
    from transformers import Qwen3ForCausalLM

    def forward(*_):
        pass

    forward.__module__ = "unsloth.models.llama"
    monkeypatch.setattr(Qwen3ForCausalLM, "forward", forward)
    with pytest.raises(ModelError, match=r"Unsloth has patched Qwen3ForCausalLM .* --prism-spec phase1/tiny"):
        load.load(load_spec(spec_file), tmp_path)


def test_unsloth_is_for_little_memory(spec_file, monkeypatch):
    """The captured step, and compiled layers, go without it."""
    monkeypatch.setattr(identity, "cuda_devices", lambda: 1)
    monkeypatch.setattr(identity, "cuda_memory", lambda: [("NVIDIA L4", 22.0)])
    monkeypatch.setattr(identity.importlib.util, "find_spec", lambda _: object())
    spec = load_spec(spec_file)
    small, large = (
        spec.model_copy(update={"requires": spec.requires.model_copy(update={"vram_gb": gib})}) for gib in (12.0, 8.0)
    )
    assert identity.engine(without_gpu_key(small))["library"] == "unsloth"
    assert identity.engine(without_gpu_key(large))["library"] == "transformers"
    assert identity.engine(without_gpu_key(large, gradient_checkpointing=True))["library"] == "unsloth"
    assert identity.engine(without_gpu_key(small, torch_compile=True))["library"] == "transformers"
    assert identity.engine(spec)["device"] == "cpu"


def test_share_of_trained_tokens_and_the_option_that_changes_it(spec_file, tmp_path):
    spec = load_spec(spec_file)
    shares = []
    for only in (True, False):
        changed = spec.model_copy(update={"sft": spec.sft | {"max_steps": 2, "completion_only_loss": only}})
        base = load.load(changed, tmp_path)
        folder = tmp_path / str(only)
        folder.mkdir()
        notes = train.train(base, examples_of(changed, tmp_path)[0], 42, folder)
        shares.append(notes["trained_share"])
    assert 0 < shares[0] < 0.5
    assert shares[1] == 1


def test_checkpointing_is_decided_from_memory_where_the_spec_is_silent(spec_file, tmp_path, monkeypatch):
    spec = load_spec(spec_file)
    base = load.load(spec, tmp_path)
    training = examples_of(spec, tmp_path)[0]
    base.spec = spec.model_copy(update={"sft": {k: v for k, v in spec.sft.items() if k != "gradient_checkpointing"}})
    base.model = types.SimpleNamespace(device=torch.device("cuda"), config=base.model.config)
    config = train.sft_config(base.spec, tmp_path, 42)
    found = {}
    for free in (2**20, 2**34):
        monkeypatch.setattr(torch.cuda, "mem_get_info", lambda free=free: (free, 2**35))
        notes = checkpointing.decide(base, config, training)
        found[free] = (config.gradient_checkpointing, notes["gradient_checkpointing"])
    assert found == {2**20: (True, True), 2**34: (False, False)}
    base.spec = spec
    assert checkpointing.decide(base, config, training).keys() == {"gradient_checkpointing"}


def test_an_adapter_of_another_base(tiny, tmp_path):
    spec = load_spec(write_spec(tmp_path, SPEC.format(data="rows.jsonl", model=tiny)))
    base = load.load(spec, tmp_path)
    load.add_adapter(base, 1).save_pretrained(tmp_path / "adapter")
    base = load.load(spec, tmp_path)
    base.spec = spec.model_copy(update={"model": spec.model.model_copy(update={"model_name": "Qwen/Qwen3-4B"})})
    config = tmp_path / "adapter" / "adapter_config.json"
    for name in ("unsloth/Qwen3-4B-bnb-4bit", "unsloth/qwen3-4b-unsloth-bnb-4bit", "Qwen/Qwen3-4B", str(tiny)):
        config.write_text(json.dumps(json.loads(config.read_text()) | {"base_model_name_or_path": name}))
        adapters._require_same_base(base, config.parent)
    for name in ("Qwen/Qwen3-8B", "unsloth/Qwen3-4B-Instruct-2507", "Qwen/Qwen3-4"):
        config.write_text(json.dumps(json.loads(config.read_text()) | {"base_model_name_or_path": name}))
        with pytest.raises(ModelError, match=f"adapter: was trained on {name}, not on Qwen/Qwen3-4B"):
            adapters.load_adapter(base, config.parent)
    config.write_text("{")
    with pytest.raises(ModelError, match=r"adapter: adapter_config\.json is not JSON .*; restore the adapter"):
        adapters.load_adapter(base, config.parent)


def test_a_gpu_in_use_and_a_bitsandbytes_without_cuda(spec_file, monkeypatch):
    spec = load_spec(spec_file)
    spec = spec.model_copy(update={"requires": spec.requires.model_copy(update={"vram_gb": 12.0})})
    with pytest.raises(
        ModelError, match=r"torch .* cannot use the CUDA device; install a CUDA build .* or set \[sft\]\.use_cpu"
    ):
        load._require_gpu(spec, "cuda")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "memory_reserved", lambda: 0)
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda: (3 * 2**30, 80 * 2**30))
    with pytest.raises(
        ResourceError, match=r"needs 12 GiB on the GPU, but only 3\.0 of 80\.0 are free because of another process"
    ):
        load._require_gpu(spec, "cuda")
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda: (70 * 2**30, 80 * 2**30))
    load._require_gpu(spec, "cuda")
    quantized = spec.model_copy(update={"model": spec.model.model_copy(update={"load_in_4bit": True})})
    monkeypatch.setitem(sys.modules, "bitsandbytes", None)
    with pytest.raises(ModelError, match=r"needs bitsandbytes; pip install"):
        load._require_gpu(quantized, "cuda")
    # The extra is not installed everywhere: what is asked of it.
    library = types.ModuleType("bitsandbytes.cextension")
    library.lib = types.SimpleNamespace(compiled_with_cuda=False)
    package = types.ModuleType("bitsandbytes")
    package.__version__, package.cextension = "0.50.2", library
    monkeypatch.setitem(sys.modules, "bitsandbytes", package)
    monkeypatch.setitem(sys.modules, "bitsandbytes.cextension", library)
    with pytest.raises(ModelError, match=r"bitsandbytes [\d.]+ has no library for CUDA .* constraints-gpu\.txt"):
        load._require_gpu(quantized, "cuda")


class Driver:
    """An NVIDIA driver for CUDA `version`, whose start returns `fault`, with GPUs of these names and GiB."""

    def __init__(self, version=13_000, fault=0, gpus=()):
        self.version, self.fault, self.gpus = version, fault, gpus

    def cuInit(self, _):
        return self.fault

    def cuDriverGetVersion(self, out):
        out._obj.value = self.version

    def cuDeviceGetCount(self, out):
        out._obj.value = len(self.gpus)
        return 0

    def cuDeviceGet(self, out, n):
        out._obj.value = n

    def cuDeviceGetName(self, name, _, device):
        name.value = self.gpus[device.value][0].encode()

    def cuDeviceTotalMem_v2(self, out, device):
        out._obj.value = self.gpus[device.value][1] * 2**30


@pytest.fixture
def driver(monkeypatch):
    """Put a driver in place of the machine's."""

    def put(**options):
        for part in (devices._driver, devices.cuda_devices, devices.cuda_fault, devices.cuda_memory):
            part.cache_clear()
        monkeypatch.setattr(ctypes, "CDLL", lambda _: Driver(**options))
        monkeypatch.setattr(devices, "_torch_cuda", lambda: 13)

    yield put
    for part in (devices._driver, devices.cuda_devices, devices.cuda_fault, devices.cuda_memory):
        part.cache_clear()


def test_drivers_that_cannot_serve(driver, spec_file):
    spec = load_spec(spec_file)
    spec = spec.model_copy(update={"requires": spec.requires.model_copy(update={"vram_gb": 24.0})})
    driver(version=12_040, gpus=[("A100", 40)])
    assert devices.cuda_devices() == 0
    assert scheduling.choose_profile(None) == (
        "nano",
        "the NVIDIA driver is too old: it runs CUDA up to 12.4, torch needs 13; update the driver",
    )
    assert "and there is none (the NVIDIA driver is too old" in scheduling.lacking(spec, ROOT, None)
    driver(fault=803)
    assert "the NVIDIA driver does not start (error 803)" in scheduling.lacking(spec, ROOT, None)
    driver(fault=devices.NO_DEVICE)
    assert scheduling.choose_profile(None) == ("nano", "no CUDA device")
    driver(gpus=[("NVIDIA T4", 15)])
    assert scheduling.lacking(spec, ROOT, None) == "needs a GPU with 24 GiB, and NVIDIA T4 has 15.0"
    driver(gpus=[("NVIDIA H200", 139), ("NVIDIA L4", 22)])
    assert devices.cuda_memory() == [("NVIDIA H200", 139), ("NVIDIA L4", 22)]
    larger = "needs a GPU with 24 GiB, and NVIDIA L4 has 22.0; name the larger ones in CUDA_VISIBLE_DEVICES"
    assert scheduling.lacking(spec, ROOT, None) == larger
    driver(gpus=[("NVIDIA H200", 139)])  # what a worker sees beside another's L4
    assert scheduling.lacking(spec, ROOT, None) == ""
    assert scheduling.lacking(spec, ROOT, None, [("NVIDIA H200", 139), ("NVIDIA L4", 22)]) == larger


def test_workers_have_a_gpu_each_and_a_dead_ones_is_used_again(monkeypatch, driver):
    driver(gpus=[("NVIDIA H200", 139)] * 2)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "4,6")
    assert workers.automatic() == 2
    pins = workers.Pins()
    assert [pins.take(name) for name in ("gw0", "gw1", "gw2")] == ["4", "6", "4"]
    pins.give_back("gw1")
    assert pins.take("gw3") == "6"
    monkeypatch.setenv("OMP_NUM_THREADS", "")  # restored afterwards
    monkeypatch.delenv("OMP_NUM_THREADS")
    config = types.SimpleNamespace(workerinput={"prism_gpu": "6", "workercount": 2})
    workers.pin(config)
    assert os.environ["OMP_NUM_THREADS"] == str(max(1, len(os.sched_getaffinity(0)) // 2))
    assert workers.os.environ["CUDA_VISIBLE_DEVICES"] == "6"


@pytest.mark.parametrize(("named", "first"), [("4,6", "4"), ("-1", "-1"), ("", ""), (None, "0")])
def test_a_run_without_workers_takes_one_gpu(named, first, monkeypatch, tmp_path):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", named or "")
    if named is None:
        monkeypatch.delenv("CUDA_VISIBLE_DEVICES")
    controller = types.SimpleNamespace(getoption=lambda *_: ["popen", "popen"])
    workers.pin(controller)
    assert workers.os.environ.get("CUDA_VISIBLE_DEVICES") == named
    workers.pin(types.SimpleNamespace(getoption=lambda *_: None, rootpath=tmp_path))
    assert workers.os.environ["CUDA_VISIBLE_DEVICES"] == first


def test_gpus_that_the_driver_does_not_know_get_no_worker(monkeypatch, driver):
    driver(gpus=[])
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "-1")
    assert workers.visible() == []


def test_auto_without_a_gpu_is_what_the_memory_carries(monkeypatch):
    monkeypatch.setattr(workers, "visible", list)
    monkeypatch.setattr(workers.os, "cpu_count", lambda: 64)
    monkeypatch.setattr("psutil.virtual_memory", lambda: types.SimpleNamespace(available=13 * 2**30))
    assert workers.automatic() == 3


def test_items_of_a_spec_stay_together():
    file = "benchmarks/test_phase1_financial_sentiment.py"
    names = ["nano", "nano-tweets"]
    scope = f"{file}[nano-tweets]"
    assert workers.scope(f"{file}::test_thresholds[nano-tweets-tier1-accuracy-floor]", names) == scope
    assert workers.scope(f"{file}::test_thresholds[nano-tier1-accuracy-floor]", names) == f"{file}[nano]"
    assert workers.scope(f"{file}::test_device", names) == file


@pytest.mark.parametrize(
    ("items", "dies", "count"),
    [((6, 6, 6), 2, 1), ((6, 6, 6, 6, 6, 6), 5, 2), ((3, 3, 1, 1), 1, 1)],
)
def test_whichever_worker_dies_the_other_specs_are_measured(items, dies, count, pytester, monkeypatch):
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    pytester.makeini("[pytest]\naddopts = -p no:deepeval -p no:rerunfailures -p no:repeat -p no:asyncio -p no:anyio")
    pytester.makeconftest(
        "from prism.plugin import workers\n"
        "def pytest_xdist_make_scheduler(config, log):\n"
        "    return workers.scheduler(config, log, lambda nodeid: nodeid.partition('[')[2].partition('-')[0])\n"
    )
    names = [f"{spec}-{item}" for spec, number in enumerate(items) for item in range(number)]
    pytester.makepyfile(
        "import os, signal, pytest\n"
        f"@pytest.mark.parametrize('name', {names})\n"
        "def test_item(name):\n"
        f"    if name == '{dies}-0': os.kill(os.getpid(), signal.SIGKILL)\n"
    )
    out = pytester.runpytest_subprocess("-n", str(count), "-p", "no:cacheprovider", timeout=60)
    out.assert_outcomes(passed=sum(items) - items[dies], failed=items[dies])


@pytest.mark.slow
def test_a_dead_workers_item_fails_with_its_reason_and_the_run_ends(checkout):
    second = (checkout.path / "benchmarks" / "specs" / "phase1" / "tiny.toml").read_text()
    write_spec(checkout.path, second.replace("seed     = 42", "seed     = 43"), "other")
    conftest = checkout.path / "conftest.py"
    conftest.write_text(
        conftest.read_text()
        + "import os, signal, prism.models.train\n"
        + "kept = prism.models.train.train\n"
        + "def killed(base, *rest):\n"
        + "    if base.spec.name == 'other': os.kill(os.getpid(), signal.SIGKILL)\n"
        + "    return kept(base, *rest)\n"
        + "prism.models.train.train = killed\n"
    )
    out = checkout.runpytest_subprocess("benchmarks", "-m", "phase1", "--prism-profile", "nano", "-n", "2", timeout=300)
    assert out.ret == pytest.ExitCode.TESTS_FAILED
    # One line an item in the summary: how much of the messages stands elsewhere differs where CI is set.
    failed = [line for line in out.outlines if line.startswith("FAILED ") and "[other-" in line]
    assert len(failed) == 3
    text = out.stdout.str()
    assert re.search(r"worker 'gw\d' crashed while running '.*\[other-tier1-accuracy-floor\]'", text)
    died = set(re.findall(r"worker 'gw\d' died running '.*\[other-tier1-accuracy-floor\]', which", text))
    assert len(died) == 1
    found = json.loads((checkout.path / "reports" / "latest" / "results.json").read_text())
    assert [spec["spec"] for spec in found["specs"]] == ["tiny"]
    assert found["complete"] is False
    assert found["verdict"] == "fail"


def test_a_full_gpu_is_one_sentence_and_the_next_spec_runs(checkout):
    second = (checkout.path / "benchmarks" / "specs" / "phase1" / "tiny.toml").read_text()
    write_spec(checkout.path, second, "large")
    conftest = checkout.path / "conftest.py"
    conftest.write_text(
        conftest.read_text()
        + "import torch, prism.models.train\n"
        + "kept = prism.models.train.train\n"
        + "def full(base, *rest):\n"
        + "    if base.spec.name == 'large': raise torch.OutOfMemoryError('CUDA out of memory. Tried to allocate')\n"
        + "    return kept(base, *rest)\n"
        + "prism.models.train.train = full\n"
    )
    out = checkout.runpytest_subprocess("benchmarks", "-m", "phase1", "--prism-profile", "nano", "-rA")
    text = out.stdout.str()
    assert re.search(
        r"ResourceError: phase1/large: training, seed 42: the GPU's memory is full \(.* GiB were free at the start\); "
        r"lower \[sft\]\.per_device_train_batch_size",
        text,
    )
    assert "Traceback" not in text
    assert "PASSED benchmarks/test_phase1_financial_sentiment.py::test_thresholds[tiny-tier1-accuracy-floor]" in text


def test_answers_do_not_hang_on_the_models_own_generation_config(spec_file, tmp_path):
    """Qwen2.5 is published with a penalty on repetitions, which the captured step would not know of."""
    spec = load_spec(spec_file)
    asked = spec.model_copy(update={"generate": {"max_new_tokens": 24}})
    penalized = spec.model_copy(update={"generate": {"max_new_tokens": 24, "repetition_penalty": 5.0}})
    said = []
    for n, (chosen, penalty) in enumerate(((asked, None), (asked, 5.0), (penalized, None))):
        base = load.load(chosen, tmp_path)
        base.model.generation_config.repetition_penalty = penalty
        (tmp_path / str(n)).mkdir()
        generate.answers(base, base.model, examples_of(spec, tmp_path)[1], tmp_path / str(n))
        assert base.model.generation_config.repetition_penalty == penalty
        said.append((tmp_path / str(n) / "predictions.jsonl").read_text())
    assert said[0] == said[1] != said[2]


def test_answers_stay_within_the_specs_memory(spec_file, monkeypatch):
    spec = load_spec(spec_file)
    gate = {"cost": {"peak_memory_gib": types.SimpleNamespace(ceiling=12.0)}}
    large = types.SimpleNamespace(device=torch.device("cuda"), dtype=torch.bfloat16, config=twin.CONFIGS["Qwen3-4B"])
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda: (130 * 2**30, 139 * 2**30))
    monkeypatch.setattr(torch.cuda, "memory_allocated", lambda *_: 4 * 2**30)
    free = types.SimpleNamespace(spec=spec, processor=None)
    bound = types.SimpleNamespace(spec=types.SimpleNamespace(gate=gate))
    assert generate.token_budget(free, large) == generate.BATCH_TOKENS["cuda"]
    assert generate.token_budget(bound, large) * 2 * 36 * 8 * 128 * 2 < (12 - 4) / 2 * 2**30
    # What the allocator keeps for reuse is free; a pass over many prompts needs more than their cache.
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda: (1 * 2**30, 24 * 2**30))
    monkeypatch.setattr(torch.cuda, "memory_reserved", lambda *_: 12 * 2**30)
    assert cost.available_memory(free.spec) == pytest.approx(0.8 * (1 + 12 - 4) * 2**30)
    monkeypatch.setattr(layout, "unsupported", lambda _: "")
    encoded = [[1] * 400] * 512
    decoder, notes = generate._decoder(free, large, encoded, 64, True)
    assert decoder is None
    assert "need more GPU memory than is free" in notes["why"]
    assert generate._decoder(free, large, [], 64, True) == (None, {})


@torch.no_grad()
def test_what_batching_moves_is_measured_once_for_a_model(spec_file):
    """With or without an adapter: questions one at a time are what takes longest before answers in 8 bits."""
    spec = load_spec(spec_file)
    base, passes = load.load(spec, ROOT), []
    probes = generate.encode_all(base, examples_of(spec, ROOT)[1][:3])
    expected = reading.next_logits(base.model, reading.pad(base, probes))
    base.model.register_forward_hook(lambda *_: passes.append(1))
    moved = generate._moved_by_batching(base, base.model, probes, expected)
    assert (len(passes), moved) == (3, pytest.approx(0, abs=1e-4))
    assert generate._moved_by_batching(base, load.add_adapter(base, 42), probes, 2 * expected) == moved
    assert len(passes) == 3


def test_cost_gates_are_ratios_and_unknown_ones_are_refused(spec_file):
    notes = {"parameters": 1_500_000_000, "tokens": 600_000, "seconds": 20.0, "device": "NVIDIA H200"}
    assert cost.utilization(notes) == pytest.approx(4 * 1.5e9 * 30_000 / 989e12)
    rates = {"NVIDIA H100 PCIe": 756, "NVIDIA A100-SXM4-80GB": 312, "NVIDIA L40": 181, "NVIDIA L4": 121}
    for name, rate in rates.items():
        assert cost.utilization(notes | {"device": name}) == pytest.approx(4 * 1.5e9 * 30_000 / (rate * 1e12))
    for name in ("NVIDIA RTX A1000", "NVIDIA A10G", "NVIDIA GeForce RTX 4090 Laptop GPU", "NVIDIA GeForce RTX 3090 Ti"):
        assert cost.utilization(notes | {"device": name}) is None
    assert cost.utilization(notes | {"device": ""}) is None
    spent = {"utilization": {}, "tokens_per_second": {"baseline": 200.0, "tuned, seed 42": 150.0}}
    assert cost.gate_value(spent, "generation_ratio") == 0.75
    spec_file.write_text(spec_file.read_text() + "\n[gate.cost]\nutilization = { floor = 0.2 }\n")
    record = cost_records(load_spec(spec_file), "e" * 8, 40, spent)[0]
    assert (record.direction, record.n, record.unscored) == ("higher", 0, 40)
    spec_file.write_text(spec_file.read_text().replace("utilization = ", "speed = "))
    with pytest.raises(
        SpecError, match=r"\[gate\.cost\] speed: not a cost; the costs are peak_memory_gib, utilization"
    ):
        load_checked_spec(spec_file)


@pytest.mark.parametrize(("name", "parameters"), [("Qwen2.5-1.5B", 1_543_714_304), ("Qwen3-4B", 4_022_468_096)])
def test_twins_have_the_published_sizes(name, parameters):
    from transformers import AutoModelForCausalLM

    with torch.device("meta"):
        built = AutoModelForCausalLM.from_config(twin.CONFIGS[name])
    assert sum(parameter.numel() for parameter in built.parameters()) == parameters


def test_the_twin_that_sees_has_the_published_parts():
    from transformers import AutoModelForImageTextToText

    from prism.models import anatomy

    with torch.device("meta"):
        built = AutoModelForImageTextToText.from_config(twin.CONFIGS["Qwen2-VL-2B"])
    found = anatomy.parameters(built)
    assert found == {"tower": 631_183_360, "projector": 34_087_936, "language": 1_543_714_304, "other": 0}
    assert anatomy.visual_tokens(built.config, 448, 448) == 256
    assert anatomy.visual_tokens(built.config, 450, 300) == 16 * 11
    with pytest.raises(
        SpecError, match="none of target_modules is in the projector of Qwen2VLForConditionalGeneration"
    ):
        anatomy.placed(built, "projector", ["q_proj", "v_proj"])
    assert len(anatomy.placed(built, "tower", None)) == 32 * 4
    assert all(".merger." in name for name in anatomy.placed(built, "projector", None))


def test_a_twin_of_two_layers_loads_and_answers(tmp_path, monkeypatch, spec_file):
    small = type(twin.CONFIGS["Qwen3-4B"])(**twin.CONFIGS["Qwen3-4B"].to_dict() | {"vocab_size": 6_144})
    small.hidden_size, small.intermediate_size = 64, 96  # the sizes that make a twin slow to write
    monkeypatch.setitem(twin.CONFIGS, "Qwen3-4B", small)
    twin.make("Qwen3-4B", tmp_path / "twin", layers=2)
    spec = load_spec(spec_file)
    spec = spec.model_copy(update={"model": spec.model.model_copy(update={"model_name": str(tmp_path / "twin")})})
    base = load.load(spec, tmp_path)
    assert base.model.config.num_hidden_layers == 2
    generate.answers(base, base.model, examples_of(spec, tmp_path)[1][:3], tmp_path)
    assert len((tmp_path / generate.ANSWERS).read_text().splitlines()) == 3


def test_the_speed_table_shows_ratios_and_what_failed():
    names = list(speed.CONTENDERS)
    found = {names[0]: {"rate": 50_000.0, "start_s": 20.0, "load_gib": 1.1, "peak_gib": 30.0}}
    found |= {names[1]: {"rate": 8_000.0, "start_s": 2.0}, names[2]: {"error": "out of memory"}}
    lines = speed.table(found).splitlines()
    assert "6.25" in lines[3]
    assert "out of memory" in lines[4]


def test_the_speed_table_compares_what_did_the_same_work():
    found = {name: {"rate": 1_000.0, "gpu": "NVIDIA H200"} for name in speed.CONTENDERS}
    found["PRISM: bf16 base, captured step"] |= {"rate": 4_000.0, "many": 10_000, "many_rate": 3_000.0}
    found["PRISM: the same, one question a prompt"] |= {"rate": 8_000.0}
    page = speed.page(found)
    ratios = {
        cells[1]: cells[3] for line in page.splitlines() if len(cells := [c.strip() for c in line.split("|")]) > 3
    }
    assert ratios["plain transformers: bf16, batch 512"] == "4.00"
    assert ratios["plain transformers: bf16, batch 512, one question"] == "8.00"
    assert ratios["plain transformers: 4-bit, batch 128"] == "1.00"
    assert {ratio for name, ratio in ratios.items() if name.startswith("PRISM")} == {""}
    assert "captured step: 10,000 × 64, with tokenizing and set-up, 3,000 new tokens/s" in page
