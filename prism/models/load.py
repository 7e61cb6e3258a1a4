"""Load a base model and its tokenizer, and put an adapter on it.

Unsloth takes a spec's `[model]` table as it stands. Where it is absent `load` translates the five keys for transformers
and bitsandbytes; this is the only place that knows both vocabularies.
"""

from __future__ import annotations

import importlib.util
import json
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from prism.devices import cuda_devices
from prism.errors import ModelError, ResourceError, SpecError
from prism.models.identity import engine
from prism.spec import Spec
from prism.store.sources import base_identity, is_local, local_folder, require_safetensors

if cuda_devices() and importlib.util.find_spec("unsloth"):
    import unsloth  # noqa: F401  # patches the libraries below, so it has to come first

import torch
from peft import LoraConfig, PeftModel, get_peft_model
from safetensors import SafetensorError
from transformers import AutoModelForCausalLM, AutoTokenizer, BitsAndBytesConfig
from transformers.utils.logging import disable_progress_bar

# PEFT's own defaults, written down: Unsloth's differ.
LORA: dict[str, Any] = {"r": 8, "lora_alpha": 8, "lora_dropout": 0.0, "bias": "none", "use_rslora": False}
QUANTIZED = r"(-unsloth)?-bnb-[48]bit$"  # how the name of the same base ends where it is stored quantized


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
    source = str(local_folder(name, root)) if is_local(name, root) else name
    kind = engine(spec)
    _require_gpu(spec, kind["device"])
    disable_progress_bar()
    dtype = getattr(torch, kind["dtype"])
    try:
        if kind["library"] == "unsloth":
            from unsloth import FastLanguageModel

            table = spec.model.model_dump() | {"model_name": source, "dtype": dtype}
            model, _ = FastLanguageModel.from_pretrained(**table, revision=identity.get("revision"))
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
            if type(model).forward.__module__.startswith("unsloth"):
                raise ModelError(
                    f"{spec.id}: Unsloth has patched {type(model).__name__} for another spec of this run, and this one "
                    f"goes without it; run it by itself: --prism-spec {spec.id}"
                )
        # On either path the tokenizer as its makers publish it: Unsloth may change its template and padding.
        tokenizer = AutoTokenizer.from_pretrained(source, revision=identity.get("revision"), trust_remote_code=False)
    except (OSError, ValueError, SafetensorError) as error:
        raise ModelError(f"{name}: cannot be loaded: {str(error).splitlines()[0]}") from error
    if tokenizer.chat_template is None:
        raise ModelError(f"{name}: its tokenizer has no chat template; use an instruction-tuned model, or add one")
    if tokenizer.pad_token_id in (None, tokenizer.eos_token_id):
        raise ModelError(f"{name}: its padding token is its end token, so it would never learn to stop; set another")
    tokenizer.padding_side = "left"
    return Base(spec, model.eval(), tokenizer, kind["library"])


def _require_gpu(spec: Spec, device: str) -> None:
    """Raises ResourceError where another process has the GPU's memory, ModelError where quantization cannot work."""
    if device != "cuda":
        return
    if not torch.cuda.is_available():
        raise ModelError(
            f"{spec.id}: there is a CUDA device, and torch {torch.__version__} cannot use it; install a build for CUDA "
            f"(pip install -c constraints-gpu.txt -e '.[gpu]'), or set [sft].use_cpu = true"
        )
    free, total = (size / 2**30 for size in torch.cuda.mem_get_info())
    held = torch.cuda.memory_reserved() / 2**30
    need = spec.requires.vram_gb or 0
    if free + held < 0.95 * need <= total:
        raise ResourceError(
            f"{spec.id}: needs {need:g} GiB on the GPU, and {free:.1f} of {total:.1f} are free: another process has "
            f"the rest; wait for it, or name another GPU in CUDA_VISIBLE_DEVICES"
        )
    if spec.model.load_in_4bit or spec.model.load_in_8bit:
        try:
            import bitsandbytes.cextension
        except ModuleNotFoundError:
            raise ModelError(
                f"{spec.id}: loads in 4 or 8 bits, which needs bitsandbytes; pip install -c constraints-gpu.txt -e '.[gpu]'"
            ) from None
        if not getattr(bitsandbytes.cextension.lib, "compiled_with_cuda", False):
            raise ModelError(
                f"{spec.id}: bitsandbytes {bitsandbytes.__version__} has no library for CUDA {torch.version.cuda}, so "
                f"nothing can be loaded in 4 or 8 bits; install the one in constraints-gpu.txt"
            )


def add_adapter(base: Base, seed: int, checkpointing: bool = False) -> Any:
    """A fresh LoRA adapter on the base, as `[lora]` describes it. `checkpointing` is Unsloth's to know by now."""
    from transformers import set_seed

    set_seed(seed)
    try:
        if base.library == "unsloth":
            from unsloth import FastLanguageModel

            return FastLanguageModel.get_peft_model(
                base.model,
                **(LORA | base.spec.lora),
                use_gradient_checkpointing=checkpointing,
                random_state=seed,
            )
        return get_peft_model(base.model, lora_config(base.spec))
    except (TypeError, ValueError) as error:  # target_modules that the base does not have, for one
        raise SpecError(f"{base.spec.id}.toml [lora]: {str(error).splitlines()[0]}") from error


def lora_config(spec: Spec) -> LoraConfig:
    try:
        return LoraConfig(task_type="CAUSAL_LM", **(LORA | spec.lora))
    except (TypeError, ValueError) as error:
        raise SpecError(f"{spec.id}.toml [lora]: {error}; check its spelling and value") from None


def load_adapter(base: Base, folder: Path) -> Any:
    """Put a stored adapter on the base. Raises ModelError where it is pickled, missing or fits another base."""
    if not (folder / "adapter_config.json").is_file():
        raise ModelError(f"{folder}: holds no adapter_config.json, so it is no adapter; check the spec's adapter key")
    require_safetensors(folder, "adapter")
    _require_same_base(base, folder)
    try:
        return PeftModel.from_pretrained(base.model, str(folder)).eval()
    except (RuntimeError, ValueError, KeyError, SafetensorError) as error:
        reason = str(error).splitlines()[0]
        raise ModelError(f"{folder.name}: does not fit the base {base.spec.model.model_name}: {reason}") from error


def _require_same_base(base: Base, folder: Path) -> None:
    """Raises ModelError for an adapter that was trained on another base, where both are named by their hub id."""
    try:
        config = json.loads((folder / "adapter_config.json").read_text(encoding="utf-8"))
    except ValueError as error:
        raise ModelError(f"{folder.name}/adapter_config.json: is not JSON ({error}); restore the adapter") from None
    trained, here = config.get("base_model_name_or_path") or "", base.spec.model.model_name
    if is_local(trained, Path()) or is_local(here, Path()):
        return  # a folder's name says nothing of what lies in it
    ours, theirs = (re.sub(QUANTIZED, "", name.partition("/")[2].lower()) for name in (here, trained))
    if ours != theirs:
        raise ModelError(f"{folder.name}: was trained on {trained}, not on {here}; name that base in model_name")
