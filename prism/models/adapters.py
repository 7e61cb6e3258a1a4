"""What makes a stored adapter the one that is measured: all its weights, on its own base, with its own tokenizer.

PEFT loads the weights that fit and only warns about the others, so an adapter of which nothing was loaded would be
measured as the base.
"""

from __future__ import annotations

import json
import re
import shutil
from copy import copy
from dataclasses import replace
from pathlib import Path
from typing import Any

from prism.errors import ModelError, SpecError, first_line
from prism.models.chat import decide, set_template
from prism.models.load import Base
from prism.store.adapters import CONFIG, TOKENIZER, WEIGHTS, find_adapter, read_config
from prism.store.sources import is_local, require_safetensors

# ruff: isort: split
# After prism.models.load, which imports Unsloth if PRISM uses it.
import torch
from peft import PeftModel
from safetensors import SafetensorError, safe_open
from transformers import AutoTokenizer

OWN = "tokenizer"  # the subfolder of a stored adapter with a tokenizer and chat template that are not the base's
QUANTIZED_SUFFIX = r"(-unsloth)?-bnb-[48]bit$"  # suffix of the quantized copies of a base
SAVE_AGAIN = "save it again with PEFT's save_pretrained, or name its own base in [model].model_name"
EMBEDDINGS = re.compile(r"(^|\.)(embed_tokens|lm_head|wte|word_embeddings)(\.|$)")


def place(base: Base, folder: Path) -> str:
    """How messages name an adapter: by the spec's key, or a trained one by its folder in the store."""
    return f'{base.spec.id}.toml adapter = "{base.spec.adapter}"' if base.spec.adapter else folder.name


def take(base: Base, name: str, root: Path, folder: Path) -> dict[str, Any]:
    """Copy the finished adapter `name` into the store's `folder`, with its tokenizer if that differs from the base's.

    Returns notes. Raises ModelError if it is missing or unsafe, or if the base cannot be asked with that tokenizer.
    """
    source, _ = find_adapter(name, root, place(base, folder))
    for file in (CONFIG, WEIGHTS):
        shutil.copy2(source / file, folder)
    notes: dict[str, Any] = {"finished": name}
    if tokenizer := _own_tokenizer(base, source):
        tokenizer.save_pretrained(folder / OWN)
        known = base.processor or base.tokenizer
        notes["asked_with"] = "chat template" if tokenizer.chat_template != known.chat_template else "tokenizer"
    return notes


def asked_with(base: Base, folder: Path) -> Base:
    """The base as an adapter is asked: with the tokenizer that is stored beside it, or the base's own."""
    if not (folder / OWN).is_dir():
        return base
    tokenizer = AutoTokenizer.from_pretrained(folder / OWN, trust_remote_code=False)
    tokenizer.padding_side = "left"
    finished = base.spec.model_copy(update={"adapter": base.spec.adapter or folder.name})  # nothing is trained with it
    if base.processor is None:
        return replace(base, tokenizer=tokenizer, chat=decide(finished, tokenizer, tokenizer, base.chat.today))
    processor = copy(base.processor)
    processor.chat_template = tokenizer.chat_template
    return replace(base, processor=processor, chat=decide(finished, processor, base.tokenizer, base.chat.today))


def _own_tokenizer(base: Base, source: Path) -> Any:
    """The adapter's tokenizer, with the base's padding; None if it has none, or the same."""
    if not any((source / name).is_file() for name in TOKENIZER):
        return None
    named = place(base, source)
    tokenizer = copy(base.tokenizer)
    tokenizer.chat_template = known = (base.processor or base.tokenizer).chat_template
    if (source / "tokenizer_config.json").is_file():
        try:
            tokenizer = AutoTokenizer.from_pretrained(source, trust_remote_code=False)
        except Exception as error:  # noqa: BLE001  # a damaged tokenizer.json raises a bare Exception
            reason = first_line(error)
            raise ModelError(
                f"{named}: its tokenizer cannot be loaded ({reason}); restore or delete its files"
            ) from None
        tokenizer.chat_template = tokenizer.chat_template or known
        tokenizer.eos_token = tokenizer.eos_token or base.tokenizer.eos_token
    elif (source / "chat_template.jinja").is_file():
        tokenizer.chat_template = (source / "chat_template.jinja").read_text(encoding="utf-8")
    rows = base.model.get_input_embeddings().weight.shape[0]
    if (size := max(tokenizer.get_vocab().values()) + 1) > rows:
        raise ModelError(
            f"{named}: its tokenizer has {size:,} tokens, but the base {base.spec.model.model_name} has {rows:,} "
            f"embeddings; add the tokens to the base and save it as a model of its own"
        )
    if base.processor and _what_it_reads(tokenizer) != _what_it_reads(base.tokenizer):
        raise ModelError(
            f"{named}: its tokenizer differs from that of the base {base.spec.model.model_name}, whose processor "
            f"needs its own; delete the adapter's tokenizer files, or save the base with them"
        )
    if tokenizer.chat_template != known:
        try:  # as the base's was
            set_template(base.spec.model_copy(update={"sft": {}}), tokenizer, source)
        except SpecError as error:
            raise ModelError(
                f"{named}: its own chat template cannot be used ({error}); edit or delete its chat_template.jinja"
            ) from None
    if _what_it_reads(tokenizer) == _what_it_reads(base.tokenizer) and tokenizer.chat_template == known:
        return None
    vocabulary, padding = tokenizer.get_vocab(), base.tokenizer.pad_token
    tokenizer.pad_token = padding if padding in vocabulary else tokenizer.eos_token  # masked, so it changes no answer
    return tokenizer


