"""Loads a base model and its tokenizer, and adds a new adapter.

Unsloth accepts a spec's `[model]` table unchanged but for `revision`, since a hub model is loaded from its files in the
local cache. Without Unsloth, `load` translates the other keys for transformers and bitsandbytes; no other module does.
"""

from __future__ import annotations

import importlib.util
import os
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from prism.devices import cuda_devices
from prism.errors import ModelError, PrismError, ResourceError, SpecError
from prism.models.identity import engine, imports_unsloth
from prism.progress import CONSOLE
from prism.spec import Spec
from prism.store.hub import Say, model_folder
from prism.store.sources import MODEL_NAME, base_identity, check_configs, is_local, local_folder

if cuda_devices() and importlib.util.find_spec("unsloth") and imports_unsloth():
    import unsloth  # noqa: F401  # patches the libraries below, so it must come first

import torch
from peft import LoraConfig, get_peft_model
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    AutoModelForImageTextToText,
    AutoProcessor,
    AutoTokenizer,
    BitsAndBytesConfig,
)
from transformers.utils.logging import disable_progress_bar

from prism.models import families, kernels, packing, sharding, warming
from prism.models.anatomy import placed
from prism.models.chat import Chat, decide, set_padding, set_template

# PEFT's defaults, set explicitly because Unsloth's differ.
LORA: dict[str, Any] = {"r": 8, "lora_alpha": 8, "lora_dropout": 0.0, "bias": "none", "use_rslora": False}


@dataclass
class Base:
    """A loaded model. Training and parity checks replace `model`; `tokenizer` pads on the left for generation.

    `processor` is that of a vision-language model, None for a model of text. `chat` is what the chat template does.
    """

    spec: Spec
    model: Any
    tokenizer: Any
    library: str
    chat: Chat
    processor: Any = None
    root: Path = Path()  # of the checkout
    source: str = ""  # the folder that the model was loaded from
    asked: str = ""  # the folder or hub id that it was asked for by

    @property
    def unloads_cleanly(self) -> bool:
        """Whether an adapter can be taken off again: none is merged into quantized weights, and nothing else is patched."""
        return self.spec.model.quantized and self.library == "transformers" and self.processor is None

    def serves(self, spec: Spec, source: str) -> bool:
        """Whether `load` would give a spec the same model from `source`, a folder or a hub id."""
        differ = {"measured_with", "max_seq_length"}  # only Unsloth loads by a length
        own, other = (each.model.model_dump(exclude=differ) for each in (self.spec, spec))
        named = own == other and self.asked == source and bool(self.spec.image) == bool(spec.image)
        named &= self.spec.sharded == spec.sharded
        return named and engine(self.spec) == engine(spec)


