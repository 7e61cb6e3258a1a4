"""A recipe of a spec as its user would write it without PRISM: in plain TRL and transformers, and in Unsloth's notebook.

Each loads the base, answers the held-out questions, trains, and answers again. What takes longer than its minutes is
stopped after STEADY steps, or SLICE answers, and extrapolated from the steady part.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from prism.rows import Example
from prism.spec import Spec

STEADY, WARM = 100, 10  # steps that are measured at least, and steps before them, which compile
SLICE, BATCH = 256, 32  # answers that are measured at least; prompts in a batch, by default of neither library


@dataclass
class Found:
    """Seconds by stage, of which `extrapolated` names those that were not run to their end."""

    seconds: dict[str, float] = field(default_factory=dict)
    extrapolated: list[str] = field(default_factory=list)


def whole(times: Sequence[float], steps: int) -> float:
    """Seconds of `steps` steps, of which the first ones ended at `times`, counted from the start of the first."""
    if len(times) >= steps:
        return times[-1]
    gaps = [later - earlier for earlier, later in zip(times[WARM:], times[WARM + 1 :])]
    return times[-1] + statistics.fmean(gaps) * (steps - len(times))


def run(library: str, spec: Spec, source: str, training: list[Example], held_out: list[Example], limit: float) -> Found:
    """Run one recipe by "trl" or "unsloth" on this process's device; a stage may take `limit` seconds."""
    found, start = Found(), time.perf_counter()
    if library == "unsloth":  # before what it patches
        import unsloth  # noqa: F401
    import torch
    import transformers  # noqa: F401
    import trl  # noqa: F401

    found.seconds["imports"], start = time.perf_counter() - start, time.perf_counter()
    model, tokenizer, ready = (_unsloth if library == "unsloth" else _plain)(spec, source)
    found.seconds["load"] = time.perf_counter() - start
    _answer(found, "baseline answers", model, tokenizer, spec, held_out, limit, ready)
    model = _train(found, library, model, tokenizer, spec, training, limit)
    _answer(found, "tuned answers", model, tokenizer, spec, held_out, limit, ready)
    if torch.cuda.is_available():
        found.seconds["peak_gib"] = torch.cuda.max_memory_allocated() / 2**30
    return found


def _plain(spec: Spec, source: str) -> tuple[Any, Any, Callable[[Any], None]]:
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer, BitsAndBytesConfig

    quantization = None
    if spec.model.quantized:
        quantization = BitsAndBytesConfig(
            load_in_4bit=spec.model.load_in_4bit,
            load_in_8bit=spec.model.load_in_8bit,
            bnb_4bit_quant_type="nf4",
            bnb_4bit_use_double_quant=True,
            bnb_4bit_compute_dtype=torch.bfloat16,
        )
    gpu = torch.cuda.is_available()
    model = AutoModelForCausalLM.from_pretrained(
        source,
        dtype=torch.bfloat16 if gpu else torch.float32,
        quantization_config=quantization,
        device_map={"": "cuda" if gpu else "cpu"},
    )
    return model, AutoTokenizer.from_pretrained(source), lambda model: None


def _unsloth(spec: Spec, source: str) -> tuple[Any, Any, Callable[[Any], None]]:
    from unsloth import FastLanguageModel

    model, tokenizer = FastLanguageModel.from_pretrained(
        model_name=source,
        max_seq_length=spec.model.max_seq_length,
        load_in_4bit=spec.model.load_in_4bit,
        load_in_8bit=spec.model.load_in_8bit,
    )
    return model, tokenizer, FastLanguageModel.for_inference


