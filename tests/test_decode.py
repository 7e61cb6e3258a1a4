"""The captured step and packed training: the same numbers as the model's own forward pass. On a CPU nothing is captured."""

import json
import sys
import tempfile
import types
from itertools import product
from pathlib import Path

import pytest
import torch
from peft import LoraConfig, get_peft_model
from transformers import (
    AutoModelForCausalLM,
    Gemma3Config,
    Gemma3ForCausalLM,
    Gemma3ForConditionalGeneration,
    Gemma3TextConfig,
    LlamaConfig,
    LlamaForCausalLM,
    Qwen2Config,
    Qwen2ForCausalLM,
    Qwen2VLConfig,
    Qwen3Config,
    Qwen3ForCausalLM,
)

from prism.errors import SpecError
from prism.models import beginnings, decode, families, generate, layout, load, packing
from prism.models.alone import Alone
from prism.spec import load_spec
from tests.conftest import ROOT, examples_of

SIZES = {
    "vocab_size": 90,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 128,
}
LLAMA3 = {
    "rope_type": "llama3",
    "rope_theta": 10_000.0,
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 64,
}
WINDOWS = {"sliding_window": 12, "layer_types": ["sliding_attention", "full_attention"]}
LINEAR = {
    "sliding_attention": {"rope_type": "default", "rope_theta": 10_000.0},
    "full_attention": {"rope_type": "linear", "rope_theta": 1_000_000.0, "factor": 8.0},
}
GEMMA3 = {"head_dim": 16, "query_pre_attn_scalar": 24, "pad_token_id": None, "rope_parameters": LINEAR}
TOWER = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 1, "num_attention_heads": 2, "image_size": 28}
MODELS = {
    "qwen2": lambda: Qwen2ForCausalLM(Qwen2Config(**SIZES)),
    "qwen3": lambda: Qwen3ForCausalLM(Qwen3Config(**SIZES, head_dim=16)),
    "qwen2, windows": lambda: Qwen2ForCausalLM(Qwen2Config(**SIZES, **WINDOWS, use_sliding_window=True)),
    "llama3": lambda: LlamaForCausalLM(LlamaConfig(**SIZES, rope_parameters=LLAMA3)),
    "gemma3": lambda: Gemma3ForCausalLM(Gemma3TextConfig(**SIZES, **WINDOWS, **GEMMA3)),
    "gemma3 with a tower": lambda: Gemma3ForConditionalGeneration(
        Gemma3Config(
            text_config=SIZES | WINDOWS | GEMMA3, vision_config=TOWER, image_token_id=89, mm_tokens_per_image=4
        )
    ),
}
LENGTHS = (23, 9, 17, 8)


@pytest.fixture(params=MODELS)
def adapted(request):
    """A random model that wears an adapter which changes it, with biases that are not 0."""
    torch.manual_seed(0)
    base = MODELS[request.param]()
    found = get_peft_model(base, LoraConfig(r=4, target_modules="all-linear", task_type="CAUSAL_LM")).eval()
    for name, weight in found.named_parameters():
        if "lora_B" in name or name.endswith("bias"):
            torch.nn.init.normal_(weight, std=0.3)
    return found


@pytest.mark.parametrize(
    ("options", "why"),
    [
        ({}, ""),
        ({"use_dora": True}, "its adapter was made with use_dora"),
        ({"target_modules": ["q_proj", "lm_head"]}, "its adapter changes lm_head"),
    ],
)
def test_an_adapter_that_does_more_than_add_to_projections_is_left_to_generate(options, why):
    config = LoraConfig(**({"r": 4, "target_modules": "all-linear", "task_type": "CAUSAL_LM"} | options))
    assert layout.unsupported(get_peft_model(MODELS["qwen3"](), config)) == why


def test_an_old_gpu_is_left_to_generate(monkeypatch):
    config = MODELS["qwen3"]().config
    found = types.SimpleNamespace(config=config, device=torch.device("cuda"), dtype=torch.bfloat16)
    for capability, why in (((8, 0), ""), ((7, 5), "flash attention needs a GPU of compute capability 8.0")):
        monkeypatch.setattr(torch.cuda, "get_device_capability", lambda _, capability=capability: capability)
        assert layout.unsupported(found) == why
    found.dtype = torch.float32  # which does without flash attention
    assert layout.unsupported(found) == ""


