"""The processor prepares a step while the GPU still computes the one before.

A trainer moves each batch to the GPU, counts its tokens there, and reads the sums of each step. Every one of these
waits until the GPU has done all that it was told, and then the GPU waits for the next batch.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch


class Behind:
    """The sums of a step, read one step later, when the GPU has long computed them."""

    def __init__(self, count: int, device: torch.device) -> None:
        self.held = torch.zeros(count, pin_memory=device.type == "cuda")
        self.copied = torch.cuda.Event() if device.type == "cuda" else None

    def read(self) -> torch.Tensor:
        """Those that were held last, on the CPU; zeros before the first."""
        if self.copied:
            self.copied.synchronize()
        return self.held.clone()

    def hold(self, sums: torch.Tensor) -> None:
        self.held.copy_(sums, non_blocking=True)
        if self.copied:
            self.copied.record()


@contextmanager
def batches_stay(trainer: Any) -> Iterator[None]:
    """Leave a trainer's batches on the CPU, and collate them in a process of their own unless the recipe says how.

    Several processes need them on their GPUs, where NCCL gathers their counts of tokens.
    """
    options, accelerator = trainer.args, trainer.accelerator
    if options.world_size > 1:
        yield
        return
    before = options.dataloader_num_workers, accelerator.device_placement
    if options.device.type == "cuda" and not before[0]:
        options.dataloader_num_workers = 1  # the order of the rows is the same
    accelerator.device_placement = False  # the model lies on its device already
    trainer._prepare_inputs = _unmoved
    try:
        yield
    finally:
        del trainer._prepare_inputs
        options.dataloader_num_workers, accelerator.device_placement = before


def _unmoved(inputs: dict[str, Any]) -> dict[str, Any]:
    return inputs
