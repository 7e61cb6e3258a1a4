"""Checks that a stored adapter answers as the trained one does: reloaded, asked one at a time, and merged.

People lose days to a LoRA adapter that loads but answers like the base, that answers differently after reload or merge,
or whose answers change with the batch size. So each adapter is checked once, and the manifest stores the result.

Logits are compared first. In float32 they decide: where none moves by more than a thousandth, no answer changes. In half
precision they move with every batch size, so there answers are compared: the share that differs.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from prism.errors import ModelError
from prism.models import vision
from prism.models.adapters import asked_with, load_adapter
from prism.models.generate import OWN, answers, encode_all
from prism.models.load import Base
from prism.models.reading import next_logits, pad
from prism.rows import Example
from prism.rows.answers import read_predictions

# ruff: isort: split
# After prism.models.load, which imports Unsloth if PRISM uses it.
import torch
from peft import PeftModel
from safetensors.torch import load_file, save_file

from prism.models import decode, dense
from prism.models.alone import Alone

LOGITS = "logits.safetensors"  # in an adapter's folder until it is checked, if processes of their own trained it
PROBES = 8  # questions whose logits are compared
TOLERANCE = {torch.float32: 1e-3, torch.bfloat16: 0.25, torch.float16: 0.05}  # largest allowed difference of a logit
ASKED = 240  # held-out questions whose answers are compared
SHARE = 0.01  # largest share of them that may differ
SAME = 1e-6  # logits no further apart are the same: in half precision equal bits, in float32 rounding


@torch.no_grad()
def _logits(base: Base, model: Any, examples: Sequence[Example]) -> torch.Tensor:
    if base.processor:  # whose models find their positions themselves
        return model(**vision.inputs(base, examples), logits_to_keep=1).logits[:, -1].float().cpu()
    return next_logits(model, pad(base, encode_all(base, examples))).float().cpu()


def untouched(base: Base, probed: Sequence[Example]) -> torch.Tensor | None:
    """The logits of a base before anything is trained on it; None if it has to be loaded again in any case."""
    return _logits(base, base.model, probed[:PROBES]) if base.unloads_cleanly else None


def keep_logits(base: Base, probed: Sequence[Example], folder: Path, write: bool) -> None:
    """Have `check`, in the process that started this one, know how the adapter just trained answers; one process writes."""
    logits = _logits(base, base.model, probed[:PROBES])
    if write:
        save_file({"logits": logits}, folder / LOGITS)


def check(
    base: Base, folder: Path, probed: Sequence[Example], held_out: Sequence[Example], before: torch.Tensor | None = None
) -> dict[str, Any]:
    """Compare the stored adapter's logits on up to eight questions of `probed`, and its answers to 240 of `held_out`.

    `base.model` has the adapter just trained (or none, for a finished adapter, or if other processes trained it: they leave
    logits in `folder`). The check modifies it, so load it again
    afterwards, unless `restored` is true: then it has no adapter and the same logits as `before`. Returns the largest
    differences of a logit, the shares of answers that differ if they were compared, and whether each `holds`;
    None was not measured. Raises ModelError if the stored adapter changes nothing or differs from the trained one, since
    such an adapter must not be measured.
    """
    probes, worn = probed[:PROBES], asked_with(base, folder)
    if base.processor:  # of a finished adapter these are the first rows that are asked about
        vision.check(base, probes)
    dtype = base.model.dtype
    tolerance = TOLERANCE[dtype]
    trained_logits = None
    if isinstance(base.model, PeftModel):
        trained_logits = _logits(worn, base.model, probes)
        base.model = base.model.unload()
    elif (folder / LOGITS).is_file():
        trained_logits = load_file(folder / LOGITS)["logits"]
        (folder / LOGITS).unlink()
    base_logits = _logits(worn, base.model, probes)
    adapted = load_adapter(base, folder)
    reloaded_logits = _logits(worn, adapted, probes)

    def difference(other: torch.Tensor | None) -> float | None:
        return None if other is None else float((other - reloaded_logits).abs().max())

    reload = difference(trained_logits)
    asked = held_out[:ASKED]
    if worn is not base:  # whose special tokens are others
        vision.require_plain(worn, held_out)
    unmerged, ids, path = _answers(worn, adapted, asked, merge=False) if dtype != torch.float32 else ([], [], "")
    shares = {"batch_of_one": _differing_alone(worn, adapted, asked, ids, path)} if ids else {}
    single_logits = None
    # A question at a time is a thousand kernels that Python launches one by one: only where this decides.
    if shares.get("batch_of_one") is None or (reload or 0) > tolerance:
        with dense.dense_in_8_bits(base, adapted):
            single_logits = torch.cat([_logits(worn, adapted, [probe]) for probe in probes])
    merged, merged_logits = adapted, None
    if (
        not base.spec.model.quantized
    ):  # merging into a quantized base rounds the weights; `decode` merges into dequantized weights
        merged = adapted.merge_and_unload()
        merged_logits = _logits(worn, merged, probes)
    if ids and not base.spec.model.load_in_8bit:  # into which nothing is merged
        said, _, engine = _answers(worn, merged, asked, merge=True)
        if not base.spec.model.quantized or engine == "captured":  # `generate` does not merge into a quantized base
            shares["merge"] = sum(one != other for one, other in zip(said, unmerged)) / len(asked)

    restored = before is not None and torch.allclose(before, base_logits, rtol=0, atol=SAME)
    if restored:
        base.model = adapted.unload()

    differences = {
        "changes": difference(base_logits),
        "reload": reload,
        "batch_of_one": difference(single_logits),
        "merge": difference(merged_logits),
    }
    if not differences["changes"]:
        remedy = "is it trained?" if base.spec.adapter else "train it longer, or check [lora]"
        raise ModelError(f"{base.spec.id}: the adapter does not change the base's logits; {remedy}")
    noise = max(tolerance, differences["batch_of_one"] or 0)  # as far as the batch size alone moves a logit
    if reload is not None and reload > noise:
        raise ModelError(
            f"{base.spec.id}: the adapter answers differently after reloading (a logit moved by "
            f"{reload:.3g}); check [lora].modules_to_save"
        )
    found: dict[str, Any] = {"probes": len(probes), "tolerance": tolerance, "differences": differences}
    moved = {name: None if value is None else value <= tolerance for name, value in differences.items()}
    holds = {"reload": None if reload is None else True}
    holds |= {name: moved[name] for name in ("batch_of_one", "merge")}
    holds |= {name: share <= SHARE for name, share in shares.items() if share is not None}
    found |= {"asked": len(asked), "shares": shares} if shares else {}
    return found | {"holds": holds} | ({} if before is None else {"restored": restored})


def _answers(base: Base, model: Any, asked: Sequence[Example], merge: bool) -> tuple[list[str], list[list[int]], str]:
    """The answers of a model, the token ids of each with its end, and the engine that gave them."""
    ids: dict[str, list[int]] = {}
    with TemporaryDirectory() as folder:
        notes = answers(base, model, asked, Path(folder), merge=merge, observe=lambda e, said: ids.update({e.id: said}))
        said = [prediction.answer for prediction in read_predictions(Path(folder), asked)]
    return said, [ids[example.id] for example in asked], notes["engine"]


@torch.no_grad()
def _differing_alone(
    base: Base, model: Any, asked: Sequence[Example], answered: Sequence[Sequence[int]], path: str
) -> float | None:
    """The share of answers in which a model, given the beginning alone, chooses another next token than in a batch.

    One pass over question and answer finds it, on the path that answered. None for images, and if `[generate]` has
    options that change the choice.
    """
    if base.processor or set(base.spec.generate) - OWN:
        return None
    rows = [[*prompt, *ids[:-1]] for prompt, ids in zip(encode_all(base, asked), answered)]
    alone = Alone(decode.Decoder(model, 1, max(map(len, rows)), merge=False)) if path == "captured" else None

    def chosen(row: list[int], last: int) -> list[int]:
        logits = alone.logits(row, last) if alone else model(**pad(base, [row]), logits_to_keep=last).logits[0]
        return logits.argmax(-1).tolist()

    return sum(chosen(row, len(ids)) != list(ids) for row, ids in zip(rows, answered)) / len(asked)
