"""How a vision-language model is built: its parts, its visual tokens, where LoRA goes, where attention goes."""

from __future__ import annotations

import math
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch

from prism.errors import ModelError, SpecError

PARTS = ("tower", "projector", "language")  # what `[lora] placement` may name; "all" is the three together
TOWERS = ("vision_tower", "visual", "vision_model")
PROJECTORS = ("multi_modal_projector", "connector", "visual.merger", "merger")
LANGUAGES = ("language_model", "text_model")


def parts(model: Any) -> dict[str, torch.nn.Module]:
    """The image tower, the projector and the language model of a vision-language model, PEFT-wrapped or not.

    Raises ModelError for a model without them.
    """
    causal = model.get_base_model() if hasattr(model, "get_base_model") else model
    core = getattr(causal, "model", causal)
    found = {}
    for part, names in (("tower", TOWERS), ("projector", PROJECTORS), ("language", LANGUAGES)):
        module = next((m for name in names if (m := _submodule(core, name)) is not None), None)
        if module is None:
            raise ModelError(
                f"{type(causal).__name__}: has no {part} among {', '.join(names)}; use a model that has one"
            )
        found[part] = module
    return found


def _submodule(core: Any, name: str) -> torch.nn.Module | None:
    try:
        return core.get_submodule(name)
    except AttributeError:
        return None


def part_of(model: Any) -> dict[str, str]:
    """The part that each parameter and module belongs to, by its full name; a merger inside a tower is the projector."""
    known = parts(model)
    belongs: dict[int, str] = {}
    for part in ("tower", "language", "projector"):  # the projector last: Qwen's merger lies inside the tower
        for module in known[part].modules():
            belongs[id(module)] = part
    return {name: belongs[id(module)] for name, module in model.named_modules() if id(module) in belongs}


def parameters(model: Any) -> dict[str, int]:
    """Parameters by part; `other` is what lies outside (an untied head). Quantized ones count as they were."""
    owner = part_of(model)
    counts = dict.fromkeys((*PARTS, "other"), 0)
    for name, parameter in model.named_parameters():
        module = name.rpartition(".")[0]
        factor = 2 if parameter.__class__.__name__ == "Params4bit" else 1  # two weights a byte
        counts[owner.get(module, "other")] += parameter.numel() * factor
    return counts


def placed(model: Any, placement: str | Sequence[str], names: Sequence[str] | str | None) -> list[str]:
    """The full names of the linear layers that LoRA goes on.

    `placement` names parts ("language", "projector", "tower", a list of them, or "all"); `names` are the last parts of
    module names as `target_modules` gives them, or None or "all-linear" for every linear layer. Raises SpecError if a
    named part has no such layer: names that fit one family reach nothing of another's tower.
    """
    chosen = PARTS if placement == "all" else (placement,) if isinstance(placement, str) else tuple(placement)
    wrong = [part for part in chosen if part not in PARTS]
    if wrong or not chosen:
        raise SpecError(f"[lora] placement = {placement!r}: must be all or some of {', '.join(PARTS)}")
    owner, head = part_of(model), model.get_output_embeddings()
    wanted = None if names in (None, "all-linear") else set([names] if isinstance(names, str) else names or ())
    found: dict[str, list[str]] = {part: [] for part in chosen}
    for name, module in model.named_modules():
        fits = wanted is None or name.rpartition(".")[2] in wanted
        if isinstance(module, torch.nn.Linear) and module is not head and fits and owner.get(name) in found:
            found[owner[name]].append(name)
    empty = [part for part, layers in found.items() if not layers]
    if empty:
        raise SpecError(
            f"[lora] placement = {placement!r}: none of target_modules is in the {empty[0]} of "
            f"{type(model).__name__}; name its layers, or delete target_modules to adapt every linear layer"
        )
    return [name for layers in found.values() for name in layers]


def moved(model: Any) -> dict[str, tuple[int, int]]:
    """By part: how many adapters it has, and of how many `lora_B` is no longer zero, as it starts."""
    owner = part_of(model)
    counts: dict[str, tuple[int, int]] = {}
    for name, parameter in model.named_parameters():
        if ".lora_B." in name:
            part = owner.get(name.partition(".lora_B.")[0], "other")
            known, changed = counts.get(part, (0, 0))
            counts[part] = known + 1, changed + bool(parameter.detach().abs().sum() > 0)
    return counts