def load(spec: Spec, root: Path, say: Say = CONSOLE.say, name: str | None = None, model: Any = None) -> Base:
    """Load the base model of a spec, or the one that stands in for it under another `name`, in evaluation mode.

    `say` is told of downloads. `model` is the same model if it is loaded already (`Base.serves`).

    Raises ModelError if the folder is missing, damaged, pickled or needs remote code, or if the hub does not give it.
    """
    revision = spec.model.revision if name in (None, spec.model.model_name) else None
    name = name or spec.model.model_name
    base_identity(name, root, revision=revision, say=say)
    # A hub model is loaded from its files, too, so that no library asks the hub for another commit or repository.
    if is_local(name, root):
        folder = local_folder(name, root)
    else:
        folder = model_folder(name, revision, MODEL_NAME, say)
        check_configs(folder, name)  # `base_identity` has checked a local one
    source = str(folder)
    settings = engine(spec)
    _require_gpu(spec, settings["device"])
    disable_progress_bar()
    try:
        if model is None:
            with _warming(spec, source, settings):
                model = _model(spec, name, source, settings)
        # Always use the published tokenizer; Unsloth may change its template and padding.
        processor = AutoProcessor.from_pretrained(source, trust_remote_code=False) if spec.image else None
        tokenizer = processor.tokenizer if processor else AutoTokenizer.from_pretrained(source, trust_remote_code=False)
        tokenizer("a")  # fails for settings of a wrong type
    except (PrismError, MemoryError, torch.OutOfMemoryError):
        raise
    except Exception as error:  # a damaged folder raises what three libraries, and their checks, happen to
        lines = [line.strip() for line in str(error).splitlines() if line.strip()] or [type(error).__name__]
        detail = lines[-1] if "validation" in lines[0].lower() else lines[0]
        raise ModelError(f"{name}: cannot be loaded: {detail}") from error
    if processor is not None and getattr(processor, "image_processor", None) is None:
        raise ModelError(f"{name}: has no image processor, so it reads no images; use a vision-language model")
    if tokenizer.eos_token_id is None:
        raise ModelError(f"{name}: the tokenizer has no end token; set eos_token in its tokenizer_config.json")
    words = processor or tokenizer
    today = set_template(spec, words, root)
    template = decide(spec, words, tokenizer, today)
    set_padding(tokenizer, model.get_input_embeddings().num_embeddings)
    if settings["library"] == "unsloth" and not spec.adapter and tokenizer.pad_token_id == template.end:
        raise ModelError(
            f"{name}: the padding token is the end token, which Unsloth leaves out of the loss, so the model never learns "
            f"to stop; set another pad_token in its tokenizer_config.json"
        )
    packs = not spec.adapter and (spec.sft.get("packing") or spec.sft.get("padding_free"))
    if packs and settings["library"] == "transformers":
        longest = spec.sft.get("max_length") or spec.model.max_seq_length
        if reason := packing.unsupported(model.config.get_text_config(), longest):
            raise SpecError(
                f"{spec.id}.toml [sft] packing: {name} cannot be trained on packed rows, {reason}; delete it"
            )
    tokenizer.padding_side = "left"
    return Base(spec, model.eval(), tokenizer, settings["library"], template, processor, root, source, name)


def _model(spec: Spec, name: str, source: str, settings: dict[str, str]) -> Any:
    """The model of the folder `source`, as `engine` settled how. Raises ModelError if a weight is missing."""
    dtype = getattr(torch, settings["dtype"])
    if settings["library"] == "unsloth":
        options = spec.model.model_dump(exclude={"revision", "measured_with"}) | {"model_name": source, "dtype": dtype}
        if spec.image:
            from unsloth import FastVisionModel

            return FastVisionModel.from_pretrained(**options)[0]
        from unsloth import FastLanguageModel

        return FastLanguageModel.from_pretrained(**options)[0]
    quantization = None
    if spec.model.quantized:
        quantization = BitsAndBytesConfig(
            load_in_4bit=spec.model.load_in_4bit,
            load_in_8bit=spec.model.load_in_8bit,
            bnb_4bit_quant_type="nf4",  # the same choices as Unsloth's
            bnb_4bit_use_double_quant=True,
            bnb_4bit_compute_dtype=dtype,
            bnb_4bit_quant_storage=sharding.STORED if spec.sharded else None,
        )
    auto = AutoModelForImageTextToText if spec.image else AutoModelForCausalLM
    places = _places(spec, settings["device"])
    waits = quantization and settings["device"] == "cuda" and places == {"": "cpu"}
    with sharding.quantizing_on_the_gpu() if waits else nullcontext():
        loaded: Any = auto.from_pretrained(
            source,
            dtype=dtype,
            quantization_config=quantization,
            device_map=places,
            use_safetensors=True,
            trust_remote_code=False,
            output_loading_info=True,
        )
    model, found = loaded
    if missing := sorted(found["missing_keys"]):  # transformers draws them by chance, and only logs it
        raise ModelError(
            f"{name}: lacks {len(missing)} of the weights that its config.json asks for, such as {missing[0]}; "
            f"restore the folder"
        )
    if type(model).forward.__module__.startswith("unsloth"):
        raise ModelError(
            f"{spec.id}: Unsloth has patched {type(model).__name__} for another spec of this run, but this "
            f"spec does not use Unsloth; run it alone: --prism-spec {spec.id}"
        )
    return model


