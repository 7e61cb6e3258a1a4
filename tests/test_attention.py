"""A step's attention: right in Triton's interpreter on a CPU, and on a GPU flash attention's to the bit."""

import pytest
import torch
import torch.nn.functional as F

pytest.importorskip("triton", reason="triton is not installed; pip install triton==3.7.1")

from prism.models import attention

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
SHAPES = [(12, 2, 128), (32, 8, 128), (9, 3, 64), (4, 4, 64)]
on_a_gpu = pytest.mark.skipif(DEVICE == "cpu", reason="needs flash attention")


def asked(heads, kv_heads, head_dim, dtype, used, length=300):
    torch.manual_seed(0)
    query = torch.randn(len(used), heads, head_dim, device=DEVICE).mul(2).to(dtype)
    keys, values = torch.randn(2, len(used), length, kv_heads, head_dim, device=DEVICE).to(dtype)
    return query, keys, values, torch.tensor(used, dtype=torch.int32, device=DEVICE)


@pytest.mark.parametrize("shape", SHAPES)
def test_each_row_reads_what_it_has(shape):
    query, keys, values, used = asked(*shape, torch.float16, [1, 63, 64, 65, 128, 129, 300])
    found = attention.attended(query, keys, values, used)
    for row, count in enumerate(used.tolist()):
        key, value = (
            part[row, :count].float().transpose(0, 1).repeat_interleave(shape[0] // shape[1], 0)
            for part in (keys, values)
        )
        expected = F.scaled_dot_product_attention(query[row, :, None].float(), key, value)[:, 0]
        assert torch.allclose(found[row].float(), expected, atol=1e-3)


@on_a_gpu
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize("shape", SHAPES)
def test_it_is_flash_attentions_to_the_bit(shape, dtype):
    given = asked(*shape, dtype, [*range(1, 300)])
    assert torch.equal(attention.attended(*given), attention.grouped_flash(*given))
    assert attention.usable(*shape, dtype)


def test_shapes_that_flash_attention_takes_in_other_blocks(monkeypatch):
    monkeypatch.setattr(attention.kernels, "built", lambda: True)
    assert not attention.usable(4, 2, 96, torch.float16)
    assert not attention.usable(32, 1, 64, torch.float16)
