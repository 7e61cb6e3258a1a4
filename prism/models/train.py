"""Trains one LoRA adapter with TRL's SFTTrainer, with resumption, and returns its cost.

LoraConfig and SFTConfig get the spec's `[lora]` and `[sft]` tables unchanged. Rows have a conversational prompt and
completion, for which TRL computes the loss on the completion only.

PRISM handles four options itself. `packing` uses an attention that separates samples. `bf16` is on on a GPU and off on a
CPU, if the spec does not set it. On a GPU `torch_compile` compiles layer by layer and loads the base without Unsloth,
whose patches cannot be compiled, and if the spec does not set `gradient_checkpointing`, the free memory decides.
"""

from __future__ import annotations

import json
import math
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import Any

from prism.errors import ModelError, SpecError
from prism.models.load import Base, add_adapter, lora_config
from prism.progress import CONSOLE, Advance
from prism.rows import Example
from prism.spec import Spec
from prism.store import disk_fault
from prism.store.hub import recorded
from prism.store.sources import is_local

# ruff: isort: split
# After prism.models.load, which imports Unsloth if PRISM uses it.
from accelerate.utils import extract_model_from_parallel
from datasets import disable_progress_bars
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments
from transformers.trainer_callback import PrinterCallback
from trl import SFTConfig, SFTTrainer

from prism.models import captured, checkpointing, dense, lean, packing, resuming, sharding, tokens
from prism.models.anatomy import require_moved
from prism.models.identity import engine, plain_only
from prism.models.own_steps import CannotGoOn

Log = Callable[[int, Mapping[str, float]], None]  # a step and its numbers
Kept = Callable[[Path], object]  # the folder of an adapter that has a new checkpoint

# TRL's defaults, set explicitly because Unsloth replaces them (two accumulation steps, weight decay .001, warm-up .1).
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
}
PAD_MULTIPLE = 2_048  # pad packed rows to a multiple of this many tokens, so that torch compiles few shapes
# `steps` computes with these, so `check` requires numbers.
NUMERIC_OPTIONS = ("max_steps", "num_train_epochs", "per_device_train_batch_size", "gradient_accumulation_steps")
NO_RESUMING = ("save_only_model", "ignore_data_skip")  # options of what a checkpoint holds and where it goes on
SETS = ("target_modules", "exclude_modules", "modules_to_save")  # of adapter_config.json
LOGGED = ("loss", "learning_rate", "grad_norm")  # of each step, for a tracker; `log` changes nothing that is trained


def check(spec: Spec, folder: Path) -> None:
    """Let the libraries check their tables before anything is measured. Raises SpecError."""
    lora_config(spec)
    for key in NUMERIC_OPTIONS:
        value = spec.sft.get(key, 1)
        if isinstance(value, bool) or not isinstance(value, int | float) or not (value > 0 or key == "max_steps"):
            raise SpecError(f"{spec.id}.toml [sft] {key} = {value!r}: must be a number above 0")
    for key in NO_RESUMING:
        if spec.sft.get(key):
            raise SpecError(
                f"{spec.id}.toml [sft] {key} = {spec.sft[key]!r}: a killed training would resume to another adapter; "
                f"delete it"
            )
    sharding.check(spec)
    sft_config(spec, folder, seed=spec.seed)


def sft_config(spec: Spec, folder: Path, seed: int) -> SFTConfig:
    options = DEFAULTS | {
        "logging_steps": 1,
        "logging_nan_inf_filter": False,
        "save_strategy": "steps" if resuming.goes_on(spec) else "no",
        "save_steps": 0.1,
        "save_total_limit": 1,
        "max_length": None if spec.image else spec.model.max_seq_length,  # a cut would take image tokens away
    }
    overrides = {"bf16": engine(spec)["device"] == "cuda"} | spec.sft  # a CPU computes in float32
    overrides.pop("chat_template_path", None)  # `load` has set it, so that the base is asked with it, too
    if overrides.pop("torch_compile", False) and spec.sft.get("packing"):  # `train` compiles, so the trainer must not
        options["pad_to_multiple_of"] = PAD_MULTIPLE
    try:
        config = SFTConfig(
            output_dir=str(folder / "trainer"),
            seed=seed,
            report_to="none",
            disable_tqdm=True,  # the plugin draws the progress bar
            **(options | overrides),
        )
    except (TypeError, ValueError) as error:
        raise SpecError(f"{spec.id}.toml [sft]: {error}; check its spelling and value") from None
    if config.n_gpu > 1:  # where a spec divides its base: of others, the trainer would copy the model to all
        config._n_gpu = 1
    return config


