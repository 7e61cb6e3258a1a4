"""Details that only the reports show, as plain JSON types: loss curves, parity, digests and a spec's options."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from prism.models.identity import engine
from prism.rows import Example
from prism.spec import Spec
from prism.store import hub, read_manifest
from prism.verdicts.record import Record


def details(
    spec: Spec,
    training: Sequence[Example],
    held_out: Sequence[Example],
    adapters: Mapping[int, Path],
    base: Mapping[str, str],
    evaluation: str,
) -> dict[str, Any]:
    """`adapters` maps training seeds to stored folders, `base` identifies the base model, `evaluation` is a digest."""
    notes = {str(seed): read_manifest(folder)["notes"] for seed, folder in adapters.items()}
    fitted = next(iter(notes.values()))  # the same for every seed
    return {
        "loss": {seed: note["loss"] for seed, note in notes.items() if "loss" in note},
        **_made(spec, adapters, notes),
        "parity": {seed: note["parity"] for seed, note in notes.items()},
        "data": {
            "source": spec.data.name or spec.data.path,
            **({"training": len(training)} if training else {}),
            "held_out": len(held_out),
            **_of_window(fitted),
            **hub.recorded("dataset", spec.data.path, spec.data.revision),
        },
        "digests": {
            "evaluation": evaluation,
            "base": base.get("bytes") or "{hub}@{revision}".format(**base),
            **_digests(spec, adapters),
        },
        "model": hub.recorded("model", spec.model.model_name, spec.model.revision),
        "engine": engine(spec),
        "options": {
            "model": spec.model.model_dump(exclude_none=True),
            **({} if spec.adapter else {"lora": spec.lora, "sft": spec.sft}),
            "generate": spec.generate,
        },
    }


def _made(spec: Spec, adapters: Mapping[int, Path], notes: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
    """How each seed's adapter was trained; or where a finished one comes from, and what it left unused of the spec."""
    separate = ("loss", "parity", "finished", "left_out", "cut")
    made = {seed: {k: v for k, v in note.items() if k not in separate} for seed, note in notes.items()}
    if not spec.adapter:
        return {"training": made}
    origin = read_manifest(next(iter(adapters.values())))["identity"]["finished"]
    revision = {"revision": origin["revision"]} if "revision" in origin else {}
    # Of [sft], these choose the device, the engine and the template; the rest is for training.
    used = {"use_cpu", "torch_compile", "chat_template_path"}
    unused = ["[lora]"] * bool(spec.lora) + ["[sft]"] * bool(set(spec.sft) - used)
    return {"adapter": {"source": spec.adapter, **revision, "loading": next(iter(made.values())), "unused": unused}}


def _digests(spec: Spec, adapters: Mapping[int, Path]) -> dict[str, Any]:
    by_seed = {str(seed): folder.name for seed, folder in adapters.items()}
    return {"adapter": next(iter(by_seed.values()))} if spec.adapter else {"adapters": by_seed}


def _of_window(note: Mapping[str, Any]) -> dict[str, Any]:
    """How many training rows do not fit the window, with the first ids; empty if all do."""
    named = {"without an answer in the window": note.get("left_out"), "with an answer cut off": note.get("cut")}
    return {key: f"{len(ids)}, first {', '.join(ids[:3])}" for key, ids in named.items() if ids}


def of_leaks(clean: Sequence[Record], dedupe: str | None, removed: int) -> dict[str, Any]:
    """The scores without leaked samples, and how many training rows `[data].dedupe` removed."""
    return {
        "dedupe": dedupe,
        "removed": removed,
        "clean": [
            {"metric": r.metric, "n": r.n, "baseline": asdict(r.baseline), "tuned": asdict(r.tuned)} for r in clean
        ],
    }


def enriched(
    samples: Sequence[dict[str, Any]],
    examples: Sequence[Example],
    lacking: Sequence[Sequence[list[str]]] | None,
    reasons: Mapping[str, dict[str, list[str]]],
    leaked: Mapping[str, dict[str, Any]],
) -> list[dict[str, Any]]:
    """The samples with what is known of each besides its scores.

    `lacking` are the terms that baseline and tuned answers lack, in the samples' order. By sample id: a judge's `reasons`,
    and the training rows that are like it. Images are named as in the store's folder of prepared ones.
    """
    lines = []
    for i, (sample, example) in enumerate(zip(samples, examples)):
        line = dict(sample)
        if lacking:
            line["missing"] = {name: terms[i] for name, terms in zip(("baseline", "tuned"), lacking)}
        if example.id in reasons:
            line["judge"] = reasons[example.id]
        line |= leaked.get(example.id, {})
        if example.images:
            line["images"] = [path.name for path in example.images]
        lines.append(line)
    return lines