@pytest.fixture
def prompts():
    torch.manual_seed(1)
    shared = torch.randint(5, 90, (5,)).tolist()
    return [shared + torch.randint(5, 90, (length - 5,)).tolist() for length in LENGTHS]


@torch.no_grad()
@pytest.mark.parametrize("merge", [True, False])
def test_logits_and_answers_are_the_models(adapted, prompts, merge):
    """Rows of unequal length, a shared beginning run once, the adapter merged or not: against one plain pass a prompt."""
    assert layout.unsupported(adapted) == ""
    decoder = decode.Decoder(adapted, len(prompts), max(LENGTHS) + 6, merge)
    assert all(apart is None for layer in decoder.layers for apart in layer.apart.values()) == merge
    assert beginnings.shared_beginning(prompts) == 5
    wanted = torch.stack([adapted(torch.tensor([prompt])).logits[0, -1] for prompt in prompts])
    assert torch.allclose(decoder.prefill(prompts, shared=5), wanted, atol=1e-4)
    said = decoder.answer(prompts, 6, [0])
    for prompt, found in zip(prompts, said):
        expected = adapted.generate(torch.tensor([prompt]), max_new_tokens=6, do_sample=False, eos_token_id=0)
        ids = expected[0, len(prompt) :].tolist()
        assert found[: len(ids)] == ids


class Linear8bitLt(torch.nn.Module):
    """Stands for bitsandbytes' layer, step by step: products of whole numbers, but for columns with an outlier."""

    def __init__(self, linear):
        super().__init__()
        self.in_features, self.out_features, self.bias = linear.in_features, linear.out_features, linear.bias
        scales = linear.weight.abs().amax(1)
        whole = (linear.weight / scales[:, None] * 127).round().to(torch.int8)
        self.weight = torch.nn.Parameter(whole, requires_grad=False)
        self.state = types.SimpleNamespace(CB=self.weight.data, SCB=scales, threshold=3.0)

    def forward(self, x):
        columns = (x.half().abs() >= 3).flatten(0, -2).any(0)
        inner = x.masked_fill(x.half().abs() >= 3, 0)
        most = inner.abs().amax(-1, keepdim=True)
        products = ((inner * 127 / most).round() * ~columns) @ self.weight.float().t()
        full = self.weight.float() * self.state.SCB[:, None] / 127
        found = products * most * self.state.SCB / 127**2 + (x * columns) @ full.t()
        return found if self.bias is None else found + self.bias


@torch.no_grad()
def test_a_row_alone_and_prompts_in_small_passes(adapted, prompts):
    """Both give the model's own logits: after each token of an answer, and where few prompts are read together."""
    decoder = decode.Decoder(adapted, len(prompts), max(LENGTHS) + 6, merge=False, together=max(LENGTHS))
    wanted = torch.stack([adapted(torch.tensor([prompt])).logits[0, -1] for prompt in prompts])
    assert torch.allclose(decoder.prefill(prompts), wanted, atol=1e-4)
    expected = adapted(torch.tensor([prompts[1]])).logits[0, -4:]
    assert torch.allclose(Alone(decoder).logits(prompts[1], 4), expected, atol=1e-4)


@torch.no_grad()
@pytest.mark.parametrize("labels", [[[5, 6, 0], [7, 0, 0]], [[5], [7]]], ids=["three tokens", "one"])
def test_labels_are_scored_before_the_answers_and_leave_them_as_they_are(adapted, prompts, labels):
    """Each from the reading of the prompts that the answers go on from."""
    decoder = decode.Decoder(adapted, len(prompts), max(LENGTHS) + 6)
    plain, heard, tokens = decoder.answer(prompts, 6, [0]), [], torch.tensor(labels)
    assert decoder.answer(prompts, 6, [0], told=lambda following: heard.append(following(tokens))) == plain
    (scores,) = heard
    assert scores.shape == (len(prompts) * len(labels), tokens.shape[1])
    for n, (prompt, label) in enumerate(product(prompts, labels)):
        logits = adapted(torch.tensor([[*prompt, *label]])).logits[0, len(prompt) - 1 : -1]
        expected = logits.log_softmax(-1).gather(-1, torch.tensor(label)[:, None])[:, 0]
        assert torch.allclose(scores[n], expected, atol=1e-4)


