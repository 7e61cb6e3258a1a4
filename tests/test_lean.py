"""The training step of a CPU: the losses and the adapter of TRL's own step, by fewer products, and that one where it cannot."""

from dataclasses import replace
from types import SimpleNamespace

import numpy
import pytest
import torch
from safetensors.torch import load_file
from torch.utils.flop_counter import FlopCounterMode
from transformers import AutoTokenizer, LlamaConfig, LlamaForCausalLM, Qwen2Config, Qwen2ForCausalLM

from prism.models import beginnings, lean, load, own_steps, train
from prism.models.ahead import Rows
from prism.spec import load_spec
from tests.conftest import ROOT, SPEC, examples_of, write_rows, write_spec

SIZES = {
    "vocab_size": 400,
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 256,
}


@pytest.fixture(scope="module", params=["qwen3", "qwen2", "llama"])
def model(request, tiny, tmp_path_factory):
    if request.param == "qwen3":
        return tiny
    torch.manual_seed(0)
    folder = tmp_path_factory.mktemp(request.param)
    made = {
        "qwen2": lambda: Qwen2ForCausalLM(Qwen2Config(**SIZES)),  # whose queries, keys and values have a bias
        "llama": lambda: LlamaForCausalLM(LlamaConfig(**SIZES, tie_word_embeddings=False)),
    }[request.param]()
    for name, parameter in made.named_parameters():
        if name.endswith("bias"):
            torch.nn.init.normal_(parameter)
    made.save_pretrained(folder)
    AutoTokenizer.from_pretrained(tiny).save_pretrained(folder)
    return folder


@pytest.fixture
def recipe(tiny, rows, tmp_path):
    return spec_of(tiny, rows, tmp_path)


def spec_of(model, rows, folder):
    data = write_rows(folder / "rows.jsonl", rows)
    return load_spec(write_spec(folder, SPEC.format(data=data, model=model)))


def trained(spec, folder, **tables):
    """The notes and the weights of an adapter."""
    spec = spec.model_copy(update={name: getattr(spec, name) | options for name, options in tables.items()})
    base = load.load(spec, ROOT)
    before = {name: module.__dict__.get("forward") for name, module in base.model.named_modules()}
    notes = train.train(base, examples_of(spec, ROOT)[0], 42, folder)
    left = {name: module.__dict__.get("forward") for name, module in base.model.unload().named_modules()}
    assert {name for name, forward in left.items() if forward is not before[name]} <= {""}  # TRL leaves its own
    return notes, load_file(folder / "adapter_model.safetensors")


def plain(monkeypatch, *given, **tables):
    with monkeypatch.context() as patched:
        patched.setenv("PRISM_ENGINE", "plain")
        return trained(*given, **tables)


def same(found, expected):
    (notes, weights), (plain_notes, plain_weights) = found, expected
    assert (notes["engine"], plain_notes["engine"]) == ("lean", "plain")
    assert torch.tensor(notes["loss"]) == pytest.approx(torch.tensor(plain_notes["loss"]), abs=1e-4)
    assert weights.keys() == plain_weights.keys()
    for name, weight in weights.items():  # Adam makes much of single gradients near 0, whose rounding it sees as well
        assert (weight - plain_weights[name]).norm() <= 2e-3 * plain_weights[name].norm(), name


ALL = {"target_modules": "all-linear"}
RECIPES = {
    "as it is": {},
    "all projections": {"lora": ALL},
    "scaled and ranked": {"lora": ALL | {"use_rslora": True, "rank_pattern": {"v_proj": 2}}},
    "with a bias": {"lora": {"bias": "lora_only"}},
    "accumulated": {"sft": {"gradient_accumulation_steps": 3, "per_device_train_batch_size": 3}},
    "one row a step": {"sft": {"per_device_train_batch_size": 1, "max_steps": 20}},
    "packed": {"sft": {"packing": True, "max_length": 96, "per_device_train_batch_size": 2}},
    "the prompt counts": {"sft": {"completion_only_loss": False}},
    "answers cut": {"sft": {"max_length": 82}},
}


@pytest.mark.parametrize("tables", RECIPES.values(), ids=RECIPES)
def test_the_losses_and_the_adapter_are_the_plain_paths(model, rows, tmp_path, monkeypatch, tables):
    recipe = spec_of(model, rows, tmp_path)
    expected = plain(monkeypatch, recipe, tmp_path / "plain", **tables)
    same(trained(recipe, tmp_path / "lean", **tables), expected)


def test_fifty_steps_stay_together(recipe, tmp_path, monkeypatch):
    expected = plain(monkeypatch, recipe, tmp_path / "plain", sft={"max_steps": 50})
    same(trained(recipe, tmp_path / "lean", sft={"max_steps": 50}), expected)


def test_it_multiplies_less(recipe, tmp_path, monkeypatch):
    """Of rows of some 40 tokens, half of them shared, with an adapter on every projection."""
    options = {"lora": ALL, "sft": {"max_steps": 3, "save_strategy": "no"}}
    counted = []
    for path in ("plain", "auto"):
        monkeypatch.setenv("PRISM_ENGINE", path)
        with FlopCounterMode(display=False) as flops:
            trained(recipe, tmp_path / path, **options)
        counted.append(flops.get_total_flops())
    assert counted[1] < 0.6 * counted[0]


