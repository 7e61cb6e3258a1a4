"""Resume a killed training to the same adapter, or start it again.

transformers restores weights, optimizer, schedule and the random state of the step. A sampler that shuffles by that
state at each start of an epoch (`group_by_length`) needs the state of that start, too, which `SameOrder` keeps beside
each checkpoint. On a CPU, the resumed adapter has the bits of one whose training was not killed. A checkpoint that a
power cut or a bad disk has changed is not resumed from.
"""

from __future__ import annotations

import json
import shutil
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from prism.models.identity import engine
from prism.models.load import Base
from prism.spec import Spec
from prism.store import file_digest, sync

EPOCH = "epoch_start.pth"  # beside transformers' own files: written after them, so a checkpoint with it is complete
RESTORED = ("random", "sequential", "group_by_length")  # values of train_sampling_strategy whose order is restored


class SameOrder(TrainerCallback):
    """Keeps the random state of each epoch's start in its checkpoints, and sets it where an epoch is resumed."""

    def __init__(self, checkpoint: Path | None, kept: Callable[[Path], object] | None = None) -> None:
        self.checkpoint, self.kept, self.start = checkpoint, kept, torch.random.get_rng_state()

    def on_epoch_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: object
    ) -> None:
        if self.checkpoint:
            kept = torch.load(self.checkpoint / EPOCH, weights_only=True)
            same = kept["epoch"] == int(state.epoch or 0)  # else the checkpoint was the last step of its epoch
            torch.random.set_rng_state(kept["start" if same else "now"])
            self.checkpoint = None
        self.start = torch.random.get_rng_state()
        self.epoch = int(state.epoch or 0)

    def on_save(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: object) -> None:
        if not state.is_world_process_zero:
            return
        folder = Path(str(args.output_dir)) / f"checkpoint-{state.global_step}"
        for file in _files(folder):
            sync(file)
        kept = {"epoch": self.epoch, "start": self.start, "now": torch.random.get_rng_state()}
        torch.save(kept | {"files": _checksums(folder)}, folder / EPOCH)
        sync(folder / EPOCH)
        sync(folder)
        if self.kept:
            self.kept(folder.parent.parent)


def checkpoint_of(base: Base, folder: Path) -> Path | None:
    """The checkpoint to resume from; none, with a warning, where a training was begun that would go on to another adapter.

    A trainer makes its `folder` as soon as it is made itself.
    """
    begun, checkpoint = folder.exists(), last_checkpoint(folder)
    if not begun or goes_on(base.spec):
        return checkpoint
    strategy = _strategy(base.spec)
    why = f"train_sampling_strategy = {strategy!r}" if strategy not in RESTORED else "a GPU adds up in another order"
    warnings.warn(
        f"{base.spec.id}: training starts again{f' and not at step {step_of(checkpoint)}' if checkpoint else ''}, "
        f"because it would resume to another adapter ({why})",
        stacklevel=2,
    )
    if checkpoint:  # else it may be another process's of this training
        shutil.rmtree(folder)
    return None


def goes_on(spec: Spec) -> bool:
    """Whether a training that is resumed ends with the adapter of one that was not killed; else none is kept to go on from."""
    return engine(spec)["device"] == "cpu" and _strategy(spec) in RESTORED


def _strategy(spec: Spec) -> Any:
    return spec.sft.get("train_sampling_strategy", "random")


def last_checkpoint(folder: Path) -> Path | None:
    """The newest whole checkpoint: it has what is written last, and its files have their checksums. Deletes others."""
    for checkpoint in sorted(folder.glob("checkpoint-*"), key=step_of, reverse=True):
        try:
            state: Any = json.loads((checkpoint / "trainer_state.json").read_text(encoding="utf-8"))
            kept = torch.load(checkpoint / EPOCH, weights_only=True)
            if state["global_step"] == step_of(checkpoint) and kept["files"] == _checksums(checkpoint):
                return checkpoint
        except Exception:  # noqa: BLE001, S110  # whatever half a file raises: it is deleted
            pass
        shutil.rmtree(checkpoint)
    return None


def _files(checkpoint: Path) -> list[Path]:
    return sorted(file for file in checkpoint.rglob("*") if file.is_file() and file.name != EPOCH)


def _checksums(checkpoint: Path) -> dict[str, str]:
    return {file.relative_to(checkpoint).as_posix(): file_digest(file) for file in _files(checkpoint)}


def step_of(checkpoint: Path) -> int:
    """The step after which a checkpoint was written, by its name; -1 if it names none."""
    number = checkpoint.name.rpartition("-")[2]
    return int(number) if number.isdecimal() else -1


def discard_checkpoints(folder: Path) -> None:
    """Delete what a training in `folder` would resume from; a finished adapter has nothing of the kind."""
    shutil.rmtree(folder / "trainer", ignore_errors=True)
