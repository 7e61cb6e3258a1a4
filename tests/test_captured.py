"""The captured training step: the plain path's losses and adapter, and the plain path where it cannot go on.

A CPU captures nothing, but runs the same packing, loss and gradients; in float32 only roundings may differ.
"""

import json
import sys
from dataclasses import replace
from itertools import pairwise
from types import SimpleNamespace

import pytest
import torch
import torch.nn.functional as F
from safetensors.torch import load_file
from torch.utils._python_dispatch import TorchDispatchMode
from transformers import AutoTokenizer, Gemma3ForCausalLM, Gemma3TextConfig

from prism.errors import SpecError
from prism.models import ahead, captured, dense, flat, identity, load, packing, train
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
    """Let the captured step train on a CPU, at most so many tokens at once; else the plain path."""
    monkeypatch.setenv("PRISM_ENGINE", "plain")
    return lambda most: monkeypatch.setattr(captured, "decide", lambda *_: captured.Plan(most))


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
    assert (plain[0]["engine"], plain[0]["why"]) == ("plain", "--prism-engine plain")
    on_cpu(most)
    found = trained(recipe, tmp_path / "captured", **options)
    assert (found[0]["engine"], found[0]["most_tokens"]) == ("captured", most)
    same(found, plain)


@pytest.fixture
def gemma(tiny, rows, tmp_path):
    """A recipe for a Gemma 3 whose norms and embeddings are not what they are drawn as, of two kinds of layers."""
    torch.manual_seed(0)
    sizes = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "head_dim": 16, "vocab_size": 400}
    heads = {"num_attention_heads": 2, "num_key_value_heads": 1, "layer_types": ["sliding_attention", "full_attention"]}
    ids = {"bos_token_id": None, "eos_token_id": 2, "pad_token_id": 0, "max_position_embeddings": 512}
    made = Gemma3ForCausalLM(Gemma3TextConfig(**sizes, **heads, **ids, sliding_window=100))
    for weight in made.parameters():
        torch.nn.init.normal_(weight, std=0.1)
    made.save_pretrained(tmp_path / "gemma")
    AutoTokenizer.from_pretrained(tiny).save_pretrained(tmp_path / "gemma")
    data = write_rows(tmp_path / "rows.jsonl", rows)
    return load_spec(write_spec(tmp_path, SPEC.format(data=data, model=tmp_path / "gemma")))


def test_gemma_trains_as_on_the_plain_path(gemma, tmp_path, on_cpu):
    plain = trained(gemma, tmp_path / "plain")
    on_cpu(16_384)
    found = trained(gemma, tmp_path / "captured")
    assert found[0]["engine"] == "captured"
    same(found, plain)


@pytest.mark.parametrize(("sees", "why"), [(100, ""), (40, "some layers attend to a window of 40 tokens only")])
def test_a_window_shorter_than_a_row_is_for_the_plain_path(gemma, sees, why, monkeypatch):
    """Of rows that may have 128 tokens and have fewer."""
    base = load.load(gemma, ROOT)
    base.model.config.sliding_window = sees
    monkeypatch.setattr(captured, "unsupported", lambda *_: "")
    monkeypatch.setattr(captured, "room", lambda *_: 16_384)
    plan = captured.decide(base, train.sft_config(gemma, ROOT, 42), examples_of(gemma, ROOT)[0], 500)
    assert (plan.most, plan.why) == (0 if why else 16_384, why)


def test_half_precision_moves_the_losses_by_roundings(recipe, tmp_path, on_cpu):
    """The trainer's automatic mixed precision: weights in float32, products in bfloat16."""
    plain, _ = trained(recipe, tmp_path / "plain", bf16=True)
    on_cpu(16_384)
    found, _ = trained(recipe, tmp_path / "captured", bf16=True)
    assert found["engine"] == "captured"
    assert torch.tensor(found["loss"]) == pytest.approx(torch.tensor(plain["loss"]), abs=0.05)


def test_rows_too_short_for_their_boundaries(recipe, tmp_path, on_cpu, monkeypatch):
    on_cpu(16_384)
    monkeypatch.setattr(packing, "TOKENS_PER_BOUNDARY", 10**6)
    notes, _ = trained(recipe, tmp_path)
    assert notes["why"] == "its rows are shorter than 1,000,000 tokens"


