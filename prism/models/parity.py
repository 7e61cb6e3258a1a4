"""Checks on a few questions that a stored adapter computes the same as the trained one.

People lose days to a LoRA adapter that loads but answers like the base, that answers differently after reload or merge,
or whose answers change with the batch size. So each adapter is checked once, and the manifest stores the result.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from prism.errors import ModelError
from prism.models import vision
from prism.models.adapters import asked_with, load_adapter
from prism.models.generate import encode, pad
from prism.models.load import Base
from prism.rows import Example

# ruff: isort: split
# After prism.models.load, which imports Unsloth if PRISM uses it.
import torch
from peft import PeftModel

PROBES = 8
TOLERANCE = {torch.float32: 1e-3, torch.bfloat16: 0.25, torch.float16: 0.05}  # largest allowed difference of a logit


@torch.no_grad()
def _logits(base: Base, model: Any, examples: Sequence[Example]) -> torch.Tensor:
    if base.processor:  # whose models find their positions themselves
        return model(**vision.inputs(base, examples), logits_to_keep=1).logits[:, -1].float().cpu()
    prompt = pad(base, [encode(base, example) for example in examples])
    positions = (prompt["attention_mask"].cumsum(-1) - 1).clamp(min=0)
    return model(**prompt, position_ids=positions, logits_to_keep=1).logits[:, -1].float().cpu()


def check(base: Base, folder: Path, examples: Sequence[Example]) -> dict[str, Any]:
    """Compare next-token logits on up to eight questions: as trained, of the base, reloaded, one by one, merged.

    `base.model` has the adapter just trained (or none, for a finished adapter). The check modifies it, so load it again
    afterwards. Returns the largest differences and whether each is within the tolerance. Raises ModelError if the
    stored adapter changes nothing or differs from the trained one, since such an adapter must not be measured.
    """
    probes, asked = examples[:PROBES], asked_with(base, folder)
    if base.processor:  # of a finished adapter these are the first rows that are asked about
        vision.check(base, probes)
    tolerance = TOLERANCE[base.model.dtype]
    trained_logits = None
    if isinstance(base.model, PeftModel):
        trained_logits = _logits(asked, base.model, probes)
        base.model = base.model.unload()
    base_logits = _logits(asked, base.model, probes)
    adapted = load_adapter(base, folder)
    reloaded_logits = _logits(asked, adapted, probes)
    single_logits = torch.cat([_logits(asked, adapted, [probe]) for probe in probes])
    quantized = base.spec.model.load_in_4bit or base.spec.model.load_in_8bit
    merged_logits = None
    if not quantized:  # merging into a quantized base rounds the weights; `decode` merges into dequantized weights
        adapted.merge_adapter()
        merged_logits = _logits(asked, adapted, probes)

    def difference(other: torch.Tensor | None) -> float | None:
        return None if other is None else float((other - reloaded_logits).abs().max())

    differences = {
        "changes": difference(base_logits),
        "reload": difference(trained_logits),
        "batch_of_one": difference(single_logits),
        "merge": difference(merged_logits),
    }
    if not differences["changes"]:
        remedy = "is it trained?" if base.spec.adapter else "train it longer, or check [lora]"
        raise ModelError(f"{base.spec.id}: the adapter does not change the base's logits; {remedy}")
    if differences["reload"] is not None and differences["reload"] > tolerance:
        raise ModelError(
            f"{base.spec.id}: the adapter answers differently after reloading (a logit moved by "
            f"{differences['reload']:.3g}); check [lora].modules_to_save"
        )
    holds = {
        name: None if value is None else value <= tolerance for name, value in differences.items() if name != "changes"
    }
    return {"probes": len(probes), "tolerance": tolerance, "differences": differences, "holds": holds}
