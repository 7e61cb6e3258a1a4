"""Rows one at a time through a decoder, as if each were asked by itself.

With weights in 8 bits such a pass is a thousand small kernels, which take Python ten times as long to launch as the GPU to
run. There one CUDA graph reads every row, with zeros behind its end.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch

from prism.models.decode import Decoder, Span, captured
from prism.models.layout import Layer


class Alone:
    """Reads rows of up to `decoder.length` tokens, each from an empty cache.

    What is behind a row's end is 0 in every layer. Zeros are no outliers, and a row has a scale of its own, so in 8 bits no
    product of a row differs. In half precision products of other shapes are rounded otherwise, so there a row is read as
    long as it is.
    """

    def __init__(self, decoder: Decoder) -> None:
        self.decoder = decoder
        self.padded = all(map(_unbiased_in_8_bits, decoder.layers))
        length, device = decoder.length, decoder.device
        self.tokens = torch.zeros(length, dtype=torch.long, device=device)
        self.taken = torch.zeros(length, 1, dtype=torch.bool, device=device)
        self.hidden = torch.zeros(0)  # (length, hidden) the last pass's
        self.graph: torch.cuda.CUDAGraph | None = None
        self.read = Span(
            rows=torch.zeros_like(self.tokens),
            positions=torch.arange(length, device=device),
            first=0,
            count=1,
            starts=torch.zeros(2, dtype=torch.int32, device=device),
            used=torch.zeros(1, dtype=torch.int32, device=device),
            longest=length,
            taken=self.taken,
        )

    @torch.no_grad()
    def logits(self, tokens: Sequence[int], last: int) -> torch.Tensor:
        """The logits after each of the `last` tokens of a row, (last, vocabulary)."""
        decoder, count = self.decoder, len(tokens)
        row = decoder.to_device(torch.tensor(tokens))
        if not self.padded:
            return decoder.logits(decoder.forward(row, decoder.span([count], 0, 0))[-last:])
        self.tokens[:count] = row
        self.taken[:count], self.taken[count:] = True, False
        self.read.used.fill_(count)
        self.read.starts[1] = count
        if self.graph is None and decoder.device.type == "cuda":
            self.graph = captured(self._pass)
        if self.graph:
            self.graph.replay()
        else:
            self._pass()
        return decoder.logits(self.hidden[count - last : count])

    def _pass(self) -> None:
        self.hidden = self.decoder.forward(self.tokens, self.read)


def _unbiased_in_8_bits(layer: Layer) -> bool:
    """Whether zeros stay zeros in a layer; a bias of queries, keys and values moves none of its output."""
    parts = (layer.out, layer.gate_up, layer.down)
    return all(isinstance(part, tuple) and all(one.bias is None for one in part) for part in parts)
