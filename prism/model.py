"""Load a base model and its tokenizer, and put an adapter on it.

Unsloth takes a spec's `[model]` table as it stands. Where it is absent `load` translates the five keys for transformers
and bitsandbytes; this is the only place that knows both vocabularies.
"""

from __future__ import annotations

import importlib.util
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from prism.errors import ModelError, SpecError
from prism.identity import base_identity, cuda_devices, engine, is_folder_name, local_folder, require_safetensors
from prism.spec import Spec

if cuda_devices() and importlib.util.find_spec("unsloth"):
    import unsloth  # noqa: F401  # patches the libraries below, so it has to come first

import torch
from peft import LoraConfig, PeftModel, get_peft_model
from safetensors import SafetensorError
from transformers import AutoModelForCausalLM, AutoTokenizer, BitsAndBytesConfig
from transformers.utils.logging import disable_progress_bar


@dataclass
class Base:
    """A loaded model. `model` gains and loses adapters; `tokenizer` pads on the left, as generation needs."""

    spec: Spec
    model: Any
    tokenizer: Any
    library: str


def load(spec: Spec, root: Path) -> Base:
    """Load the base model of a spec, in evaluation mode.

    Raises ModelError for folders that are missing, damaged, pickled or ask for remote code.
    """
    identity = base_identity(spec.model.model_name, root)
    name = spec.model.model_name
    source = str(local_folder(name, root)) if is_folder_name(name) else name
    kind = engine(spec)
    disable_progress_bar()
    dtype = getattr(torch, kind["dtype"])
    try:
        if kind["library"] == "unsloth":
            from unsloth import FastLanguageModel

            table = spec.model.model_dump() | {"model_name": source, "dtype": dtype}
            model, tokenizer = FastLanguageModel.from_pretrained(**table, revision=identity.get("revision"))
        else:
            quantization = None
            if spec.model.load_in_4bit or spec.model.load_in_8bit:
                quantization = BitsAndBytesConfig(
                    load_in_4bit=spec.model.load_in_4bit,
                    load_in_8bit=spec.model.load_in_8bit,
                    bnb_4bit_quant_type="nf4",  # Unsloth's choices, written down
                    bnb_4bit_use_double_quant=True,
                    bnb_4bit_compute_dtype=dtype,
                )
            model = AutoModelForCausalLM.from_pretrained(
                source,
                revision=identity.get("revision"),
                dtype=dtype,
                quantization_config=quantization,
                device_map={"": kind["device"]},
                use_safetensors=True,
                trust_remote_code=False,
            )
            tokenizer = AutoTokenizer.from_pretrained(
                source, revision=identity.get("revision"), trust_remote_code=False
            )
    except (OSError, ValueError, SafetensorError) as error:
        raise ModelError(f"{name}: cannot be loaded: {str(error).splitlines()[0]}") from error
    if tokenizer.chat_template is None:
        raise ModelError(f"{name}: its tokenizer has no chat template; use an instruction-tuned model, or add one")
    if tokenizer.pad_token_id in (None, tokenizer.eos_token_id):
        raise ModelError(f"{name}: its padding token is its end token, so it would never learn to stop; set another")
    tokenizer.padding_side = "left"
    return Base(spec, model.eval(), tokenizer, kind["library"])


def add_adapter(base: Base, seed: int) -> Any:
    """A fresh LoRA adapter on the base, as `[lora]` describes it."""
    from transformers import set_seed

    set_seed(seed)
    if base.library == "unsloth":
        from unsloth import FastLanguageModel

        return FastLanguageModel.get_peft_model(
            base.model,
            **base.spec.lora,
            use_gradient_checkpointing=base.spec.sft.get("gradient_checkpointing", False),
            random_state=seed,
        )
    return get_peft_model(base.model, lora_config(base.spec))


def lora_config(spec: Spec) -> LoraConfig:
    try:
        return LoraConfig(task_type="CAUSAL_LM", **spec.lora)
    except (TypeError, ValueError) as error:
        raise SpecError(f"{spec.id}.toml [lora]: {error}") from None


def load_adapter(base: Base, folder: Path) -> Any:
    """Put a stored adapter on the base. Raises ModelError where it is pickled, missing or fits another base."""
    if not (folder / "adapter_config.json").is_file():
        raise ModelError(f"{folder}: holds no adapter_config.json, so it is no adapter; check the spec's adapter key")
    require_safetensors(folder, "adapter")
    try:
        return PeftModel.from_pretrained(base.model, str(folder)).eval()
    except (RuntimeError, ValueError, KeyError, SafetensorError) as error:
        reason = str(error).splitlines()[0]
        raise ModelError(f"{folder.name}: does not fit the base {base.spec.model.model_name}: {reason}") from error
