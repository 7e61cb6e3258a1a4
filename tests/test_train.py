"""Training and generation: the same bits each time, after a kill too, and answers that do not hang on the batch."""

import json
import warnings
from dataclasses import replace

import pytest
import torch
from peft import PeftModel

from prism.errors import DataError, ModelError, SpecError
from prism.models import generate, likelihoods, load, parity, resuming, train
from prism.spec import load_spec
from prism.store import file_digest
from tests.conftest import ROOT, SPEC, examples_of, write_rows, write_spec
from tests.faults.killing import ended, kill


@pytest.fixture
def spec_file(tiny, rows, tmp_path):
    data = write_rows(tmp_path / "rows.jsonl", rows)
    return write_spec(tmp_path, SPEC.format(data=data, model=tiny))


def work(what, spec_file, folder, limit=0):
    """Train or answer in a fork that is killed after `limit` steps or answers; whether it came to its end."""
    folder.mkdir(exist_ok=True)

    def life():
        spec, done = load_spec(spec_file), 0
        training, held_out = examples_of(spec, ROOT)
        base = load.load(spec, ROOT)

        def advance(more, said=""):
            nonlocal done
            done += more
            if limit and done >= limit:
                kill()

        if what == "train":
            resumed_at = train.train(base, training, 42, folder, advance)["resumed_at"]
            (folder / "resumed_at").write_text(str(resumed_at))
        else:
            generate.BATCH_TOKENS["cpu"] = 400
            generate.answers(base, base.model, held_out, folder, advance)

    return ended(life)