@pytest.mark.parametrize("failing", [6, 24], ids=["on the way", "the last"])
def test_a_step_that_fails_starts_the_plain_path(recipe, tmp_path, on_cpu, monkeypatch, capsys, failing):
    """The adapter has the bits of one that was never trained otherwise."""
    _, expected = trained(recipe, tmp_path / "plain")
    on_cpu(16_384)
    compute, calls = captured.Step._compute, []

    def fails(step, buffers):
        calls.append(compute(step, buffers))
        if len(calls) == failing:
            step.sums[0] = torch.nan

    monkeypatch.setattr(captured.Step, "_compute", fails)
    notes, found = trained(recipe, tmp_path / "captured")
    assert (notes["engine"], notes["why"]) == ("plain", "the loss of a step was not finite")
    assert (
        "training starts again without the captured step: the loss of a step was not finite" in capsys.readouterr().err
    )
    assert all(torch.equal(found[name], weight) for name, weight in expected.items())
    assert notes["steps"] == len(notes["loss"]) == 24


@pytest.mark.parametrize(
    ("device", "written", "world", "workers", "placed"),
    [("cuda", 0, 1, 1, False), ("cuda", 3, 1, 3, False), ("cpu", 0, 1, 0, False), ("cuda", 0, 2, 0, True)],
    ids=["on a GPU", "the recipe says how many", "on a CPU", "over two GPUs"],
)
def test_batches_stay_on_the_cpu_and_another_process_collates_them(
    device, written, world, workers, placed, monkeypatch
):
    monkeypatch.setattr(ahead, "FORKS", True)
    monkeypatch.setenv("TOKENIZERS_PARALLELISM", "false")
    options = SimpleNamespace(dataloader_num_workers=written, world_size=world, device=torch.device(device))
    trainer = SimpleNamespace(args=options, accelerator=SimpleNamespace(device_placement=True))
    with ahead.batches_stay(trainer):
        assert (options.dataloader_num_workers, trainer.accelerator.device_placement) == (workers, placed)
        assert hasattr(trainer, "_prepare_inputs") is not placed
    assert (options.dataloader_num_workers, trainer.accelerator.device_placement) == (written, True)
    assert not hasattr(trainer, "_prepare_inputs")


def test_a_row_that_does_not_fit(recipe, tmp_path, on_cpu):
    on_cpu(20)
    notes, _ = trained(recipe, tmp_path)
    assert notes["engine"] == "plain"
    assert "is longer than the 20 that fit at once" in notes["why"]


def test_rows_are_grouped_in_order():
    assert list(captured.pieces([5, 5, 5, 9], 10)) == [[0, 1], [2], [3]]


def test_sizes_are_few_and_waste_little():
    sizes = {captured.rung(count, 128) for count in range(1, 16_385)}
    assert len(sizes) <= 64
    assert all(count <= captured.rung(count, 128) <= max(128, count * 9 / 8 + 1) for count in range(1_024, 16_385))


def test_a_graph_that_is_little_larger_is_replayed():
    wanted = (1_024, 256)
    held = [(1_024, 256), (1_152, 256), (1_280, 512)]
    assert all(captured._holds(wanted, shape) for shape in held)
    assert not any(captured._holds(wanted, shape) for shape in [(1_408, 256), (1_024, 768), (896, 256), (1_152, 0)])


