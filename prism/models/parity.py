"""Is an adapter the same adapter once it is stored? Asked of every adapter, with a few of its training questions.

People lose days to a LoRA that is loaded yet answers like the base, that answers differently after reload or merge, or
whose answers change with the batch size; so each is checked once, here, and the result is kept in the manifest.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from prism.errors import ModelError
from prism.models.generate import encode, pad
from prism.models.load import Base, load_adapter
from prism.rows import Example

# ruff: isort: split
# After prism.models.load, which imports Unsloth where it is used.
import torch
from peft import PeftModel

PROBES = 8
TOLERANCE = {torch.float32: 1e-3, torch.bfloat16: 0.25, torch.float16: 0.05}  # largest difference of a logit


@torch.no_grad()
def _logits(base: Base, model: Any, rows: Sequence[Sequence[int]]) -> torch.Tensor:
    prompt = pad(base, rows)
    positions = (prompt["attention_mask"].cumsum(-1) - 1).clamp(min=0)
    return model(**prompt, position_ids=positions, logits_to_keep=1).logits[:, -1].float().cpu()


def check(base: Base, folder: Path, examples: Sequence[Example]) -> dict[str, Any]:
    """Compare next-token logits on up to eight questions: as trained, without, reloaded, one by one, merged.

    `base.model` wears the adapter just trained (or none, where a finished one is loaded) and is used up: load it anew
    to go on. Returns the largest differences and whether each holds. Raises ModelError where the stored adapter changes
    nothing or does not come back as it was: such an adapter must not be measured.
    """
    rows = [encode(base, example) for example in examples[:PROBES]]
    tolerance = TOLERANCE[base.model.dtype]
    trained = None
    if isinstance(base.model, PeftModel):
        trained = _logits(base, base.model, rows)
        base.model = base.model.unload()
    plain = _logits(base, base.model, rows)
    stored = load_adapter(base, folder)
    reloaded = _logits(base, stored, rows)
    single = torch.cat([_logits(base, stored, [row]) for row in rows])
    quantized = base.spec.model.load_in_4bit or base.spec.model.load_in_8bit
    merged = None
    if not quantized:  # merging into a quantized base rounds it; `decode` adds the adapter to what it dequantized
        stored.merge_adapter()
        merged = _logits(base, stored, rows)

    def apart(other: torch.Tensor | None) -> float | None:
        return None if other is None else float((other - reloaded).abs().max())

    found = {
        "changes": apart(plain),
        "reload": apart(trained),
        "batch_of_one": apart(single),
        "merge": apart(merged),
    }
    if not found["changes"]:
        raise ModelError(f"{base.spec.id}: the adapter changes no answer of the base; train it longer, or check [lora]")
    if found["reload"] is not None and found["reload"] > tolerance:
        raise ModelError(
            f"{base.spec.id}: the adapter answers differently after reloading (a logit moved by {found['reload']:.3g}); "
            f"check [lora].modules_to_save"
        )
    holds = {name: None if value is None else value <= tolerance for name, value in found.items() if name != "changes"}
    return {"probes": len(rows), "tolerance": tolerance, "differences": found, "holds": holds}