def require_moved(model: Any, spec: str) -> dict[str, tuple[int, int]]:
    """`moved`. Raises ModelError if a part has adapters of which none was trained: it is not part of the computation."""
    counts = moved(model)
    still = [part for part, (_, changed) in counts.items() if not changed]
    if still:
        raise ModelError(
            f"{spec}: none of the {counts[still[0]][0]} adapters in the {still[0]} was trained (lora_B is 0); take the "
            f"{still[0]} out of [lora] placement, or check that the model uses it"
        )
    return counts


def visual_tokens(config: Any, width: int, height: int) -> int:
    """How many image tokens the published formula gives for an image of `width` × `height` pixels.

    LLaVA with a fixed tower: (side / patch)², less the class token where the tower has one and it is dropped. Qwen2-VL
    and Qwen2.5-VL: the sides are rounded to multiples of patch × merge, and each merge × merge patches give one token.
    """
    vision = config.vision_config
    patch = vision.patch_size
    merge = getattr(vision, "spatial_merge_size", None)
    if merge:
        step = patch * merge
        return max(1, round(height / step)) * max(1, round(width / step))
    return (vision.image_size // patch) ** 2


@contextmanager
def timed(model: Any) -> Iterator[dict[str, float]]:
    """Seconds spent in each part's forward pass while the context was open; read them when it is closed."""
    known = parts(model)
    seconds = dict.fromkeys(PARTS, 0.0)
    began: dict[str, float] = {}
    hooks = []

    def clock() -> float:
        if torch.cuda.is_available():
            torch.cuda.synchronize()
        return time.perf_counter()

    for part, module in known.items():

        def start(*_: Any, part: str = part) -> None:
            began[part] = clock()

        def stop(*_: Any, part: str = part) -> None:
            seconds[part] += clock() - began[part]

        hooks += [module.register_forward_pre_hook(start), module.register_forward_hook(stop)]
    try:
        yield seconds
    finally:
        for hook in hooks:
            hook.remove()
    if any(module is known["projector"] for module in known["tower"].modules()):  # Qwen's merger lies inside
        seconds["tower"] -= seconds["projector"]


@torch.no_grad()
def forward_seconds(model: Any, batch: Mapping[str, torch.Tensor]) -> dict[str, float]:
    """Seconds of each part in one forward pass, after one that sets the libraries up."""
    model(**batch)
    with timed(model) as seconds:
        model(**batch)
    return seconds


@torch.no_grad()
def shift(model: Any, batch: Mapping[str, torch.Tensor], other: Mapping[str, torch.Tensor]) -> list[float]:
    """The total variation, 0 to 1, between the next-token probabilities of two batches, prompt by prompt."""
    first, second = (model(**part).logits[:, -1].float().softmax(-1) for part in (batch, other))
    return ((first - second).abs().sum(-1) / 2).tolist()


@torch.no_grad()
def attention_on_image(
    model: Any, batch: Mapping[str, torch.Tensor], image_token: int
) -> tuple[list[float], list[float]]:
    """How much of the last prompt token's attention goes to image tokens: by layer, and by image token over all layers.

    `batch` holds one prompt. Attention must be "eager": other implementations return none. Both are means over heads;
    the second sums to the mean of the first. Raises ModelError if the model returns no attention.
    """
    if model.config._attn_implementation != "eager":
        model.set_attn_implementation("eager")
    attentions = model(**batch, output_attentions=True).attentions
    if not attentions:
        raise ModelError(f"{type(model).__name__}: returns no attentions although its attention is eager")
    places = (batch["input_ids"][0] == image_token).nonzero()[:, 0]
    last = torch.stack([layer[0, :, -1, :].float().mean(0) for layer in attentions])  # (layers, tokens)
    on_image = last[:, places]
    return on_image.sum(-1).tolist(), on_image.mean(0).tolist()


def grid(tokens: int, width: int, height: int) -> tuple[int, int]:
    """Rows and columns of a picture's visual tokens, as the sides' proportion gives them."""
    columns = max(1, round(math.sqrt(tokens * width / height)))
    return max(1, tokens // columns), columns
