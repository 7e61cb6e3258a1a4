"""What a reviewer reads first: base model and recipe of each spec, date and commit, and what changed since the accepted run."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from prism.report import words
from prism.report.findings import commit
from prism.untrusted import visible
from prism.verdicts.record import Result, Run

CHANGES = 4  # of the training side, in one line
LENGTH = 60  # characters of one value


def when(run: Run) -> str:
    """Date and commit of the run."""
    begun = re.match(r"(\d{4})(\d\d)(\d\d)-(\d\d)(\d\d)", run.id)
    date = "{}-{}-{} {}:{}".format(*begun.groups()) if begun else ""
    return " · ".join(filter(None, (date, commit(run))))


def recipe(result: Result) -> str:
    """The base model, what was trained on it, and how, in one line."""
    options = result.details.get("options")
    if not options:
        return ""
    model, lora, sft = (options.get(table) or {} for table in ("model", "lora", "sft"))
    parts = [_base(model)]
    if finished := result.details.get("adapter"):
        parts.append(f"finished adapter {_short(finished['source'])}")
    else:
        parts += [_lora(lora), *_training(sft)]
        if seeds := result.seeds:
            parts.append(f"{'seed' if len(seeds) == 1 else 'seeds'} {', '.join(seeds)}")
    return " · ".join(filter(None, parts))


def _base(model: Mapping[str, Any]) -> str:
    if not model.get("model_name"):
        return ""
    bits = next((bits for bits in (4, 8) if model.get(f"load_in_{bits}bit")), None)
    revision = f"@{str(model['revision'])[:8]}" if model.get("revision") else ""
    return f"{_short(model['model_name'])}{revision}" + (f" in {bits} bits" if bits else "")


def _lora(lora: Mapping[str, Any]) -> str:
    if "r" not in lora:
        return ""
    alpha = f", alpha {lora['lora_alpha']}" if "lora_alpha" in lora else ""
    modules, placement = lora.get("target_modules"), lora.get("placement")
    where = f" on {len(modules)} projections" if isinstance(modules, list) else ""
    if placement:
        where = f" in {', '.join(placement)}"
    return f"LoRA r = {lora['r']}{alpha}{where}"


def _training(sft: Mapping[str, Any]) -> list[str]:
    """How long, at which rate, how many rows a step."""
    epochs, steps, rate = sft.get("num_train_epochs"), sft.get("max_steps"), sft.get("learning_rate")
    batch = sft.get("per_device_train_batch_size")
    parts = [words.count(steps, "step")] if steps else []
    if epochs and not steps:
        parts = [f"{epochs:g} {'epoch' if epochs == 1 else 'epochs'}"]
    if rate:
        parts.append(f"learning rate {rate:g}")
    if batch:
        parts.append(f"{batch * sft.get('gradient_accumulation_steps', 1)} rows a step")
    return parts


def since(result: Result) -> str:
    """What changed since the accepted run; how the training sides differ, and how many samples flipped."""
    accepted = result.details.get("reference")
    if not accepted:
        return ""
    changed = [f"{key} {_short(old)} → {_short(new)}" for key, old, new in accepted["differences"]]
    if len(changed) > CHANGES:
        changed[CHANGES - 1 :] = [f"{len(changed) - CHANGES + 1} other differences"]
    told = "; ".join(changed) or "the same recipe"
    if flipped := accepted["flipped"]:
        counts = flipped["counts"]
        told += f"; {counts['worse']:,} samples worse and {counts['better']:,} better by {flipped['metric']}"
    origin = accepted["origin"]
    source = ", ".join(
        filter(
            None, (origin.get("date", ""), f"commit {str(origin.get('commit') or '')[:8]}" * bool(origin.get("commit")))
        )
    )
    return f"since the accepted run{f' ({source})' if source else ''}: {told}"


def _short(value: object) -> str:
    return visible(words.NOTHING if value in (None, "") else value, LENGTH)