@torch.no_grad()
def test_eight_bits_are_multiplied_as_they_are(adapted, prompts):
    """The weights stay the model's own, in one byte each, with the adapter beside them."""
    for layer in families.text_part(adapted.get_base_model()).layers:
        for projection in (part for part in layer.modules() if hasattr(part, "base_layer")):
            projection.base_layer = Linear8bitLt(projection.base_layer)
    decoder = decode.Decoder(adapted, len(prompts), max(LENGTHS) + 6)
    attention = families.text_part(adapted.get_base_model()).layers[1].self_attn
    pointers = [part.weight.data_ptr() for part in decoder.layers[1].qkv]
    own = (attention.q_proj, attention.k_proj, attention.v_proj)
    assert pointers == [part.base_layer.weight.data_ptr() for part in own]
    assert all(apart is not None for layer in decoder.layers for apart in layer.apart.values())
    wanted = torch.stack([adapted(torch.tensor([prompt])).logits[0, -1] for prompt in prompts])
    assert (decoder.prefill(prompts, shared=5) - wanted).norm() < 0.02 * wanted.norm()
    assert (decoder.prefill(prompts[:1]) - decoder.prefill(prompts[1:2])).norm() > 0.2 * wanted[:1].norm()
    alone = Alone(decoder)
    assert alone.padded
    for prompt in prompts:  # longer and shorter ones in turns, each as if nothing were behind it
        exact = decoder.logits(decoder.forward(torch.tensor(prompt), decoder.span([len(prompt)], 0, 0))[-3:])
        assert torch.allclose(alone.logits(prompt, 3), exact, atol=1e-5)


@torch.no_grad()
@pytest.mark.parametrize("family", [name for name in MODELS if "tower" not in name])
def test_half_precision_is_rounded_where_the_model_rounds_it(family, prompts, monkeypatch):
    """With products and attention summed alike, bfloat16 logits are the model's to the bit; a CPU's sums are not."""
    if family == "gemma3" and "unsloth" in sys.modules:
        pytest.skip("Unsloth compiles Gemma's layers for the whole process, which rounds otherwise")

    def linear(x, weight, bias=None):
        product = x.float() @ weight.float().t()
        return (product if bias is None else product + bias.float()).bfloat16()

    def attention(query, key, value, attn_mask=None, is_causal=False, scale=None, **_):
        group = query.shape[1] // key.shape[1]
        key, value = key.repeat_interleave(group, 1).float(), value.repeat_interleave(group, 1).float()
        scores = query.float() @ key.transpose(-1, -2) * (scale or query.shape[-1] ** -0.5)
        if is_causal:
            attn_mask = torch.ones_like(scores, dtype=torch.bool).tril()
        if attn_mask is not None:
            scores = scores.masked_fill(~attn_mask, -torch.inf)
        return (scores.softmax(-1) @ value).bfloat16()

    monkeypatch.setattr(torch.nn.functional, "linear", linear)
    monkeypatch.setattr(torch.nn.functional, "scaled_dot_product_attention", attention)
    torch.manual_seed(0)
    half = MODELS[family]().eval()
    rotary = families.text_part(half).rotary_emb
    frequencies = {name: buffer.clone() for name, buffer in rotary.named_buffers()}
    half.bfloat16()
    for name, buffer in frequencies.items():
        setattr(rotary, name, buffer)  # float32, as from_pretrained leaves them
    for weight in half.parameters():
        torch.nn.init.normal_(weight, std=0.3)
    wanted = torch.stack([half(torch.tensor([prompt])).logits[0, -1] for prompt in prompts])
    assert torch.equal(decode.Decoder(half, len(prompts), max(LENGTHS)).prefill(prompts), wanted)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
