"""The loss of the captured step and what TRL's trainer reads beside it, with gradients as they become known."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from transformers.modeling_outputs import CausalLMOutputWithPast

CHUNK = 256  # completion tokens whose logits are held at once, as in TRL
METRICS = ("loss", "correct", "entropy", "counted")  # sums over the completion tokens of a batch


@dataclass
class Output(CausalLMOutputWithPast):
    """What TRL's trainer reads of its own "chunked_nll" forward."""

    num_correct_tokens: torch.Tensor | None = None
    entropy_sum: torch.Tensor | None = None
    num_valid_tokens: torch.Tensor | None = None

    @classmethod
    def of(cls, loss: Any, sums: torch.Tensor) -> Output:
        """A batch's loss and its METRICS."""
        _, correct, entropy, counted = sums
        return cls(loss=loss, num_correct_tokens=correct, entropy_sum=entropy, num_valid_tokens=counted)


class Loss(torch.autograd.Function):
    """A loss whose gradients are computed already; they are added to the flat parameter's."""

    @staticmethod
    def forward(ctx: Any, flat: torch.Tensor, loss: torch.Tensor, found: torch.Tensor) -> torch.Tensor:
        ctx.flat, ctx.found = flat, found
        return loss.clone()

    @staticmethod
    def backward(ctx: Any, *scale: torch.Tensor) -> tuple[Any, ...]:
        ctx.flat.grad.add_(ctx.found.float().mul_(scale[0]))  # in half precision the scale itself would be rounded
        return None, None, None


class Head(torch.autograd.Function):
    """METRICS of completion tokens from their hidden states; a label of -100 counts nowhere.

    Logits are held a chunk at a time, since their gradient is known as soon as they are. They are rounded as by TRL.
    The gradient is that of the summed loss times `share`. Each pass over the logits costs time: there are few.
    """

    @staticmethod
    def forward(
        ctx: Any, hidden: torch.Tensor, weight: torch.Tensor, labels: torch.Tensor, share: torch.Tensor
    ) -> torch.Tensor:
        sums, gradients = torch.zeros(len(METRICS), device=hidden.device), []
        for part, expected in zip(hidden.split(CHUNK), labels.split(CHUNK), strict=True):
            raw = F.linear(part, weight.to(part.dtype))
            scores, counts = F.log_softmax(raw, -1, dtype=torch.float32), expected != -100
            expected = expected.clamp(min=0)[:, None]
            told, odds = scores.gather(1, expected)[:, 0], scores.exp()
            correct, entropy = scores.argmax(-1) == expected[:, 0], -(odds * scores).sum(-1)
            sums += (torch.stack([-told, correct.float(), entropy, torch.ones_like(told)]) * counts).sum(1)
            slope = odds.scatter_add_(1, expected, -torch.ones_like(told)[:, None]).mul_((counts * share)[:, None])
            gradients.append((slope.to(raw.dtype) @ weight.to(raw.dtype)).to(part.dtype))
        ctx.save_for_backward(torch.cat(gradients))
        return sums

    @staticmethod
    def backward(ctx: Any, *gradient: torch.Tensor) -> tuple[Any, ...]:
        return ctx.saved_tensors[0], None, None, None