def test_a_loss_that_is_not_finite_starts_the_plain_path(recipe, tmp_path, monkeypatch, capsys):
    _, expected = plain(monkeypatch, recipe, tmp_path / "plain")
    apply, calls = lean.Head.apply, []

    def fails(*given):
        calls.append(apply(*given))
        return calls[-1] * (torch.nan if len(calls) == 6 else 1)

    monkeypatch.setattr(lean.Head, "apply", fails)
    notes, found = trained(recipe, tmp_path / "lean")
    assert (notes["engine"], notes["why"]) == ("plain", "the loss of a step was not finite")
    assert "training starts again without the lean step: the loss of a step was not finite" in capsys.readouterr().err
    assert all(torch.equal(found[name], weight) for name, weight in expected.items())


OTHERS = {
    "dropout": ({"lora": {"lora_dropout": 0.1}}, "[lora] lora_dropout is set"),
    "embeddings": ({"lora": {"target_modules": ["q_proj", "embed_tokens"]}}, "its adapter changes model.embed_tokens"),
    "half precision": ({"sft": {"bf16": True}}, "it computes in half precision"),
    "checkpointing": ({"sft": {"gradient_checkpointing": True}}, "[sft] gradient_checkpointing is set"),
    "another loss": ({"sft": {"loss_type": "dft"}}, "[sft] chooses another loss"),
    "noise": ({"sft": {"neftune_noise_alpha": 5}}, "[sft] neftune_noise_alpha is set"),
}


@pytest.mark.parametrize(("tables", "why"), OTHERS.values(), ids=OTHERS)
def test_what_the_plain_path_trains_and_why(recipe, tmp_path, tables, why):
    few = {"max_steps": 2, "save_strategy": "no"}
    notes, _ = trained(recipe, tmp_path, **tables | {"sft": few | tables.get("sft", {})})
    assert (notes["engine"], notes["why"]) == ("plain", why)


def test_several_processes_and_a_gpu_have_other_steps(recipe):
    base = load.load(recipe, ROOT)
    config = train.sft_config(recipe, ROOT, 42)
    assert lean.unsupported(base, config) == ""
    two = SimpleNamespace(bf16=False, fp16=False, world_size=2)
    assert lean.unsupported(base, two) == "several processes share it"
    on_gpu = replace(base, model=SimpleNamespace(device=torch.device("cuda")))
    assert lean.unsupported(on_gpu, config) == "there is a GPU"


def rows_of(*rows):
    """Rows of tokens and of how many at their end count."""
    lengths = numpy.array([len(ids) for ids, _ in rows])
    following = [[-100] * (len(ids) - 1 - n) + list(ids[len(ids) - n :]) + [-100] for ids, n in rows]
    ids = numpy.concatenate([ids for ids, _ in rows])
    return Rows(
        ids, numpy.concatenate(following), lengths.cumsum() - lengths, lengths, numpy.array([n for _, n in rows])
    )


def test_a_batch_has_its_rows_beginning_once():
    batch = beginnings.batch_of(rows_of(([5, 6, 7, 8, 1], 1), ([5, 6, 9, 2, 3], 2)))
    assert batch.shared == 2
    assert batch.ids.tolist() == [5, 6, 7, 8, 1, 9, 2, 3]
    assert batch.positions.tolist() == [0, 1, 2, 3, 4, 2, 3, 4]
    assert batch.counted.tolist() == [3, 5, 6]
    assert batch.labels.tolist() == [1, 2, 3]


@pytest.mark.parametrize(
    ("rows", "shared"),
    [
        ([([5, 6, 7], 1)], 0),  # nobody to share it with
        ([([5, 6, 7], 1), ([4, 6, 7], 1)], 0),
        ([([5, 6, 7, 1], 1), ([5, 6, 7, 1], 1)], 2),  # the token before one that counts is each row's own
        ([([5, 6, 7, 1], 0), ([5, 6, 7, 1], 0)], 3),  # each keeps a token
        ([([5], 0), ([5, 6], 0)], 0),
    ],
)
def test_what_rows_share(rows, shared):
    assert beginnings.batch_of(rows_of(*rows)).shared == shared


def test_rows_of_which_no_token_counts():
    batch = beginnings.batch_of(rows_of(([5, 6, 7], 0), ([5, 8], 0)))
    assert batch.labels.tolist() == [-100]


def test_the_step_itself_says_what_it_cannot_train(recipe):
    base = load.load(recipe.model_copy(update={"lora": {"r": 2, "target_modules": ["embed_tokens"]}}), ROOT)
    trainer = SimpleNamespace(model=load.add_adapter(base, 42))
    with pytest.raises(own_steps.CannotGoOn, match=r"its adapter changes model\.embed_tokens"), lean.lean(trainer):
        pass
