"""Has Triton compile what a base will be asked with while its weights are read, several kernels at once.

Where no compiled kernel is kept, Triton compiles each when it is first called, one after the other, for 24 s of the first phases.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from functools import partial
from typing import Any

import torch

from prism.models import attention, families, int8, kernels

AT_ONCE = 8  # threads; most of the work is done by processes of Triton's and without Python's lock
ROWS = (32, 2_048)  # of a step of answers, and of a batch that is read: larger ones have larger tiles


@contextmanager
def warming(config: Any, dtype: torch.dtype, in_8_bits: bool) -> Iterator[None]:
    """Compile meanwhile; wait for it at the end, so that nothing else runs on the GPU in a measured stage.

    `config` is of a text model that `decode` supports. What cannot be compiled is said where it is used.
    """
    with ThreadPoolExecutor(AT_ONCE) as pool:
        for call in calls(config, dtype, in_8_bits):
            pool.submit(call)
        yield


def calls(config: Any, dtype: torch.dtype, in_8_bits: bool, device: str = "cuda") -> list[Callable[[], object]]:
    """A call of each kernel with each combination of what Triton compiles apart, on a few rows of zeros."""
    hidden, wide = config.hidden_size, config.intermediate_size
    heads, kv_heads = config.num_attention_heads, config.num_key_value_heads
    dim, gemma = families.head_dim(config), config.model_type == "gemma3_text"
    new = partial(torch.zeros, device=device)
    of_norms = torch.float32 if gemma else dtype
    x, weight = new(2, hidden, dtype=dtype), new(hidden, dtype=of_norms)
    found: list[Callable[[], object]] = [
        partial(kernels.add_norm, x, more, weight, 1e-6, alone) for more in (x, None) for alone in (True, False)
    ]
    found.append(partial(kernels.gated, new(2, 2 * wide, dtype=dtype), families.activation(config) != "silu"))
    norm = new(heads + kv_heads, dim, dtype=of_norms) if gemma or config.model_type == "qwen3" else None
    qkv, rotation = new(2, heads + 2 * kv_heads, dim, dtype=dtype), new(16, 2, dim, dtype=dtype)
    places, keys, values = new(2, dtype=torch.long), *new(2, 2, 16, kv_heads, dim, dtype=dtype)
    for grouped in (True, False):
        found.append(partial(kernels.rotated, qkv, norm, 1e-6, rotation, places, places, keys, values, grouped))
    if dim in attention.BLOCKS and dtype != torch.float32:
        for rows in (attention.MANY, 1):
            query, cache, used = (
                new(rows, heads, dim, dtype=dtype),
                new(rows, 16, kv_heads, dim, dtype=dtype),
                new(rows).int() + 1,
            )
            found.append(partial(attention.attended, query, cache, cache, used))
    if in_8_bits:
        for width in {hidden, wide, heads * dim}:
            whole, scales = new(64, width, dtype=torch.int8), new(64)
            found += [partial(int8.products, new(count, width, dtype=dtype), [(whole, scales)], 6.0) for count in ROWS]
        found.append(partial(int8.dequantized, whole, scales, dtype))
    return found
