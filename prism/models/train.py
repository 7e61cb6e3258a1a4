"""Train one LoRA adapter with TRL's SFTTrainer, resumably, and say what it took.

The spec's `[lora]` and `[sft]` tables go to LoraConfig and SFTConfig as they stand. A conversational prompt and
completion is what TRL itself computes the loss on the completion of.

Two options are read here too, on a GPU. `packing` gets an attention that keeps samples apart. `torch_compile` compiles
layer by layer and loads the base without Unsloth, whose patches cannot be compiled. And where the spec says nothing of
`gradient_checkpointing`, the memory decides.
"""

from __future__ import annotations

import json
import math
import shutil
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from prism.errors import ModelError, SpecError
from prism.models.load import Base, add_adapter, lora_config
from prism.rows import Example
from prism.spec import Spec

# ruff: isort: split
# After prism.models.load, which imports Unsloth where it is used.
from datasets import Dataset, disable_progress_bars
from transformers import GenerationConfig, TrainerCallback, TrainerControl, TrainerState, TrainingArguments
from transformers.trainer_callback import PrinterCallback
from trl import SFTConfig, SFTTrainer

from prism.models import cost, packing

# TRL's own defaults, written down: Unsloth puts others in their place (two rows accumulated, decay .001, warm-up .1).
DEFAULTS: dict[str, Any] = {
    "per_device_train_batch_size": 8,
    "gradient_accumulation_steps": 1,
    "num_train_epochs": 3.0,
    "learning_rate": 2e-5,
    "weight_decay": 0.0,
    "warmup_steps": 0,
    "lr_scheduler_type": "linear",
    "optim": "adamw_torch_fused",
    "max_grad_norm": 1.0,
    "packing": False,
    "padding_free": False,
    "completion_only_loss": True,
    "bf16": None,
}
WHOLE = 2_048  # packed rows are padded to a multiple of this many tokens, so that few shapes are compiled
# Bytes that a layer keeps for its backward pass, a token and unit of (hidden + intermediate) width, rounded up: on an
# H200, 16,384 tokens a step of Qwen2.5-1.5B took 33 GiB compiled and 28 with Unsloth; 32 rows of plain TRL took 43.
KEPT = {"compiled": 8, "unsloth": 8, "transformers": 32}
COUNTED = ("max_steps", "num_train_epochs", "per_device_train_batch_size", "gradient_accumulation_steps")  # by `steps`
MARGIN = 0.8  # share of the free GPU memory that the estimate may reach


def check(spec: Spec, folder: Path) -> None:
    """Let the libraries check their own tables before anything is measured. Raises SpecError."""
    if not spec.adapter:
        lora_config(spec)
        for key in COUNTED:
            value = spec.sft.get(key, 1)
            if isinstance(value, bool) or not isinstance(value, int | float) or not (value > 0 or key == "max_steps"):
                raise SpecError(f"{spec.id}.toml [sft] {key} = {value!r}: must be a number above 0")
        sft_config(spec, folder, seed=spec.seed)
    known = GenerationConfig()
    for key in spec.generate:
        if not hasattr(known, key):
            raise SpecError(f"{spec.id}.toml [generate] {key}: GenerationConfig has no such option; check its spelling")