def _train(
    found: Found, library: str, model: Any, tokenizer: Any, spec: Spec, training: list[Example], limit: float
) -> Any:
    """Train as each library's examples do, the recipe's batches, steps and rates given, and nothing else."""
    from datasets import Dataset
    from peft import LoraConfig, get_peft_model
    from transformers import TrainerCallback
    from trl import SFTConfig, SFTTrainer

    start = time.perf_counter()
    options = {"output_dir": "trained", "report_to": "none", "save_strategy": "no", "seed": spec.seed} | spec.sft
    options |= {"max_length": spec.model.max_seq_length}
    if library == "unsloth":
        from unsloth import FastLanguageModel
        from unsloth.chat_templates import train_on_responses_only

        FastLanguageModel.for_training(model)
        model = FastLanguageModel.get_peft_model(
            model, **spec.lora, use_gradient_checkpointing="unsloth", random_state=spec.seed
        )
        del options["packing"]  # the notebooks leave it, and padding-free, to Unsloth
        texts = [tokenizer.apply_chat_template(_conversation(example), tokenize=False) for example in training]
        rows = Dataset.from_dict({"text": texts})
        trainer = SFTTrainer(
            model=model,
            processing_class=tokenizer,
            train_dataset=rows,
            args=SFTConfig(dataset_text_field="text", **options),
        )
        trainer = train_on_responses_only(
            trainer, instruction_part="<|im_start|>user\n", response_part="<|im_start|>assistant\n"
        )
    else:
        model = get_peft_model(model, LoraConfig(task_type="CAUSAL_LM", **spec.lora))
        pairs = [_conversation(example) for example in training]
        rows = Dataset.from_dict({"prompt": [pair[:-1] for pair in pairs], "completion": [pair[-1:] for pair in pairs]})
        trainer = SFTTrainer(model=model, processing_class=tokenizer, train_dataset=rows, args=SFTConfig(**options))
    found.seconds["set-up of training"] = time.perf_counter() - start
    times: list[float] = []

    class Watch(TrainerCallback):
        def on_step_end(self, args: Any, state: Any, control: Any, **_: object) -> None:
            times.append(time.perf_counter() - begun)
            if times[-1] > limit and len(times) >= STEADY + WARM:
                control.should_training_stop = True

    trainer.add_callback(Watch())
    begun = time.perf_counter()
    trainer.train()
    steps = trainer.state.max_steps
    if len(times) < steps:
        found.extrapolated.append("training")
    found.seconds["training"] = whole(times, steps)
    return trainer.model


def _answer(
    found: Found,
    stage: str,
    model: Any,
    tokenizer: Any,
    spec: Spec,
    held_out: list[Example],
    limit: float,
    ready: Callable[[Any], None],
) -> None:
    """Greedy answers in batches of BATCH, as they come."""
    import torch

    ready(model)
    model.eval()
    tokenizer.padding_side = "left"
    if tokenizer.pad_token is None:
        tokenizer.pad_token = tokenizer.eos_token
    start, done, first = time.perf_counter(), 0, 0.0
    with torch.no_grad():
        while done < len(held_out):
            batch = held_out[done : done + BATCH]
            texts = [
                tokenizer.apply_chat_template(_conversation(example)[:-1], tokenize=False, add_generation_prompt=True)
                for example in batch
            ]
            prompt = tokenizer(texts, return_tensors="pt", padding=True, add_special_tokens=False).to(model.device)
            ids = model.generate(**prompt, do_sample=False, max_new_tokens=spec.generate["max_new_tokens"])
            tokenizer.batch_decode(ids[:, prompt["input_ids"].shape[1] :].cpu(), skip_special_tokens=True)
            done += len(batch)
            spent = time.perf_counter() - start
            first = first or spent
            if spent > limit and done >= SLICE:
                break
    if done < len(held_out):
        found.extrapolated.append(stage)
        spent = first + (spent - first) / (done - BATCH) * (len(held_out) - BATCH)
    found.seconds[stage] = spent


def _conversation(example: Example) -> list[dict[str, Any]]:
    return [*example.messages, {"role": "assistant", "content": example.reference}]


def rows_of(spec: Spec, root: Path, data: Path | None) -> tuple[list[Example], list[Example]]:
    """The training and the held-out examples that PRISM itself would use."""
    from prism.rows.examples import load_examples
    from prism.tasks import load_task

    return load_examples(spec, load_task(spec), root, data)[:2]
