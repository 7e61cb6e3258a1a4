"""Train one LoRA adapter with TRL's SFTTrainer, resumably, and say what it took.

The spec's `[lora]` and `[sft]` tables go to LoraConfig and SFTConfig as they stand. A conversational prompt and
completion is what TRL itself computes the loss on the completion of.
"""

from __future__ import annotations

import json
import math
import shutil
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from prism.data import Example
from prism.errors import ModelError, SpecError
from prism.model import Base, add_adapter, lora_config
from prism.spec import Spec

# ruff: isort: split
# After prism.model, which imports Unsloth where it is used.
from datasets import Dataset, disable_progress_bars
from transformers import GenerationConfig, TrainerCallback, TrainerControl, TrainerState, TrainingArguments
from transformers.trainer_callback import PrinterCallback
from trl import SFTConfig, SFTTrainer


def check(spec: Spec, folder: Path) -> None:
    """Let the libraries check their own tables before anything is measured. Raises SpecError."""
    if not spec.adapter:
        lora_config(spec)
        sft_config(spec, folder, seed=spec.seed)
    known = GenerationConfig()
    for key in spec.generate:
        if not hasattr(known, key):
            raise SpecError(f"{spec.id}.toml [generate] {key}: GenerationConfig has no such option; check its spelling")


def sft_config(spec: Spec, folder: Path, seed: int) -> SFTConfig:
    options = {
        "logging_steps": 1,
        "logging_nan_inf_filter": False,
        "save_steps": 0.1,
        "save_total_limit": 1,
        "max_length": spec.model.max_seq_length,
    }
    try:
        return SFTConfig(
            output_dir=str(folder / "trainer"),
            seed=seed,
            report_to="none",
            disable_tqdm=True,  # the plugin draws the progress bar
            **(options | spec.sft),
        )
    except (TypeError, ValueError) as error:
        raise SpecError(f"{spec.id}.toml [sft]: {error}") from None


def dataset(examples: Sequence[Example]) -> Dataset:
    return Dataset.from_list(
        [
            {
                "prompt": [dict(message) for message in example.messages],
                "completion": [{"role": "assistant", "content": example.reference}],
            }
            for example in examples
        ]
    )


class _Progress(TrainerCallback):
    def __init__(self, advance: Callable[[int], None]) -> None:
        self.advance = advance

    def on_step_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: object) -> None:
        self.advance(1)


def train(
    base: Base, examples: Sequence[Example], seed: int, folder: Path, advance: Callable[[int], None] = lambda _: None
) -> dict[str, Any]:
    """Train an adapter and save it in `folder`; go on from the last whole checkpoint found there.

    Returns notes: loss by step, wall seconds, real tokens, trainable parameters. `base.model` wears the new adapter.
    Raises ModelError where the loss stops being a number.
    """
    disable_progress_bars()  # of datasets; the plugin draws the one bar
    config = sft_config(base.spec, folder, seed)
    model = add_adapter(base, seed)
    trainer = SFTTrainer(
        model=model,
        args=config,
        train_dataset=dataset(examples),
        processing_class=base.tokenizer,
        callbacks=[_Progress(advance)],
    )
    trainer.remove_callback(PrinterCallback)  # the losses go into the notes, not to the screen
    checkpoint = last_checkpoint(folder / "trainer")
    if checkpoint:
        advance(json.loads((checkpoint / "trainer_state.json").read_text())["global_step"])
    began = time.perf_counter()
    trainer.train(resume_from_checkpoint=str(checkpoint) if checkpoint else None)
    seconds = time.perf_counter() - began
    losses = [[entry["step"], entry["loss"]] for entry in trainer.state.log_history if "loss" in entry]
    if any(math.isnan(loss) for _, loss in losses):
        raise ModelError(f"{base.spec.id}: the training loss became NaN; lower [sft].learning_rate")
    trainable, total = model.get_nb_trainable_parameters()
    lengths = [len(row) for row in trainer.train_dataset["input_ids"]]  # type: ignore[index]
    model.save_pretrained(str(folder))
    (folder / "README.md").unlink(missing_ok=True)  # PEFT's empty card template
    base.model = model.eval()
    shutil.rmtree(folder / "trainer")
    return {
        "loss": losses,
        "seconds": seconds,
        "steps": trainer.state.global_step,
        "resumed_at": int(checkpoint.name.rpartition("-")[2]) if checkpoint else 0,
        "tokens": int(sum(lengths) * config.num_train_epochs),
        "longest": max(lengths),
        "trainable": trainable,
        "parameters": total,
    }


def steps(spec: Spec, rows: int) -> int:
    """How many optimizer steps a training will take, for the progress bar."""
    sft: Mapping[str, Any] = spec.sft
    if sft.get("max_steps", -1) > 0:
        return int(sft["max_steps"])
    batch = sft.get("per_device_train_batch_size", 8) * sft.get("gradient_accumulation_steps", 1)
    return int(-(-rows // batch) * sft.get("num_train_epochs", 3))


def last_checkpoint(folder: Path) -> Path | None:
    """The newest checkpoint that was written to its end: the trainer's state is its last file."""
    for checkpoint in sorted(folder.glob("checkpoint-*"), key=lambda p: int(p.name.rpartition("-")[2]), reverse=True):
        try:
            json.loads((checkpoint / "trainer_state.json").read_text())
            return checkpoint
        except (OSError, ValueError):
            shutil.rmtree(checkpoint)
    return None