def sft_config(spec: Spec, folder: Path, seed: int) -> SFTConfig:
    options = DEFAULTS | {
        "logging_steps": 1,
        "logging_nan_inf_filter": False,
        "save_steps": 0.1,
        "save_total_limit": 1,
        "max_length": spec.model.max_seq_length,
    }
    given = dict(spec.sft)
    if given.pop("torch_compile", False) and spec.sft.get("packing"):  # `train` compiles; the trainer must not as well
        options["pad_to_multiple_of"] = WHOLE
    try:
        return SFTConfig(
            output_dir=str(folder / "trainer"),
            seed=seed,
            report_to="none",
            disable_tqdm=True,  # the plugin draws the progress bar
            **(options | given),
        )
    except (TypeError, ValueError) as error:
        raise SpecError(f"{spec.id}.toml [sft]: {error}; check its spelling and value") from None


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

    Returns notes: loss by step, trainable parameters; wall seconds and real tokens of this process, which may have resumed.
    `base.model` wears the new adapter. Raises ModelError where the loss stops being a number, SpecError for options that
    the trainer refuses.
    """
    disable_progress_bars()  # of datasets; the plugin draws the one bar
    config = sft_config(base.spec, folder, seed)
    notes = decide_checkpointing(base, config, examples)
    model = add_adapter(base, seed, config.gradient_checkpointing)
    try:
        trainer = SFTTrainer(
            model=model,
            args=config,
            train_dataset=dataset(examples),
            processing_class=base.tokenizer,
            callbacks=[_Progress(advance)],
        )
    except (OSError, TypeError, ValueError) as error:
        raise SpecError(
            f"{base.spec.id}.toml [sft]: {str(error).splitlines()[0]}; mend or delete that option"
        ) from error
    trainer.remove_callback(PrinterCallback)  # the losses go into the notes, not to the screen
    checkpoint = last_checkpoint(folder / "trainer")
    if checkpoint:
        advance(json.loads((checkpoint / "trainer_state.json").read_text())["global_step"])
    with ExitStack() as during:
        if base.library == "transformers" and base.model.device.type == "cuda":
            if trainer.padding_free:
                during.enter_context(packing.worn(model, _longest(base.spec, config)))
            if base.spec.sft.get("torch_compile"):
                during.enter_context(packing.compiled(model))
        began = time.perf_counter()
        trainer.train(resume_from_checkpoint=str(checkpoint) if checkpoint else None)
        seconds = time.perf_counter() - began
    losses = [[entry["step"], entry["loss"]] for entry in trainer.state.log_history if "loss" in entry]
    if any(math.isnan(loss) for _, loss in losses):
        raise ModelError(f"{base.spec.id}: the training loss became NaN; lower [sft].learning_rate")
    trainable, total = model.get_nb_trainable_parameters()
    lengths = [len(row) for row in trainer.train_dataset["input_ids"]]  # type: ignore[index]
    batch = config.per_device_train_batch_size * config.gradient_accumulation_steps
    seen = min(trainer.state.global_step * batch, math.ceil(trainer.state.epoch or 0) * len(lengths))  # rows
    resumed_at = int(checkpoint.name.rpartition("-")[2]) if checkpoint else 0
    model.save_pretrained(str(folder))
    (folder / "README.md").unlink(missing_ok=True)  # PEFT's empty card template
    base.model = model.eval()
    shutil.rmtree(folder / "trainer")
    return notes | {
        "loss": losses,
        "seconds": seconds,
        "steps": trainer.state.global_step,
        "resumed_at": resumed_at,
        "tokens": int(sum(lengths) / len(lengths) * seen * (1 - resumed_at / trainer.state.global_step)),
        "trained_share": _trained(trainer.train_dataset) / sum(lengths),
        "longest": max(lengths),
        "trainable": trainable,
        "parameters": total,
    }


def decide_checkpointing(base: Base, config: SFTConfig, examples: Sequence[Example]) -> dict[str, Any]:
    """Where the spec does not say and a GPU is there: checkpoint only if the activations would not fit its free memory.

    Sets `config.gradient_checkpointing` and returns the estimate for the notes.
    """
    if "gradient_checkpointing" in base.spec.sft or base.model.device.type != "cuda":
        return {"gradient_checkpointing": config.gradient_checkpointing}
    rows, longest = config.per_device_train_batch_size, _longest(base.spec, config)
    if config.packing:
        tokens = rows * longest
    else:
        texts = [[*map(dict, e.messages), {"role": "assistant", "content": e.reference}] for e in examples]
        lengths = [len(ids) for ids in base.tokenizer.apply_chat_template(texts, return_dict=True)["input_ids"]]
        tokens = rows * min(max(lengths), longest)
    shape = base.model.config
    kind = "compiled" if base.spec.sft.get("torch_compile") else base.library
    width = shape.hidden_size + shape.intermediate_size
    needed = tokens * shape.num_hidden_layers * width * KEPT[kind] / 2**30
    free = cost.free_memory() / 2**30
    config.gradient_checkpointing = needed > MARGIN * free
    return {
        "gradient_checkpointing": config.gradient_checkpointing,
        "activations_gib": round(needed, 2),
        "free_gib": round(free, 2),
    }


def _longest(spec: Spec, config: SFTConfig) -> int:
    return config.max_length or spec.model.max_seq_length


def _trained(rows: Any) -> int:
    """How many tokens the loss is taken on."""
    if "labels" in rows.column_names:
        return sum(label != -100 for labels in rows["labels"] for label in labels)
    if "completion_mask" in rows.column_names:  # Unsloth leaves the labels to the collator
        return sum(map(sum, rows["completion_mask"]))
    return sum(map(len, rows["input_ids"]))


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
