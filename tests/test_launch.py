"""One adapter over two processes, for real, on a CPU: the adapter of one process, to rounding."""

import pytest
from safetensors.torch import load_file, save_file

from prism.errors import ModelError, SpecError
from prism.models import launch, load, parity
from prism.spec import Launch, load_spec
from tests.conftest import ROOT, examples_of


@pytest.fixture
def recipe():
    """Phase 2's nano recipe for four steps, in the order of its seed."""
    spec = load_spec(ROOT / "benchmarks" / "specs" / "phase2" / "nano.toml")
    few = {"max_steps": 4, "per_device_train_batch_size": 4, "gradient_accumulation_steps": 1, "logging_steps": 1}
    sft = {key: value for key, value in spec.sft.items() if key != "train_sampling_strategy"} | few
    return spec.model_copy(update={"sft": sft})


def over(spec, processes):
    return spec.model_copy(update={"launch": Launch(processes=processes)})


@pytest.mark.slow
def test_two_processes_train_the_adapter_of_one(recipe, tmp_path):
    training, found, told = examples_of(recipe, ROOT)[0][:40], {}, []
    for processes in (1, 2):
        folder = tmp_path / str(processes)
        folder.mkdir()
        base = load.load(over(recipe, processes), ROOT)
        notes = launch.train(base, training, 42, folder, lambda steps, live="": told.append((steps, live)))
        found[processes] = notes, load_file(folder / "adapter_model.safetensors")
        assert not {launch.ORDER, launch.NOTES} & {file.name for file in folder.iterdir()}
    (one, alone), (two, shared) = found[1], found[2]
    assert [loss for _, loss in two["loss"]] == pytest.approx([loss for _, loss in one["loss"]], rel=1e-4)
    assert (two["steps"], two["tokens"], two["processes"]) == (one["steps"], one["tokens"], 2)
    assert alone.keys() == shared.keys()
    ups = [name for name in alone if "lora_B" in name]
    moved = sum(float(alone[name].norm()) for name in ups)
    assert sum(float((alone[name] - shared[name]).norm()) for name in ups) < 0.01 * moved
    assert (tmp_path / "1" / "adapter_config.json").read_text() == (tmp_path / "2" / "adapter_config.json").read_text()
    assert told[: len(told) // 2] == told[len(told) // 2 :]  # the progress of both


@pytest.mark.slow
def test_the_captured_step_adds_up_over_two_processes(recipe, tmp_path, monkeypatch):
    monkeypatch.setattr(launch, "MODULE", "tests.launched")
    training, found = examples_of(recipe, ROOT)[0][:40], {}
    for processes in (1, 2):
        folder = tmp_path / str(processes)
        folder.mkdir()
        notes = launch.train(load.load(over(recipe, processes), ROOT), training, 42, folder)
        found[processes] = notes, load_file(folder / "adapter_model.safetensors")
    (one, alone), (two, shared) = found[1], found[2]
    assert (one["engine"], two["engine"]) == ("lean", "captured")
    assert [loss for _, loss in two["loss"]] == pytest.approx([loss for _, loss in one["loss"]], rel=1e-3)
    ups = [name for name in alone if "lora_B" in name]
    moved = sum(float(alone[name].norm()) for name in ups)
    assert sum(float((alone[name] - shared[name]).norm()) for name in ups) < 0.02 * moved


@pytest.mark.slow
def test_where_one_process_cannot_go_on_all_start_again_plainly(recipe, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(launch, "MODULE", "tests.launched")
    monkeypatch.setenv("FAILS_IN", "1")
    steps: list[int] = []
    training = examples_of(recipe, ROOT)[0][:40]
    notes = launch.train(
        load.load(over(recipe, 2), ROOT), training, 42, tmp_path, lambda done, live="": steps.append(done)
    )
    assert (notes["engine"], notes["why"]) == ("plain", "the step of one process failed")
    assert "starts again without the captured step: the step of one process failed" in capsys.readouterr().err
    assert sum(steps) == notes["steps"] == 4
    assert not list(tmp_path.glob("*.txt"))


@pytest.mark.slow
def test_an_adapter_of_several_processes_is_checked_against_its_own_logits(recipe, tmp_path):
    training, held_out, *_ = examples_of(recipe, ROOT)
    base = load.load(over(recipe, 2), ROOT)
    launch.train(base, training[:40], 42, tmp_path, probed=held_out)
    moved = load_file(tmp_path / parity.LOGITS)["logits"] + 0.1
    found = parity.check(base, tmp_path, held_out, held_out)
    assert found["differences"]["reload"] < 1e-3 < found["differences"]["changes"]
    assert not (tmp_path / parity.LOGITS).exists()
    save_file({"logits": moved}, tmp_path / parity.LOGITS)  # as from another base
    with pytest.raises(ModelError, match="the adapter answers differently after reloading"):
        parity.check(load.load(recipe, ROOT), tmp_path, held_out, held_out)


def test_batches_are_shared_evenly(recipe):
    with pytest.raises(
        SpecError, match=r"\[launch\] processes = 3: cannot share .*batch_size = 4 evenly; change either"
    ):
        launch.check(over(recipe, 3))


def test_a_gpu_for_each_process_is_asked_for_before_anything_is_measured(recipe, monkeypatch):
    monkeypatch.setattr(launch, "cuda_devices", lambda: 1)
    on_gpus = recipe.model_copy(update={"sft": recipe.sft | {"use_cpu": False}})
    with pytest.raises(
        SpecError, match=r"processes = 2: \d of its GPUs may be used here; lower it, or run on more GPUs"
    ):
        launch.check(over(on_gpus, 2))
    launch.check(over(recipe, 2))  # trains on the CPU


@pytest.mark.slow
def test_what_a_process_refuses_is_the_error(recipe, tmp_path):
    spec = over(recipe.model_copy(update={"lora": recipe.lora | {"target_modules": ["nothing"]}}), 2)
    base = load.load(spec, ROOT)
    with pytest.raises(ModelError, match=r"phase2/nano.toml \[lora\]: .*nothing"):
        launch.train(base, examples_of(spec, ROOT)[0][:8], 42, tmp_path)


def test_the_processes_see_the_gpus_that_this_one_gave_up(monkeypatch):
    for before, visible in (("", None), ("0,3", "0,3")):
        monkeypatch.setenv("PRISM_GPUS", before)
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0")
        assert launch._visible().get("CUDA_VISIBLE_DEVICES") == visible