@torch.no_grad()
@pytest.mark.parametrize("wide", [True, False], ids=["published heads", "small heads"])
@pytest.mark.parametrize("family", [name for name in MODELS if "tower" not in name])
def test_captured_answers_are_the_models_on_a_gpu(family, wide, prompts):
    """In bfloat16: what is said is the model's own next token, or one that rounding moves by no more."""
    torch.manual_seed(0)
    made = MODELS[family]().config
    if wide:
        made.update({"head_dim": 256 if family == "gemma3" else 128, "hidden_size": 512, "intermediate_size": 768})
    model = AutoModelForCausalLM.from_config(made, dtype=torch.bfloat16, attn_implementation="eager").cuda().eval()
    for weight in model.parameters():
        torch.nn.init.normal_(weight, std=0.3 if weight.dim() == 1 else weight.shape[-1] ** -0.5)
    decoder = decode.Decoder(model, len(prompts), max(LENGTHS) + 20)
    said = decoder.answer(prompts, 20, [90])  # no token of theirs: all go on
    assert decoder.graph is not None
    assert any(decoder.windows) == (family in ("gemma3", "qwen2, windows"))
    for prompt, ids in zip(prompts, said):
        logits = model(torch.tensor([prompt + ids], device="cuda")).logits[0, len(prompt) - 1 : -1].float()
        chosen = logits.gather(-1, torch.tensor(ids, device="cuda")[:, None])[:, 0]
        assert bool((logits.amax(-1) - chosen <= 0.05 * logits.std(-1)).all())


def test_an_answer_stops_at_its_end_and_a_row_can_be_left_empty(adapted, prompts):
    decoder = decode.Decoder(adapted, len(prompts), max(LENGTHS) + 6)
    free = decoder.answer(prompts[:2], 6, [0])
    end = free[0][2]
    stopped = decoder.answer(prompts[:2], 6, [end])
    place = free[0].index(end)
    assert stopped[0][: place + 1] == free[0][: place + 1]
    assert set(stopped[0][place:]) == {end}


def test_a_batch_of_labels_is_over_with_the_last_of_them(adapted, prompts, monkeypatch):
    decoder, steps = decode.Decoder(adapted, len(prompts), max(LENGTHS) + 30), []
    take = decoder._step
    monkeypatch.setattr(decoder, "_step", lambda: steps.append(take()))
    free = decoder.answer(prompts, 3, [0])
    steps.clear()
    said = decoder.answer(prompts, 30, sorted({ids[1] for ids in free}))
    assert len(steps) <= 2
    assert all(len(ids) == len(steps) + 1 for ids in said)


@pytest.mark.parametrize(
    ("changes", "why"),
    [
        ({"model_type": "gemma2"}, "gemma2 is none of qwen2, qwen3, llama, gemma3_text"),
        ({"layer_types": ["full_attention", "chunked_attention"]}, "of another kind (chunked_attention)"),
        ({"hidden_act": "gelu"}, "its activation (gelu) is none of silu, gelu_pytorch_tanh"),
        ({"final_logit_softcapping": 30.0}, "it caps logits"),
        ({"use_bidirectional_attention": True}, "its tokens see later ones"),
        ({"rope_parameters": {"rope_type": "dynamic"}}, "rotary positions"),
    ],
    ids=["family", "layers", "activation", "caps", "both ways", "positions"],
)
def test_models_that_are_left_to_generate(changes, why):
    config = Qwen2Config(**SIZES)
    for name, value in changes.items():
        object.__setattr__(config, name, value)
    assert why in layout.unsupported(type("Model", (), {"config": config}))


def test_a_tower_that_text_may_pass_is_left_to_generate():
    model = type("Model", (), {"config": Qwen2VLConfig()})
    assert layout.unsupported(model) == "qwen2_vl is none of qwen2, qwen3, llama, gemma3_text"


def test_nano_answers_do_not_hang_on_the_path(tmp_path):
    """In float32 always the same: transformers' `generate` one question at a time, and this decoder side by side."""
    spec = load_spec(ROOT / "benchmarks" / "specs" / "phase1" / "nano.toml")
    held_out = examples_of(spec, ROOT)[1][:24]
    base = load.load(spec, ROOT)
    notes = generate.answers(base, base.model, held_out, tmp_path)
    assert (notes["engine"], notes["why"]) == ("generate", "no GPU")
    lines = [json.loads(line) for line in (tmp_path / generate.ANSWERS).read_text().splitlines()]
    wanted = {line["id"]: line["answer"] for line in lines}
    assert notes["tokens"] == sum(line["tokens"] for line in lines)
    encoded = [generate.encode(base, example) for example in held_out]
    new = spec.generate["max_new_tokens"]
    said = decode.Decoder(base.model, 24, max(map(len, encoded)) + new).answer(
        encoded, new, [base.tokenizer.eos_token_id]
    )
    for example, ids in zip(held_out, said):
        end = ids.index(base.tokenizer.eos_token_id) if base.tokenizer.eos_token_id in ids else new
        assert base.tokenizer.decode(ids[:end], skip_special_tokens=True) == wanted[example.id]


