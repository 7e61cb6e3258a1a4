"""What only the reports show of a spec, in plain JSON types: loss curves, parity, digests, the options as given."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from prism.models.identity import engine
from prism.rows import Example
from prism.spec import Spec
from prism.store import read_manifest
from prism.verdicts.record import Record


def details(
    spec: Spec,
    training: Sequence[Example],
    held_out: Sequence[Example],
    adapters: Mapping[int, Path],
    base: Mapping[str, str],
    evaluation: str,
) -> dict[str, Any]:
    """`adapters` are stored folders by training seed, `base` is the base's identity, `evaluation` its digest."""
    notes = {str(seed): read_manifest(folder)["notes"] for seed, folder in adapters.items()}
    apart = ("loss", "parity")
    return {
        "loss": {seed: note["loss"] for seed, note in notes.items() if "loss" in note},
        "training": {seed: {k: v for k, v in note.items() if k not in apart} for seed, note in notes.items()},
        "parity": {seed: note["parity"] for seed, note in notes.items()},
        "data": {
            "source": spec.data.name or spec.data.path,
            "training": len(training),
            "held_out": len(held_out),
        },
        "digests": {
            "evaluation": evaluation,
            "base": base.get("bytes") or "{hub}@{revision}".format(**base),
            "adapters": {str(seed): folder.name for seed, folder in adapters.items()},
        },
        "engine": engine(spec),
        "options": {
            "model": spec.model.model_dump(exclude_none=True),
            "lora": spec.lora,
            "sft": spec.sft,
            "generate": spec.generate,
        },
    }


def of_leaks(clean: Sequence[Record], dedupe: str | None, removed: int) -> dict[str, Any]:
    """The scores without leaked samples, and how many training rows `[data].dedupe` removed."""
    return {
        "dedupe": dedupe,
        "removed": removed,
        "clean": [
            {"metric": r.metric, "n": r.n, "baseline": asdict(r.baseline), "tuned": asdict(r.tuned)} for r in clean
        ],
    }
