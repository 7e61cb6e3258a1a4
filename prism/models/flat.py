"""One optimizer kernel for all matrices of an adapter, where bitsandbytes' 8-bit AdamW launches one each.

It quantizes its state in blocks of 256 numbers. Matrices of whole blocks laid end to end have the same blocks, so the
steps are the same to the bit; the hundreds of launches took longer than the rest of a short step.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch

BLOCK, SMALLEST = 256, 4_096  # bitsandbytes keeps the state of smaller tensors in 32 bits
NAMES = ("adamw_8bit", "adamw_bnb_8bit")  # values of [sft] optim


@contextmanager
def flat_optimizer(trainer: Any) -> Iterator[bool]:
    """Give a trainer an optimizer of one flat parameter that the adapter's are views of, if that changes nothing.

    Yields whether it did. Afterwards each parameter has its own memory again.
    """
    parameters = [parameter for parameter in trainer.model.parameters() if parameter.requires_grad]
    whole = all(part.numel() % BLOCK == 0 and part.numel() >= SMALLEST for part in parameters)
    if trainer.args.optim not in NAMES or not whole:
        yield False
        return
    made, options = trainer.get_optimizer_cls_and_kwargs(trainer.args, trainer.model)
    flat = torch.nn.Parameter(torch.cat([parameter.detach().flatten() for parameter in parameters]))
    for parameter, part in zip(parameters, flat.detach().split([part.numel() for part in parameters]), strict=True):
        parameter.data = part.view_as(parameter)

    def gather(*_: object) -> None:
        flat.grad = torch.cat([parameter.grad.flatten() for parameter in parameters])

    # The trainer's own decay group: it leaves biases and norms out, which have no whole blocks.
    trainer.optimizer = made([{"params": [flat], "weight_decay": trainer.args.weight_decay}], **options)
    trainer.optimizer.register_step_pre_hook(gather)
    try:
        yield True
    finally:
        for parameter in parameters:
            parameter.data = parameter.detach().clone()