@pytest.fixture
def answered(tmp_path, monkeypatch):
    """Ask the nano model twelve questions with some stop strings; its lines by id, and the steps that it captured."""
    spec = load_spec(ROOT / "benchmarks" / "specs" / "phase2" / "nano.toml")
    held_out = examples_of(spec, ROOT)[1][:12]
    base = load.load(spec, ROOT)
    steps, step = [], decode.Decoder._step
    monkeypatch.setattr(decode.Decoder, "_step", lambda self: (steps.append(1), step(self)))

    def ask(*stops, captured=False):
        base.spec = spec.model_copy(update={"generate": {"max_new_tokens": 24, "stop_strings": list(stops)}})
        folder = Path(tempfile.mkdtemp(dir=tmp_path))
        steps.clear()
        with monkeypatch.context() as patched:
            if captured:
                found = decode.Decoder(base.model, 12, 128), {"engine": "captured"}
                patched.setattr(generate, "_decoder", lambda *_: found)
            generate.answers(base, base.model, held_out, folder)
        lines = map(json.loads, (folder / generate.ANSWERS).read_text().splitlines())
        return {line["id"]: line for line in lines}, len(steps)

    return ask


def test_an_answer_ends_where_it_says_a_stop_string(answered):
    """The free answer up to the first of them, which it does not hold."""
    stops = [" is", " of the"]
    free, ended = answered()[0], answered(*stops)[0]
    for id, line in free.items():
        places = [line["answer"].index(stop) for stop in stops if stop in line["answer"]]
        assert ended[id]["answer"] == line["answer"][: min(places, default=None)]
        assert ended[id]["finish"] == ("stop" if places else line["finish"])
        assert ended[id]["tokens"] <= line["tokens"]
    assert 0 < sum(ended[id]["tokens"] < line["tokens"] for id, line in free.items()) < 12


@pytest.mark.parametrize(
    "stops",
    [[" is", " of the"], ["e mechanism ", "ni"], ["\nTh"], ["\N{SNOWMAN}"]],
    ids=["plain", "one ends within the other", "begins in the question", "never said"],
)
def test_both_paths_end_an_answer_alike(stops, answered):
    assert answered(*stops, captured=True)[0] == answered(*stops)[0]


def test_a_batch_is_over_where_all_its_answers_are(answered):
    assert answered(captured=True)[1] == 23
    assert answered(" ", captured=True)[1] == decode.CHECK_EVERY - 1


def test_a_special_token_is_no_stop_string(answered):
    with pytest.raises(SpecError, match=r"stop_strings: <\|im_end\|> is a special token, so no answer contains it"):
        answered("<|im_end|>")


@pytest.mark.parametrize("adapted", ["qwen2", "qwen3", "llama3"], indirect=True)
def test_packed_samples_see_only_themselves(adapted, prompts):
    """Logits and the adapter's gradients of one packed row, padding at its end, against each sample alone."""
    flat = torch.tensor([[token for prompt in prompts for token in prompt] + [0] * 11])
    places = torch.tensor([[n for length in LENGTHS for n in range(length)] + [0] * 11])
    trained = [weight for weight in adapted.parameters() if weight.requires_grad]
    with packing.packed_attention(adapted, 23):
        packed = adapted(input_ids=flat, position_ids=places, use_cache=False).logits[0]
        together = torch.autograd.grad(packed[: sum(LENGTHS)].square().sum(), trained)
    alone = [adapted(torch.tensor([prompt])).logits[0] for prompt in prompts]
    assert torch.allclose(packed[: sum(LENGTHS)], torch.cat(alone), atol=1e-5)
    apart = torch.autograd.grad(torch.cat(alone).square().sum(), trained)
    for one, other in zip(together, apart):
        assert torch.allclose(one, other, rtol=1e-3, atol=1e-3)


def test_boundaries_cover_the_row_and_none_is_too_long():
    places = torch.tensor([[*range(7), *range(4), *([0] * 21)]])
    found = packing.boundaries(places, longest=8).tolist()
    assert found[:6] == [0, 7, 11, 19, 27, 32]
    assert set(found[6:]) <= {32}
