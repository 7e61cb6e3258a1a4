"""What is compiled while a base is loaded is what it is then asked with."""

import pytest
from transformers import AutoConfig, Gemma3TextConfig, LlamaConfig, Qwen2Config, Qwen3Config

from prism.models import attention, int8, kernels, load, warming
from prism.models.identity import engine
from prism.spec import load_spec
from tests.conftest import ROOT

torch = pytest.importorskip("torch")

SIZES = {"hidden_size": 128, "intermediate_size": 256, "num_attention_heads": 4, "num_key_value_heads": 2}


GEMMA3 = Gemma3TextConfig(**SIZES, head_dim=256)


@pytest.mark.parametrize(
    "config", [Qwen2Config(**SIZES), Qwen3Config(**SIZES, head_dim=64), LlamaConfig(**SIZES), GEMMA3]
)
@pytest.mark.parametrize("in_8_bits", [True, False])
def test_each_call_takes_the_shapes_of_a_family(config, in_8_bits):
    calls = warming.calls(config, torch.float32, in_8_bits, device="cpu")
    for call in calls:
        call()
    assert len(calls) > (10 if in_8_bits else 6)


def test_a_kernel_that_does_not_compile_is_said_where_it_is_used(monkeypatch):
    def fails():
        raise RuntimeError("no compiler")

    monkeypatch.setattr(warming, "calls", lambda *_: [fails])
    with warming.warming(Qwen2Config(**SIZES), torch.float32, in_8_bits=False):
        pass


def test_only_a_base_that_is_answered_with_kernels_is_warmed(monkeypatch):
    spec = load_spec(ROOT / "benchmarks" / "specs" / "phase2" / "nano.toml")
    folder = str(ROOT / spec.model.model_name)
    begun = []
    monkeypatch.setattr(warming, "warming", lambda *given: begun.append(given))
    monkeypatch.setattr(kernels, "built", lambda: True)
    load._warming(spec, folder, engine(spec))
    assert not begun
    on_gpu = engine(spec) | {"device": "cuda", "dtype": "bfloat16"}
    load._warming(spec, folder, on_gpu)
    ((config, dtype, in_8_bits),) = begun
    assert (config.hidden_size, dtype, in_8_bits) == (
        AutoConfig.from_pretrained(folder).hidden_size,
        torch.bfloat16,
        False,
    )
    load._warming(spec, folder, on_gpu | {"library": "unsloth"})
    monkeypatch.setattr(kernels, "built", lambda: False)
    load._warming(spec, folder, on_gpu)
    assert len(begun) == 1


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_nothing_is_compiled_again(monkeypatch):
    config = Qwen3Config(**SIZES, head_dim=64)
    with warming.warming(config, torch.bfloat16, in_8_bits=True):
        pass
    before = compiled()
    x = torch.randn(37, 128, device="cuda", dtype=torch.bfloat16)
    weight = torch.ones(128, device="cuda", dtype=torch.bfloat16)
    whole, scales = torch.ones(256, 128, device="cuda", dtype=torch.int8), torch.ones(256, device="cuda")
    for count in (1, 16, 37):
        kernels.add_norm(x[:count], x[:count], weight, 1e-6, alone=count == 1)
        kernels.add_norm(x[:count], None, weight, 1e-6)
        int8.products(x[:count], [(whole, scales)], 6.0)
    int8.products(x.repeat(50, 1), [(whole, scales)], 6.0)
    kernels.gated(torch.ones(5, 512, device="cuda", dtype=torch.bfloat16))
    for rows in (attention.MANY, 3):
        query = torch.ones(rows, 4, 64, device="cuda", dtype=torch.bfloat16)
        cache = torch.ones(rows, 20, 2, 64, device="cuda", dtype=torch.bfloat16)
        attention.attended(query, cache, cache, torch.full((rows,), 20, dtype=torch.int32, device="cuda"))
    assert compiled() == before
    assert sum(before.values()) > 10
    with warming.warming(GEMMA3, torch.bfloat16, in_8_bits=False):
        pass
    before = compiled()
    kernels.add_norm(x, x, weight.float(), 1e-6)
    kernels.add_norm(x, None, weight.float(), 1e-6)
    kernels.gated(torch.ones(5, 512, device="cuda", dtype=torch.bfloat16), gelu=True)
    qkv, places = torch.ones(5, 8, 256, device="cuda", dtype=torch.bfloat16), torch.arange(5, device="cuda")
    rotation, cache = qkv[:, :2].contiguous(), torch.ones(5, 20, 2, 256, device="cuda", dtype=torch.bfloat16)
    for grouped in (True, False):
        norm = torch.ones(6, 256, device="cuda")
        kernels.rotated(qkv, norm, 1e-6, rotation, places, places, cache, cache, grouped)
    assert compiled() == before


def compiled():
    """How many forms of each of our kernels this process has compiled."""
    jit = {
        name: kernel
        for module in (attention, kernels, int8)
        for name, kernel in vars(module).items()
        if hasattr(kernel, "device_caches")
    }
    return {name: len(kernel.device_caches[torch.cuda.current_device()][0]) for name, kernel in jit.items()}