# Of 24 steps in two epochs, every third one leaves a checkpoint: killed in the first, after its end, and in the second.
@pytest.mark.parametrize(
    ("strategy", "kills"), [("random", [17]), ("group_by_length", [5, 14, 17]), ("sequential", [17])]
)
def test_killed_training_resumes_to_the_same_bits(spec_file, tmp_path, strategy, kills):
    text = spec_file.read_text().replace("use_cpu = true", f'use_cpu = true\ntrain_sampling_strategy = "{strategy}"')
    spec_file.write_text(text)
    assert work("train", spec_file, tmp_path / "whole")
    for last in kills:
        folder = tmp_path / f"killed-{last}"
        assert not work("train", spec_file, folder, limit=last)
        newest = resuming.last_checkpoint(folder / "trainer")
        assert newest is not None
        half = newest.with_name(f"checkpoint-{last - 1}")  # as if the kill had come while a later one was written
        half.mkdir()
        (half / "adapter_model.safetensors").write_bytes(b"half")
        assert work("train", spec_file, folder)
        resumed_at = (folder / "resumed_at").read_text()
        assert resumed_at == newest.name.rpartition("-")[2] == str((last - 1) // 3 * 3)
        for name in ("adapter_model.safetensors", "adapter_config.json"):
            assert file_digest(folder / name) == file_digest(tmp_path / "whole" / name)


def test_training_that_would_resume_to_another_adapter_starts_again(loaded, tmp_path):
    spec, training, _, base = loaded
    train.train(base, training, 42, tmp_path)
    unknown = replace(base, spec=spec.model_copy(update={"sft": spec.sft | {"train_sampling_strategy": "by_mood"}}))
    with pytest.warns(UserWarning, match=r"starts again and not at step 24.*train_sampling_strategy = 'by_mood'"):
        assert resuming.checkpoint_of(unknown, tmp_path / "trainer") is None
    assert not (tmp_path / "trainer").exists()
    with warnings.catch_warnings(action="error"):  # nothing was begun
        assert resuming.checkpoint_of(unknown, tmp_path / "trainer") is None
    assert train.sft_config(unknown.spec, tmp_path, 42).save_strategy == "no"
    (tmp_path / "trainer").mkdir()  # as a training leaves it that keeps no checkpoints
    with pytest.warns(UserWarning, match=r"training starts again, because it would resume to another adapter"):
        assert resuming.checkpoint_of(unknown, tmp_path / "trainer") is None


def test_a_base_is_divided_by_fsdp_alone(spec_file, tmp_path):
    spec = load_spec(spec_file)
    spec = spec.model_copy(update={"sft": {**spec.sft, "deepspeed": "zero3.json"}})
    with pytest.raises(
        SpecError, match=r"\[sft\] deepspeed = 'zero3.json': a part of the adapter would be stored; delete it"
    ):
        train.check(spec, tmp_path)


@pytest.mark.parametrize("key", ["save_only_model", "ignore_data_skip"])
def test_options_that_keep_a_training_from_resuming(spec_file, tmp_path, key):
    spec = load_spec(spec_file)
    spec = spec.model_copy(update={"sft": {**spec.sft, key: True}})
    with pytest.raises(SpecError, match=rf"\[sft\] {key} = True: a killed training would resume to another adapter"):
        train.check(spec, tmp_path)


def test_killed_generation_resumes_after_its_last_batch(spec_file, tmp_path):
    assert work("answers", spec_file, tmp_path / "whole")
    assert not work("answers", spec_file, tmp_path / "killed", limit=12)
    path = tmp_path / "killed" / generate.ANSWERS
    kept = path.read_text()
    assert 0 < kept.count("\n") < 40
    path.write_text(kept + '{"id": "cut off he')
    assert work("answers", spec_file, tmp_path / "killed")
    assert path.read_text().startswith(kept)
    assert path.read_text() == (tmp_path / "whole" / generate.ANSWERS).read_text()


@pytest.fixture
def loaded(spec_file, tmp_path):
    spec = load_spec(spec_file)
    training, held_out = examples_of(spec, tmp_path)
    return spec, training, held_out, load.load(spec, tmp_path)


def test_in_half_precision_the_answers_decide_whether_an_adapter_is_merged(loaded, tmp_path, monkeypatch):
    spec, training, held_out, base = loaded
    train.train(base, training, 42, tmp_path)

    def checked():
        half = spec.model_copy(update={"model": spec.model.model_copy(update={"dtype": "bfloat16"})})
        return parity.check(load.load(half, tmp_path), tmp_path, training, held_out)

    found = checked()
    assert found["asked"] == min(len(held_out), 240)
    assert set(found["shares"]) == {"batch_of_one", "merge"}
    assert found["holds"] == {"reload": None} | {name: share <= 0.01 for name, share in found["shares"].items()}

    def differ(base, model, asked, merge):  # merged, one answer of fifty is another
        said, ids, engine = answered(base, model, asked, merge)
        return [text + "!" * (merge and n % 50 == 0) for n, text in enumerate(said)], ids, engine

    answered = parity._answers
    monkeypatch.setattr(parity, "_answers", differ)
    assert checked()["holds"]["merge"] is False


def test_a_merge_that_was_not_tried_is_not_said_to_hold(loaded, tmp_path):
    """Only the captured step merges into a quantized base; `generate` compares the adapter with itself."""
    spec, training, held_out, base = loaded
    train.train(base, training, 42, tmp_path)
    base = load.load(spec.model_copy(update={"model": spec.model.model_copy(update={"dtype": "bfloat16"})}), tmp_path)
    quantized = base.spec.model.model_copy(update={"load_in_8bit": True})
    base.spec = base.spec.model_copy(update={"model": quantized})
    found = parity.check(base, tmp_path, training, held_out[:8])
    assert "merge" not in found["shares"]
    assert found["holds"]["merge"] is None


def test_a_quantized_base_that_training_left_as_it_was_need_not_be_loaded_again(loaded, tmp_path):
    spec, training, held_out, base = loaded
    assert parity.untouched(base, training) is None, "a float32 base is loaded again, since adapters are merged into it"
    base.spec = spec.model_copy(update={"model": spec.model.model_copy(update={"load_in_8bit": True})})
    before = parity.untouched(base, training)
    train.train(base, training, 42, tmp_path)
    found = parity.check(base, tmp_path, training, held_out[:8], before)
    assert found["restored"] is True
    assert not isinstance(base.model, PeftModel)
    assert torch.allclose(parity.untouched(base, training), before, rtol=0, atol=parity.SAME)
    base.model.model.norm.weight.data *= 1.5  # as if training had left something behind
    assert parity.check(base, tmp_path, training, held_out[:8], before)["restored"] is False


def test_stored_adapter_is_the_trained_one_and_parity_is_kept(loaded, tmp_path):
    spec, training, held_out, base = loaded
    notes = train.train(base, training, 42, tmp_path)
    found = parity.check(base, tmp_path, training, held_out)
    assert "shares" not in found, "in float32 no logit moves, so no answer can"
    assert found["differences"]["changes"] > 0.01
    assert found["differences"]["reload"] == 0
    assert all(found["holds"].values())
    assert notes["steps"] == train.steps(spec, len(training)) == 24
    assert notes["loss"][0][1] > notes["loss"][-1][1]
    again = train.train(load.load(spec, tmp_path), training, 42, tmp_path)  # as after a kill in the parity check
    assert (again["resumed_at"], again["loss"]) == (24, notes["loss"]), "no step is trained twice"
    resuming.discard_checkpoints(tmp_path)
    assert not (tmp_path / "trainer").exists()


def test_adapter_that_changes_nothing_is_refused(loaded, tmp_path):
    _, training, _, base = loaded
    base.model = load.add_adapter(base, 42)  # LoRA starts as no change
    base.model.save_pretrained(tmp_path)
    with pytest.raises(ModelError, match="the adapter does not change the base's logits"):
        parity.check(base, tmp_path, training, training)


def test_adapter_stored_otherwise_than_trained_is_refused(loaded, tmp_path):
    from safetensors.torch import load_file, save_file

    _, training, _, base = loaded
    train.train(base, training, 42, tmp_path)
    weights = tmp_path / "adapter_model.safetensors"
    save_file({name: tensor * 3 for name, tensor in load_file(weights).items()}, weights)
    with pytest.raises(ModelError, match="answers differently after reloading"):
        parity.check(base, tmp_path, training, training)


def test_answers_do_not_hang_on_the_batch(loaded, tmp_path, monkeypatch):
    _, _, held_out, base = loaded
    texts = []
    for budget in (1, 500, 100_000):
        monkeypatch.setitem(generate.BATCH_TOKENS, "cpu", budget)
        folder = tmp_path / str(budget)
        folder.mkdir()
        generate.answers(base, base.model, held_out, folder)
        lines = (folder / generate.ANSWERS).read_text().splitlines()
        texts.append({(line := json.loads(raw))["id"]: line["answer"] for raw in lines})
    assert texts[0] == texts[1] == texts[2]
    assert len(texts[0]) == len(held_out)


def test_label_likelihood_is_the_sum_over_the_labels_tokens(loaded, tmp_path):
    """Against one plain forward pass a question and label."""
    _, _, held_out, base = loaded
    labels = ("neutral", "bullish", "bearish")
    likelihoods.likelihoods(base, base.model, held_out[:5], labels, tmp_path)
    lines = map(json.loads, (tmp_path / likelihoods.LIKELIHOODS).read_text().splitlines())
    found = {line["id"]: line["labels"] for line in lines}
    for example in held_out[:5]:
        prompt = generate.encode(base, example)
        for label in labels:
            answer = [*base.tokenizer(label)["input_ids"], base.tokenizer.eos_token_id]
            with torch.no_grad():
                scores = base.model(torch.tensor([prompt + answer])).logits[0].log_softmax(-1)
            told = sum(scores[len(prompt) + n - 1, token].item() for n, token in enumerate(answer))
            assert found[example.id][label] == pytest.approx(told, abs=1e-4)


def test_question_longer_than_the_window(loaded):
    _, _, held_out, base = loaded
    base.spec = base.spec.model_copy(update={"model": base.spec.model.model_copy(update={"max_seq_length": 16})})
    with pytest.raises(DataError, match=r"sample .* tokens, but \[model\]\.max_seq_length leaves 12"):
        generate.encode(base, held_out[0])


@pytest.mark.parametrize(
    ("table", "options", "sentence"),
    [
        ("lora", {"rank": 3}, r"phase1/tiny\.toml \[lora\]: .*rank"),
        ("sft", {"lr": 3, "use_cpu": True, "bf16": False}, r"phase1/tiny\.toml \[sft\]: .*lr"),
        ("generate", {"max_new_tokenz": 3}, r"\[generate\] max_new_tokenz: GenerationConfig has no such option"),
    ],
)
def test_unknown_library_option(spec_file, tmp_path, table, options, sentence):
    spec = load_spec(spec_file).model_copy(update={table: options})
    with pytest.raises(SpecError, match=sentence):
        _ = generate.check(spec), train.check(spec, tmp_path)


@pytest.mark.parametrize(
    ("table", "options", "sentence"),
    [
        ("lora", {"target_modules": ["q_prj"]}, r"phase1/tiny\.toml \[lora\]: .*q_prj"),
        ("lora", {"lora_alpha": "8"}, r"phase1/tiny\.toml \[lora\]: "),
        ("sft", {"eval_strategy": "steps"}, r"phase1/tiny\.toml \[sft\]: .*correct or delete that option"),
    ],
)
def test_what_only_the_trainer_refuses_is_one_sentence(loaded, tmp_path, table, options, sentence):
    spec, training, _, base = loaded
    base.spec = spec.model_copy(update={table: {**getattr(spec, table), **options}})
    with pytest.raises(SpecError, match=sentence) as error:
        train.train(base, training, 42, tmp_path)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(("key", "value"), [("per_device_train_batch_size", 0), ("num_train_epochs", "2")])
def test_counts_that_are_none(spec_file, tmp_path, key, value):
    spec = load_spec(spec_file)
    spec = spec.model_copy(update={"sft": {**spec.sft, key: value}})
    with pytest.raises(SpecError, match=rf"\[sft\] {key} = {value!r}: must be a number above 0"):
        train.check(spec, tmp_path)


def test_loss_that_is_no_number(loaded, tmp_path):
    _, training, _, base = loaded
    with torch.no_grad():
        base.model.model.layers[0].mlp.up_proj.weight[0, 0] = float("nan")
    with pytest.raises(ModelError, match="loss became NaN"):
        train.train(base, training, 42, tmp_path)


def test_layers_that_torch_cannot_compile_are_one_sentence(spec_file, tmp_path, monkeypatch):
    """As under Unsloth, which compiles the layers of some families by itself."""
    monkeypatch.setenv("PRISM_ENGINE", "plain")  # the lean step does without these layers
    base = load.load(load_spec(spec_file), ROOT)

    def backend(graph, inputs):
        raise AssertionError("a pass of the compiler")

    layer = base.model.model.layers[0]
    layer.forward = torch.compile(layer.forward, backend=backend)
    rows = examples_of(load_spec(spec_file), ROOT)[0]
    with pytest.raises(ModelError, match=r"compile.*BackendCompilerFailed.*TORCHDYNAMO_DISABLE=1"):
        train.train(base, rows, 42, tmp_path / "adapter")