def _warming(spec: Spec, source: str, settings: dict[str, str]) -> AbstractContextManager[None]:
    """Compiles the kernels of answers meanwhile, if there will be any."""
    if settings["device"] != "cuda" or settings["library"] != "transformers" or spec.image or spec.sharded:
        return nullcontext()
    config = AutoConfig.from_pretrained(source, trust_remote_code=False).get_text_config()
    if families.unsupported(config) or not kernels.built():
        return nullcontext()
    return warming.warming(config, getattr(torch, settings["dtype"]), spec.model.load_in_8bit)


def _places(spec: Spec, device: str) -> dict[str, str | int] | str:
    """Where the base lies: on this process's device, of several processes (`prism.models.launch`) each on its own.

    A base that FSDP divides is asked on all GPUs together, a few layers on each, and waits in memory to be divided.
    """
    training = device == "cuda" and "LOCAL_RANK" in os.environ
    if spec.sharded:
        return {"": "cpu"} if training else "auto"
    return {"": torch.cuda.current_device() if training else device}


def _require_gpu(spec: Spec, device: str) -> None:
    """Raise ResourceError if other processes use the GPU's memory, ModelError if CUDA or quantization cannot work."""
    if device != "cuda":
        return
    if not torch.cuda.is_available():
        raise ModelError(
            f"{spec.id}: torch {torch.__version__} cannot use the CUDA device; install a CUDA build "
            f"(pip install -c constraints-gpu.txt -e '.[gpu]'), or set [sft].use_cpu = true"
        )
    free, total = (size / 2**30 for size in torch.cuda.mem_get_info())
    reserved = torch.cuda.memory_reserved() / 2**30
    required = spec.requires.vram_gb or 0
    if free + reserved < 0.95 * required <= total:
        raise ResourceError(
            f"{spec.id}: needs {required:g} GiB on the GPU, but only {free:.1f} of {total:.1f} are free because of "
            f"another process; wait for it, or set CUDA_VISIBLE_DEVICES to another GPU"
        )
    if spec.model.quantized:
        try:
            import bitsandbytes.cextension
        except ModuleNotFoundError:
            raise ModelError(
                f"{spec.id}: in 4 or 8 bits it needs bitsandbytes; pip install -c constraints-gpu.txt -e '.[gpu]'"
            ) from None
        if not getattr(bitsandbytes.cextension.lib, "compiled_with_cuda", False):
            raise ModelError(
                f"{spec.id}: bitsandbytes {bitsandbytes.__version__} has no library for CUDA {torch.version.cuda} and "
                f"cannot load in 4 or 8 bits; install the version in constraints-gpu.txt"
            )


def add_adapter(base: Base, seed: int, checkpointing: bool = False) -> Any:
    """Add a new LoRA adapter with the options of `[lora]`. Unsloth needs to know `checkpointing` here."""
    from transformers import set_seed

    set_seed(seed)
    options = lora_options(base)
    try:
        if base.library == "unsloth":
            options |= {"use_gradient_checkpointing": checkpointing, "random_state": seed}
            if base.processor:
                from unsloth import FastVisionModel

                return FastVisionModel.get_peft_model(base.model, **options)
            from unsloth import FastLanguageModel

            return FastLanguageModel.get_peft_model(base.model, **options)
        return get_peft_model(base.model, lora_config(base.spec, options))
    except (TypeError, ValueError) as error:  # for example, target_modules that the base lacks
        raise SpecError(f"{base.spec.id}.toml [lora]: {str(error).splitlines()[0]}") from error


def lora_options(base: Base) -> dict[str, Any]:
    """`[lora]` with the defaults, its `placement` resolved to the names of modules."""
    options = LORA | base.spec.lora
    placement = options.pop("placement", None)
    if placement is None:
        return options
    try:
        return options | {"target_modules": placed(base.model, placement, options.get("target_modules"))}
    except SpecError as error:
        raise SpecError(f"{base.spec.id}.toml {error}") from None


def lora_config(spec: Spec, options: dict[str, Any] | None = None) -> LoraConfig:
    options = {key: value for key, value in (options or LORA | spec.lora).items() if key != "placement"}
    try:
        return LoraConfig(task_type="CAUSAL_LM", **options)
    except (TypeError, ValueError) as error:
        raise SpecError(f"{spec.id}.toml [lora]: {error}; check its spelling and value") from None
