"""The fused kernels give what PyTorch's own operations give, rounded alike: on a GPU, or in Triton's interpreter on a CPU."""

import pytest
import torch

pytest.importorskip("triton", reason="triton is not installed; pip install triton==3.7.1")

from prism.models import int8, kernels

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
HALF = torch.bfloat16 if DEVICE == "cuda" else torch.float16  # the interpreter cuts bfloat16 off


def both(monkeypatch, function, *given):
    """What a function returns and leaves in its arguments, by PyTorch and fused."""
    found = []
    for fused in (False, True):
        monkeypatch.setattr(kernels, "fused", lambda _, fused=fused: fused)
        copies = [part.clone() if isinstance(part, torch.Tensor) else part for part in given]
        result = function(*copies)
        found.append([*(result if isinstance(result, tuple) else [result]), *copies])
    return [(one, other) for one, other in zip(*found) if isinstance(one, torch.Tensor)]


def eighths(*shape):
    """Numbers whose squares add up exactly in any order."""
    return (torch.randint(-24, 25, shape) / 8).to(DEVICE, HALF)


@pytest.mark.parametrize("width", [128, 200, 1536])
@pytest.mark.parametrize("adds", [True, False])
@pytest.mark.parametrize("alone", [True, False])
@pytest.mark.parametrize("of_weight", [HALF, torch.float32])
def test_sum_and_norm(width, adds, alone, of_weight, monkeypatch):
    torch.manual_seed(0)
    weight = torch.randn(width).to(DEVICE, of_weight)
    given = eighths(5, width), eighths(5, width) if adds else None, weight, 1e-6, alone
    for one, other in both(monkeypatch, kernels.add_norm, *given):
        assert torch.equal(one, other)


@pytest.mark.skipif(DEVICE == "cpu", reason="a CPU adds up in an order of its own")
@pytest.mark.parametrize("alone", [True, False], ids=["one row at a time", "many rows"])
@pytest.mark.parametrize("kind", [torch.float32, HALF])
@pytest.mark.parametrize("width", [64, 256, 1000, 1536, 4096, 8192])
def test_squares_are_added_up_in_pytorchs_order(width, kind, alone, monkeypatch):
    """In float32 another order shows in every third row."""
    torch.manual_seed(0)
    x, weight = torch.randn(400, width, device=DEVICE).to(kind), torch.randn(width, device=DEVICE).to(kind)
    monkeypatch.setattr(kernels, "fused", lambda _: True)
    found = kernels.add_norm(x, None, weight, 1e-6, alone)[1]
    rows = x.split(1) if alone and width in kernels.WARP_WIDTHS else [x]
    assert torch.equal(found, torch.cat([kernels._normed(row, weight, 1e-6) for row in rows]))


@pytest.mark.skipif(DEVICE == "cpu", reason="a CPU adds up in an order of its own")
@pytest.mark.parametrize("head_dim", [64, 128, 256])
def test_squares_of_a_head_are_added_up_in_pytorchs_order(head_dim, monkeypatch):
    torch.manual_seed(0)
    qkv, norm = torch.randn(200, 8, head_dim, device=DEVICE), torch.randn(6, head_dim, device=DEVICE)
    rotation, place = torch.randn(200, 2, head_dim, device=DEVICE), torch.arange(200, device=DEVICE)
    cache = torch.zeros(2, 200, 2, head_dim, device=DEVICE)
    given = qkv, norm, 1e-6, rotation, torch.zeros_like(place), place, cache, cache.clone()
    for one, other in both(monkeypatch, kernels.rotated, *given):
        assert torch.equal(one, other)


@pytest.mark.parametrize("width", [32, 48, 1536])
@pytest.mark.parametrize(
    "gelu",
    [
        pytest.param(True, marks=pytest.mark.skipif(DEVICE == "cpu", reason="Triton's interpreter has no tanh")),
        False,
    ],
    ids=["gelu", "silu"],
)
def test_gate(width, gelu, monkeypatch):
    """An exponential differs in its last place between libraries, which moves one result in thousands by a rounding."""
    torch.manual_seed(0)
    (one, other), _ = both(monkeypatch, kernels.gated, 2 * torch.randn(5, 2 * width).to(DEVICE, HALF), gelu)
    assert (one != other).float().mean() < 0.002
    assert torch.allclose(one, other, rtol=2**-7, atol=2**-14)


@pytest.mark.parametrize(("heads", "kv_heads", "head_dim"), [(4, 2, 16), (12, 2, 128), (6, 3, 48), (4, 1, 256)])
@pytest.mark.parametrize("norms", [HALF, torch.float32, None], ids=["a half norm", "a float32 norm", "no norm"])
@pytest.mark.parametrize("grouped", [True, False])
def test_rotation_and_cache(heads, kv_heads, head_dim, norms, grouped, monkeypatch):
    torch.manual_seed(0)
    given = (
        eighths(6, heads + 2 * kv_heads, head_dim),
        torch.randn(heads + kv_heads, head_dim).to(DEVICE, norms) if norms else None,
        1e-6,
        torch.randn(20, 2, head_dim).to(DEVICE, HALF),
        torch.tensor([0, 0, 0, 1, 2, 2], device=DEVICE),
        torch.tensor([3, 4, 5, 0, 7, 19], device=DEVICE),
        torch.zeros(3, 20, kv_heads, head_dim, device=DEVICE, dtype=HALF),
        torch.zeros(3, 20, kv_heads, head_dim, device=DEVICE, dtype=HALF),
        grouped,
    )
    compared = both(monkeypatch, kernels.rotated, *given)
    assert compared[-1][1].abs().sum() > 0
    for one, other in compared:
        assert torch.equal(one, other)


@pytest.mark.parametrize("threshold", [6.0, 0.0], ids=["outliers apart", "none"])
@pytest.mark.parametrize(("rows", "width", "outliers"), [(40, 64, 0), (5, 96, 3), (300, 1104, 140)])
def test_products_in_eight_bits(rows, width, outliers, threshold, monkeypatch):
    """Two weights of other heights, a row of zeros, and more outliers than are multiplied at once."""
    torch.manual_seed(0)
    x = torch.randn(rows, width).clamp(-4, 4)
    x[3] = 0
    x[torch.randint(3, (outliers,)), torch.randperm(width)[:outliers]] = 9.5
    x = x.to(DEVICE, HALF)
    weights = [
        (torch.randint(-127, 128, (out, width), dtype=torch.int8).to(DEVICE), torch.rand(out).to(DEVICE) + 0.5)
        for out in (96, 40)
    ]
    whole, scales, apart = int8._quantized(x, threshold)
    found = int8._rows(x, threshold)
    assert torch.equal(found.whole, whole)
    assert torch.equal(found.scales, scales)
    assert found.columns[: int(found.count)].tolist() == apart.nonzero()[:, 0].tolist()
    assert int(found.count) == (outliers if threshold else 0)
    (one, other), *_ = both(monkeypatch, int8.products, x, weights, threshold)
    assert (one.float() - other.float()).abs().max() <= 2**-9 * one.float().abs().max()  # sums of outliers, rounded
    if not (outliers and threshold):
        assert torch.equal(one, other)
    for weight in weights:
        for one, other in both(monkeypatch, int8.dequantized, *weight, HALF):
            assert torch.equal(one, other)