def test_one_compilation_serves_all_layers_and_all_sizes(recipe, tmp_path, on_cpu, monkeypatch):
    """As on a GPU, where the attention is one operation; the CPU's has a Python loop."""
    on_cpu(16_384)
    graphs, sizes, compute, kept = [], set(), captured.Step._compute, captured.captured

    def attend(module, query, key, value, mask, scaling, packed_boundaries, **_):
        attended = F.scaled_dot_product_attention(query, key, value, is_causal=True, scale=scaling, enable_gqa=True)
        return attended.transpose(1, 2) + 0 * packed_boundaries.sum(), None

    def seen(step, buffers):
        sizes.add((buffers.ids.shape, buffers.boundaries.shape))
        compute(step, buffers)

    def backend(graph, _):
        graphs.append(graph)
        return graph.forward

    def compiled(trainer, *rest):
        for layer in trainer.model.get_base_model().model.layers:
            layer.compile(backend=backend)
        return kept(trainer, *rest)

    sized = captured.rung
    monkeypatch.setattr(captured, "rung", lambda count, least: sized(count, least // 16))  # more sizes
    monkeypatch.setattr(packing, "attend", attend)
    monkeypatch.setattr(captured.Step, "_compute", seen)
    monkeypatch.setattr(captured, "captured", compiled)
    trained(recipe, tmp_path, max_steps=8, save_strategy="no", per_device_train_batch_size=3)
    assert len(sizes) > 1
    assert len(graphs) == 1


QUIET = {"max_steps": 5, "save_strategy": "no"}


class Card:
    """What is asked of a GPU before training."""

    def __init__(self, monkeypatch, base, capability=(9, 0)):
        monkeypatch.setattr(torch.cuda, "get_device_capability", lambda *_: capability)
        self.base = base
        self.base.model = type("Model", (), {"device": torch.device("cuda"), "config": base.model.config})()

    def refuses(self, steps=500, **tables):
        spec = self.base.spec.model_copy(update={k: {**getattr(self.base.spec, k), **v} for k, v in tables.items()})
        config = train.sft_config(spec, ROOT, 42)
        config.bf16 = True
        return captured.unsupported(replace(self.base, spec=spec), config, steps)


def test_what_the_plain_path_trains_and_why(recipe, monkeypatch):
    card = Card(monkeypatch, load.load(recipe, ROOT))
    assert card.refuses() == ""
    assert card.refuses(steps=10) == "10 steps do not repay compiling"
    assert card.refuses(sft={"gradient_checkpointing": True}) == "[sft] gradient_checkpointing is set"
    assert card.refuses(sft={"packing": True}) == ""
    assert card.refuses(sft={"loss_type": "dft"}) == "[sft] chooses another loss"
    assert card.refuses(lora={"lora_dropout": 0.1}) == "[lora] lora_dropout is set"
    assert card.refuses(lora={"use_dora": True}) == "[lora] use_dora is set"
    assert card.refuses(lora={"modules_to_save": ["lm_head"]}) == "[lora] modules_to_save is set"
    assert "compute capability 8.0" in Card(monkeypatch, load.load(recipe, ROOT), (7, 5)).refuses()


def test_the_plain_path_on_demand_is_another_adapter(recipe, tmp_path, monkeypatch):
    identities = []
    for chosen in ("auto", "plain"):
        monkeypatch.setenv("PRISM_ENGINE", chosen)
        identities.append(identity.adapter_identity(recipe, {}, examples_of(recipe, ROOT)[0], 42, ROOT))
    assert identities[1] == identities[0] | {"engine": identities[0]["engine"] | {"path": "plain"}}
    assert Card(monkeypatch, load.load(recipe, ROOT)).refuses() == "--prism-engine plain"
    monkeypatch.setenv("PRISM_ENGINE", "plane")
    with pytest.raises(SpecError, match=r"PRISM_ENGINE = 'plane': must be auto or plain; correct or unset it"):
        identity.engine(recipe)


def test_the_option_chooses_the_path(checkout, monkeypatch):
    monkeypatch.delenv("PRISM_ENGINE", raising=False)
    checkout.runpytest_subprocess("benchmarks", "-m", "phase1", "--prism-profile", "nano", "--prism-engine", "plain")
    found = json.loads((checkout.path / "reports" / "latest" / "results.json").read_text())
    assert found["cost"][0]["engine"]["training, seed 42"] == "plain"
    assert found["specs"][0]["details"]["training"]["42"]["why"] == "--prism-engine plain"


def test_a_spec_within_its_ceiling(recipe, monkeypatch):
    base = load.load(recipe, ROOT)
    monkeypatch.setattr(captured.cost, "free_memory", lambda: 70.0 * 2**30)
    monkeypatch.setattr(torch.cuda, "memory_allocated", lambda *_: 4 * 2**20)
    assert captured.room(base, compiled=True) == captured.MOST
    limit = SimpleNamespace(ceiling=16 / 2**10)
    base.spec = base.spec.model_copy(update={"gate": {"cost": {"peak_memory_gib": limit}}})
    assert captured.room(base, compiled=True) == int((0.8 * 16 - 4) * 2**20 - 256 * 400 * captured.HEAD_BYTES) // (
        2 * 96 * 8
    )


@pytest.mark.parametrize(
    ("count", "steps", "batch", "compiled"), [(40, 30, 4, False), (40, 4_000, 4, True), (40, 100, 4_000, True)]
)
def test_layers_are_compiled_where_many_tokens_repay_it(recipe, count, steps, batch, compiled):
    base = load.load(recipe, ROOT)
    config = train.sft_config(recipe, ROOT, 42)
    config.per_device_train_batch_size, config.gradient_accumulation_steps = batch, 1
    examples = examples_of(recipe, ROOT)[0][:count]
    assert captured._repays_compiling(base, config, examples, steps) == compiled


def test_layers_that_are_not_compiled_store_more(recipe, monkeypatch):
    base = load.load(recipe, ROOT)
    monkeypatch.setattr(captured.cost, "free_memory", lambda: 16 * 2.0**20)
    monkeypatch.setattr(torch.cuda, "memory_allocated", lambda *_: 0)
    assert captured.room(base, compiled=True) == pytest.approx(4 * captured.room(base, compiled=False), abs=4)


def test_one_flat_parameter_takes_the_steps_of_many(recipe, tmp_path, on_cpu, monkeypatch):
    on_cpu(16_384)
    options = {"optim": "adamw_torch", "weight_decay": 0.1}
    monkeypatch.setattr(flat, "EACH_NUMBER", ())
    apart = trained(recipe, tmp_path / "apart", **options)
    monkeypatch.setattr(flat, "EACH_NUMBER", ("adamw_torch",))
    optimizers = []
    made = torch.optim.AdamW.__init__

    def seen(optimizer, parameters, **rest):
        made(optimizer, parameters, **rest)
        optimizers.append(optimizer)

    monkeypatch.setattr(torch.optim.AdamW, "__init__", seen)
    same(trained(recipe, tmp_path / "flat", **options), apart)
    assert [len(group["params"]) for group in optimizers[-1].param_groups] == [1]


@pytest.mark.parametrize(
    ("optim", "shape", "used"),
    [
        ("adamw_8bit", (64, 64), True),
        ("adamw_8bit", (64, 65), False),  # half a block
        ("adamw_torch", (32, 65), True),
        ("adamw_torch", (65,), False),  # the trainer does not decay it
        ("adafactor", (64, 64), False),
    ],
)
def test_an_optimizer_of_its_own_where_one_flat_parameter_would_take_other_steps(optim, shape, used):
    model = torch.nn.Module()
    model.weight = torch.nn.Parameter(torch.ones(shape))
    model.num_parameters = lambda **_: 0
    trainer = SimpleNamespace(
        args=SimpleNamespace(optim=optim, weight_decay=0.1),
        model=None,
        get_optimizer_cls_and_kwargs=lambda *_: (torch.optim.SGD, {"lr": 1.0}),
    )
    with flat.flattened(model) as whole:
        assert list(model.parameters()) == [whole]
        assert flat.set_optimizer(trainer, whole, [model.weight]) is used
    assert list(model.parameters()) == [model.weight]


def test_small_matrices_keep_their_state_in_32_bits(monkeypatch):
    """bitsandbytes' own rule, by which a flat parameter of them all would be large."""
    manager = SimpleNamespace(pid2config={})
    manager.override_config = lambda part, key, value: manager.pid2config.update({id(part): {key: value}})
    given = SimpleNamespace(GlobalOptimManager=SimpleNamespace(get_instance=lambda: manager))
    monkeypatch.setitem(sys.modules, "bitsandbytes.optim", given)
    monkeypatch.setitem(sys.modules, "bitsandbytes", SimpleNamespace(optim=given))
    model = torch.nn.Module()
    model.small = torch.nn.Parameter(torch.ones(32, 64))
    model.large = torch.nn.Parameter(torch.ones(64, 64))
    model.num_parameters = lambda **_: 0
    trainer = SimpleNamespace(
        args=SimpleNamespace(optim="adamw_8bit", weight_decay=0.0),
        model=None,
        get_optimizer_cls_and_kwargs=lambda *_: (torch.optim.SGD, {"lr": 1.0}),
    )
    parameters = flat.trained(model)
    assert parameters == [model.large, model.small]
    with flat.flattened(model) as whole:
        assert flat.set_optimizer(trainer, whole, parameters)
        large, small = trainer.optimizer.param_groups[0]["params"]
        assert (len(large), len(small)) == (64 * 64, 32 * 64)
        assert manager.pid2config == {id(small): {"optim_bits": 32}}
        whole.grad.fill_(0.5)  # what the step computes, and the trainer clips
        trainer.optimizer.step()
        assert model.small.unique() == model.large.unique() == 0.5
    del small, large, trainer
    assert manager.pid2config == {}  # another parameter may get the same id


@pytest.mark.parametrize("most", [16_384, 200], ids=["a batch at once", "in pieces"])
def test_packed_rows_are_those_of_the_plain_path(recipe, tmp_path, on_cpu, most):
    options = {"packing": True, "per_device_train_batch_size": 2, "num_train_epochs": 4, "max_length": 128}
    plain = trained(recipe, tmp_path / "plain", **options)
    on_cpu(most)
    found = trained(recipe, tmp_path / "captured", **options)
    assert (plain[0]["engine"], found[0]["engine"]) == ("plain", "captured")
    same(found, plain)


def test_a_step_launches_nothing_for_each_matrix(recipe, tmp_path, on_cpu, monkeypatch):
    """The operations of a trainer's step outside of what a GPU captures are as many for 2 matrices as for 28."""
    on_cpu(16_384)
    compute = captured.Step._compute

    class Counted(TorchDispatchMode):
        seen = 0

        def __torch_dispatch__(self, function, types, arguments=(), options=None):
            self.seen += 1
            return function(*arguments, **(options or {}))

    def operations(folder, **lora):
        with Counted() as mode:

            def uncounted(step, buffers):
                before = mode.seen
                compute(step, buffers)
                mode.seen = before

            monkeypatch.setattr(captured.Step, "_compute", uncounted)
            counts = []
            spec = recipe.model_copy(update={"lora": recipe.lora | lora, "sft": recipe.sft | QUIET})
            base = load.load(spec, ROOT)
            train.train(
                base, examples_of(spec, ROOT)[0], 42, tmp_path / folder, lambda _, __="": counts.append(mode.seen)
            )
        return min(after - before for before, after in pairwise(counts))

    few = operations("few", target_modules=["q_proj"])
    assert operations("many", target_modules="all-linear") == few
    assert few < 300


@pytest.mark.parametrize("outliers", [False, True])
def test_eight_bits_multiply_as_bitsandbytes_does(outliers):
    """Against its steps one by one: outlier columns in the activations' precision, all else in whole numbers."""
    torch.manual_seed(0)
    weight, scales = torch.randint(-127, 128, (48, 64), dtype=torch.int8), torch.rand(48) + 0.5
    state = SimpleNamespace(CB=weight, SCB=scales, threshold=6.0)
    layer = SimpleNamespace(in_features=64, out_features=48, bias=None, state=state, weight=None)
    x = torch.randn(40, 64).half().float()
    if outliers:
        x[3, 5], x[7, 6] = 9, -20
    columns = (x.abs() >= 6).any(0)
    inner = x.masked_fill(x.abs() >= 6, 0)
    most = inner.abs().amax(1, keepdim=True)
    whole = (inner * 127 / most).round() * ~columns
    full = weight.float() * scales[:, None] / 127
    expected = whole @ full.t() * most / 127 + (x * columns) @ full.t()
    x.requires_grad_()
    found = dense.Int8Linear(layer)(x)
    assert (found - expected).abs().max() <= 2e-3 * expected.abs().max()
    assert bool(columns.any()) == outliers
    found.sum().backward()
    torch.testing.assert_close(x.grad, torch.ones(40, 48) @ full)


def test_no_layer_keeps_a_weight_that_was_dequantized():
    """A compiled step of a model in 8 bits would hold six bytes a parameter of all its layers."""
    weight = torch.randint(-127, 128, (96, 64), dtype=torch.int8)
    state = SimpleNamespace(CB=weight, SCB=torch.rand(96) + 0.5, threshold=6.0)
    layer = dense.Int8Linear(SimpleNamespace(in_features=64, out_features=96, bias=None, state=state, weight=None))
    compiled, kept = torch.compile(layer, backend="aot_eager_decomp_partition"), []
    with torch.autograd.graph.saved_tensors_hooks(lambda t: (kept.append((t.numel(), t.dtype)), t)[1], lambda t: t):
        found = compiled(torch.randn(40, 64, requires_grad=True))
    found.sum().backward()
    assert (weight.numel(), torch.int8) in kept
    assert [dtype for numbers, dtype in kept if numbers == weight.numel() and dtype.is_floating_point] == []


def test_a_base_in_four_and_eight_bits_gets_its_own_layers_back(monkeypatch):
    """`Linear4bit` stands for bitsandbytes', which PEFT dequantizes by its class."""

    class Linear4bit(torch.nn.Linear):
        pass

    class Linear8bitLt(torch.nn.Linear):
        state = SimpleNamespace(CB=torch.ones(8, 8, dtype=torch.int8), SCB=torch.ones(8), threshold=6.0)

    layers = SimpleNamespace(Linear4bit=Linear4bit, Linear8bitLt=Linear8bitLt)
    monkeypatch.setitem(sys.modules, "bitsandbytes", SimpleNamespace(nn=layers))
    monkeypatch.setattr(dense, "dequantize_module_weight", lambda layer: layer.weight)
    four, eight = Linear4bit(8, 8), Linear8bitLt(8, 8)
    model, x = torch.nn.Sequential(four, torch.nn.Sequential(eight)), torch.randn(3, 8)
    plain = four(x)
    with dense.dense(model):
        assert type(model[0]) is torch.nn.Linear
        assert isinstance(model[1][0], dense.Int8Linear)
        assert torch.equal(model[0](x), plain)
        assert not any(parameter.requires_grad for parameter in model[0].parameters() if parameter is not four.bias)
    assert (model[0], model[1][0]) == (four, eight)