def _what_it_reads(tokenizer: Any) -> Any:
    """What determines the tokens of a text and the end of an answer; not padding, nor what a trainer saved of its own."""
    ends = tokenizer.eos_token_id
    if not tokenizer.is_fast:
        return ends, tokenizer.get_vocab()
    written = json.loads(tokenizer.backend_tokenizer.to_str())
    parts = ("model", "added_tokens", "normalizer", "pre_tokenizer", "post_processor", "decoder")
    return ends, {part: written.get(part) for part in parts}


def load_adapter(base: Base, folder: Path) -> Any:
    """Load a stored adapter onto the base.

    Raises ModelError if it is missing, pickled, damaged, not loaded as a whole, or of another base.
    """
    named = place(base, folder)
    if not (folder / CONFIG).is_file():
        raise ModelError(f"{named}: {folder} contains no {CONFIG}, so it is no adapter; restore it")
    if not (folder / WEIGHTS).is_file():  # PEFT would unpickle adapter_model.bin
        require_safetensors(folder, "adapter")
        raise ModelError(f"{named}: {folder} contains no {WEIGHTS}; restore the adapter")
    _require_same_base(base, folder)
    _require_sound(base, folder)
    try:
        model = PeftModel.from_pretrained(base.model, str(folder)).eval()
    except (MemoryError, torch.OutOfMemoryError):
        raise
    except Exception as error:  # what PEFT, and torch behind it, make of a stranger's configuration
        raise _misfit(base, folder, error) from error
    _require_whole(base, model, folder)
    return model


def _require_sound(base: Base, folder: Path) -> None:
    """Raise ModelError for weights that are no numbers, for embeddings of another size, and for modules that lack."""
    named, rows = place(base, folder), base.model.get_input_embeddings().weight.shape[0]
    try:
        with safe_open(str(folder / WEIGHTS), "pt") as weights:
            keys = list(weights.keys())
            for key in keys:
                weight = weights.get_tensor(key)
                if not torch.isfinite(weight.float()).all():
                    raise ModelError(f"{named}: its weight {key} has values that are NaN or infinite; train it again")
                if EMBEDDINGS.search(key) and "lora_" not in key and weight.ndim == 2 and len(weight) != rows:
                    raise ModelError(
                        f"{named}: its embeddings have {len(weight):,} rows, and those of the base "
                        f"{base.spec.model.model_name} {rows:,}; merge it into the resized base, and name that model"
                    )
    except SafetensorError as error:
        raise ModelError(f"{named}: {WEIGHTS} is damaged ({error}); restore the adapter") from None
    modules = read_config(folder, named).get("modules_to_save") or []
    if not isinstance(modules, list):
        raise ModelError(f"{named}: modules_to_save in its {CONFIG} is {modules!r} and no list; {SAVE_AGAIN}")
    for module in modules:
        if not any(f".{module}." in f".{key}" for key in keys):
            raise ModelError(f"{named}: lacks the weights of {module}, which its modules_to_save names; {SAVE_AGAIN}")


def _require_whole(base: Base, model: Any, folder: Path) -> None:
    """Raise ModelError if the file has weights that the model has no place for, or lacks some.

    PEFT loads them once more, since only `load_adapter` tells what did not fit.
    """
    named = place(base, folder)
    mapping = getattr(base.model, "_checkpoint_conversion_mapping", {})
    result = model.load_adapter(str(folder), "default", key_mapping=mapping)
    if unexpected := result.unexpected_keys:
        raise ModelError(
            f"{named}: the base {base.spec.model.model_name} has no place for {len(unexpected)} of its weights, such as "
            f"{unexpected[0]}; {SAVE_AGAIN}"
        )
    if missing := result.missing_keys:
        raise ModelError(
            f"{named}: lacks {len(missing)} of the weights that its {CONFIG} asks for, such as {missing[0]}; {SAVE_AGAIN}"
        )


def _require_same_base(base: Base, folder: Path) -> None:
    """Raise ModelError if an adapter was trained on another base. Compares hub ids only."""
    trained = str(read_config(folder, place(base, folder)).get("base_model_name_or_path") or "")
    current = base.spec.model.model_name
    if is_local(trained, Path()) or is_local(current, Path()):
        return  # a folder's name does not identify its model
    current_name, trained_name = (
        re.sub(QUANTIZED_SUFFIX, "", name.partition("/")[2].lower()) for name in (current, trained)
    )
    if current_name != trained_name:
        raise ModelError(
            f"{place(base, folder)}: was trained on {trained}, not on {current}; set model_name to that base"
        )


def _misfit(base: Base, folder: Path, error: Exception) -> ModelError:
    """The error for an adapter that PEFT refuses: torch's first line only names the class, the second the weight."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()] or [type(error).__name__]
    sizes = next((line for line in lines if line.startswith("size mismatch")), lines[0])
    if found := re.match(r"size mismatch for (\S+): .*?\[([\d, ]+)\].*?\[([\d, ]+)\]", sizes):
        sizes = (
            f"{found[1]} is {found[2].replace(', ', ' × ')} in the adapter and {found[3].replace(', ', ' × ')} there"
        )
    return ModelError(
        f"{place(base, folder)}: does not fit the base {base.spec.model.model_name}: {sizes.rstrip('.')}; set model_name "
        f"to the base that it was trained on"
    )
