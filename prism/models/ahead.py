"""The processor prepares a step while the GPU still computes the one before.

A trainer moves each batch to the GPU, counts its tokens there, and reads the sums of each step. Every one of these
waits until the GPU has done all that it was told, and then the GPU waits for the next batch.
"""

from __future__ import annotations

import multiprocessing
import os
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

import numpy
import torch

from prism.models import packing
from prism.models.own_steps import CannotGoOn

FORKS = multiprocessing.get_all_start_methods()[0] == "fork"  # else a process would import all libraries first


@dataclass(frozen=True)
class Rows:
    """The rows of a batch on the CPU, in NumPy: torch would share even so few numbers among its threads, and take longer."""

    ids: numpy.ndarray  # (tokens) of the whole batch
    following: numpy.ndarray  # (tokens) the next token where it counts, else -100
    first: numpy.ndarray  # (rows) where each row begins
    lengths: numpy.ndarray  # (rows)
    targets: numpy.ndarray  # (rows) how many of its tokens count

    def of(self, rows: Sequence[int]) -> Rows:
        return replace(self, first=self.first[rows], lengths=self.lengths[rows], targets=self.targets[rows])

    def share(self, whole: torch.Tensor | int | None) -> torch.Tensor:
        """Of each token that counts in the loss, if `whole` count in all batches of an optimizer step, or None knows."""
        return 1 / torch.as_tensor(self.targets.sum() or 1 if whole is None else whole)

    def side_by_side(self, tokens: int) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """The positions, ids and next tokens of the rows one after the other, (tokens) each, then padding."""
        used = int(self.lengths.sum())
        position, place = numpy.zeros((2, tokens), numpy.int64)
        position[:used] = numpy.arange(used) - (self.lengths.cumsum() - self.lengths).repeat(self.lengths)
        place[:used] = position[:used] + self.first.repeat(self.lengths)
        labels = self.following[place]
        labels[used:] = -100
        return torch.from_numpy(position), torch.from_numpy(self.ids[place]), torch.from_numpy(labels)


def laid_out(
    input_ids: torch.Tensor,
    labels: torch.Tensor,
    attention_mask: torch.Tensor | None,
    position_ids: torch.Tensor | None,
) -> Rows:
    """The rows of a batch, padded with a mask, (rows, width), or packed with positions, (1, tokens). Raises CannotGoOn."""
    ids, labelled = input_ids.cpu().numpy(), labels.cpu().numpy()
    if attention_mask is not None:
        mask = attention_mask.cpu().numpy()
        first, lengths = mask.argmax(1) + numpy.arange(len(mask)) * mask.shape[1], mask.sum(1)
    elif position_ids is not None and len(ids) == 1:
        first, lengths = packing.samples(position_ids.cpu().numpy()[0])
    else:
        raise CannotGoOn("the trainer does not say where its samples end")
    following = numpy.full_like(labelled, -100)
    following[:, :-1] = labelled[:, 1:]
    counted = numpy.concatenate([[0], (following != -100).ravel().cumsum()])
    return Rows(ids.ravel(), following.ravel(), first, lengths, counted[first + lengths] - counted[first])


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
    if options.device.type == "cuda" and not before[0] and FORKS:
        options.dataloader_num_workers = 1  # the order of the rows is the same
        os.environ.setdefault("TOKENIZERS_PARALLELISM", "true")  # tokenizers warns of a fork unless this is said
    accelerator.device_placement = False  # the model lies on its device already
    trainer._prepare_inputs = _unmoved
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", "This process .* is multi-threaded", DeprecationWarning)
            yield
    finally:
        del trainer._prepare_inputs
        options.dataloader_num_workers, accelerator.device_placement = before


def _unmoved(inputs: dict[str, Any]) -> dict[str, Any]:
    return inputs