class _Progress(TrainerCallback):
    def __init__(self, advance: Advance, log: Log) -> None:
        self.advance, self.log = advance, log

    def on_step_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: object) -> None:
        self.advance(1)

    def on_log(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        logs: Mapping[str, Any] | None = None,
        **_: object,
    ) -> None:
        if logs and "loss" in logs:
            self.advance(0, f"loss {float(logs['loss']):.3f}")
        values = {key: value for key, value in (logs or {}).items() if key in LOGGED}
        if values:
            self.log(state.global_step, values)


def train(
    base: Base,
    examples: Sequence[Example],
    seed: int,
    folder: Path,
    advance: Advance = lambda _, __="": None,
    log: Log = lambda step, values: None,
    kept: Kept = lambda folder: None,
) -> dict[str, Any]:
    """Train an adapter and save it in `folder`; resume from the last complete checkpoint in it.

    `kept` is called with `folder` for each whole checkpoint that training would go on from. They stay in
    `folder`/trainer until the caller has checked the adapter, so that a kill loses no training.

    Returns notes: loss by step, trainable parameters, and wall seconds, images and tokens without padding of this
    process, which may have resumed. Afterwards `base.model` has the new adapter. Raises ModelError if the loss becomes
    NaN, SpecError if the trainer rejects an option.
    """
    disable_progress_bars()  # of datasets; the plugin draws the progress bar
    config, run = sft_config(base.spec, folder, seed), partial(_train, base, examples, seed, folder, advance, log, kept)
    plan = captured.decide(base, config, examples, steps(base.spec, len(examples)))
    why = plan.why
    if not plan.most and base.model.device.type == "cpu" and not base.spec.sharded:
        why = lean.unsupported(base, config)
    path = "captured" if plan.most else "plain" if why else "lean"
    if path != "plain":
        try:
            return run(config, path, plan) | {"engine": path}
        except CannotGoOn as reason:
            if config.world_size > 1:  # all of them start again: `prism.models.launch`
                raise
            why = str(reason)
        resuming.discard_checkpoints(folder)
        CONSOLE.say(f"{base.spec.id}: training starts again without the {path} step: {why}")
        config = sft_config(base.spec, folder, seed)
    return run(config, "plain", captured.Plan()) | {"engine": "plain", "why": why}


def _train(
    base: Base,
    examples: Sequence[Example],
    seed: int,
    folder: Path,
    advance: Advance,
    log: Log,
    kept: Kept,
    config: SFTConfig,
    path: str,
    plan: captured.Plan,
) -> dict[str, Any]:
    """As `train`, on one path."""
    most = plan.most
    if path != "plain":
        config.gradient_checkpointing = False
        config.loss_type = "chunked_nll"  # TRL's default, of which Unsloth makes "nll": the same loss
    notes: dict[str, Any] = base.chat.notes | (
        {"most_tokens": most, "compiled": plan.compiled} if most else checkpointing.decide(base, config, examples)
    )
    checkpoint = resuming.checkpoint_of(base, folder / "trainer")
    model = add_adapter(base, seed, config.gradient_checkpointing)
    trainable, total = model.get_nb_trainable_parameters()
    try:
        trainer = SFTTrainer(
            model=model,
            args=config,
            train_dataset=tokens.dataset(base, examples),
            processing_class=base.processor or base.tokenizer,
            callbacks=[_Progress(advance, log)],
        )
    except (OSError, TypeError, ValueError) as error:
        if disk_fault(error):
            raise
        raise SpecError(
            f"{base.spec.id}.toml [sft]: {str(error).splitlines()[0]}; correct or delete that option"
        ) from error
    if base.spec.sharded:
        sharding.keep_precision(trainer)
    trainer.remove_callback(PrinterCallback)  # the notes contain the losses; do not print them
    for writer, card in ((trainer, "create_model_card"), (model, "create_or_update_model_card")):
        setattr(writer, card, lambda *_, **__: None)  # of each checkpoint
    trainer.add_callback(resuming.SameOrder(checkpoint, kept if resuming.goes_on(base.spec) else None))
    resumed_at = resuming.step_of(checkpoint) if checkpoint else 0
    if resumed_at:
        advance(resumed_at)
    try:
        with ExitStack() as contexts:
            if path == "lean":
                contexts.enter_context(lean.lean(trainer))
            elif base.library == "transformers":
                if trainer.padding_free or most:
                    contexts.enter_context(packing.packed_attention(model, checkpointing.max_length(base.spec, config)))
                if most and base.spec.model.quantized:
                    contexts.enter_context(dense.dense(model))
                elif not plain_only():
                    contexts.enter_context(dense.dense_in_8_bits(base, model))
                if base.model.device.type == "cuda" and (plan.compiled or base.spec.sft.get("torch_compile")):
                    contexts.enter_context(packing.compiled(model))
                if most:
                    contexts.enter_context(
                        captured.captured(trainer, checkpointing.max_length(base.spec, config), most)
                    )
            start = time.perf_counter()
            trainer.train(resume_from_checkpoint=str(checkpoint) if checkpoint else None)
            seconds = time.perf_counter() - start
    except CannotGoOn:
        model.unload()  # so that the plain path can add the adapter anew
        advance(-trainer.state.global_step)
        raise
    except RuntimeError as error:
        if sentence := _compiling_failed(base, error):
            raise ModelError(sentence) from error
        raise
    losses = [[entry["step"], entry["loss"]] for entry in trainer.state.log_history if "loss" in entry]
    if any(math.isnan(loss) for _, loss in losses):
        raise ModelError(f"{base.spec.id}: the training loss became NaN; lower [sft].learning_rate")
    lengths, trained_tokens = tokens.lengths(base, trainer.train_dataset, examples)
    if base.processor:
        notes["moved"] = require_moved(model, base.spec.id)
    batch = config.per_device_train_batch_size * config.gradient_accumulation_steps * config.world_size
    rows_seen = min(trainer.state.global_step * batch, math.ceil(trainer.state.epoch or 0) * len(lengths))
    rows_here = rows_seen * (1 - resumed_at / trainer.state.global_step)
    if base.processor:
        notes["images"] = int(sum(len(example.images) for example in examples) / len(examples) * rows_here)
    whole = sharding.gathered(model) if base.spec.sharded else None
    if trainer.is_world_process_zero():
        model.save_pretrained(str(folder), state_dict=whole)
        settle_config(base.spec, folder / "adapter_config.json")
    # Without the trainer's automatic mixed precision, in which a stored adapter would not answer either.
    base.model = extract_model_from_parallel(model, keep_fp32_wrapper=False).eval()
    if config.gradient_checkpointing and base.library == "transformers":
        base.model.gradient_checkpointing_disable()  # or the base would recompute for the next adapter, too
    return notes | {
        "loss": losses,
        "seconds": seconds,
        "steps": trainer.state.global_step,
        "resumed_at": resumed_at,
        "tokens": int(sum(lengths) / len(lengths) * rows_here),
        "trained_share": trained_tokens / sum(lengths),
        "longest": max(lengths),
        "trainable": trainable,
        "parameters": total,
    }


def _compiling_failed(base: Base, error: RuntimeError) -> str:
    """What to do where torch.compile failed, the recipe's or Unsloth's own; "" for any other error."""
    from torch._dynamo.exc import TorchDynamoException

    if not isinstance(error, TorchDynamoException):
        return ""
    whose = "Unsloth compiles" if base.library == "unsloth" else "[sft] torch_compile compiles"
    return (
        f"{base.spec.id}: {whose} the layers of {type(base.model).__name__}, and torch {version('torch')} fails at it "
        f"({type(error).__name__}); set TORCHDYNAMO_DISABLE=1 to train without compiling"
    )


def settle_config(spec: Spec, file: Path) -> None:
    """Make an adapter's configuration the same in each training, and name the base as others find it: as the spec does.

    PEFT writes sets in any order, and where the base's files lie here, which would make the path a part of every digest.
    """
    config = json.loads(file.read_text(encoding="utf-8"))
    config |= {key: sorted(config[key]) for key in SETS if isinstance(config.get(key), list)}
    if found := recorded("model", spec.model.model_name, spec.model.revision):
        config |= {"base_model_name_or_path": spec.model.model_name, "revision": found["revision"]}
    elif is_local(spec.model.model_name, Path()):
        config |= {"base_model_name_or_path": spec.model.model_name}
    file.write_text(json.dumps(config, indent=2, sort_keys=True), encoding="utf-8")


def steps(spec: Spec, rows: int) -> int:
    """The number of optimizer steps of a training, for the progress bar."""
    sft: Mapping[str, Any] = spec.sft
    if sft.get("max_steps", -1) > 0:
        return int(sft["max_steps"])
    batch = sft.get("per_device_train_batch_size", 8) * sft.get("gradient_accumulation_steps", 1)
    return int(-(-rows // batch) * sft.get("num_train_epochs", 3))
