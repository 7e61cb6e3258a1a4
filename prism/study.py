"""Phase 4: a vision-language model taken apart. Parts, visual tokens, time, LoRA placement, attention, blank pictures.

What can be checked is a test item (benchmarks/test_phase4_architecture.py); all of it is a section of the report.
"""

from __future__ import annotations

import json
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import Any

from prism.experiment import Experiment
from prism.models.identity import NOT_IDENTIFYING, engine
from prism.rows import Example
from prism.rows.answers import read_predictions
from prism.rows.images import blank, image_digests, image_size
from prism.store import read_manifest, write_text
from prism.store.provenance import versions
from prism.verdicts.scoring import score

VERSION = 1  # raise it if the same model and pictures give other findings
PLACEMENTS = ("language", "projector", "tower", "all")
PROBES = 8  # pictures that time, attention and blank pictures are measured on
OVERLAID = 2  # pictures whose attention is drawn


class Study:
    """The findings on one spec. What trains or answers goes through `Experiment`, so the store keeps it."""

    def __init__(self, experiment: Experiment) -> None:
        self.experiment = experiment
        self.spec, self.setting = experiment.spec, experiment.setting

    @cached_property
    def found(self) -> dict[str, Any]:
        """Everything, in plain JSON types: `anatomy` of the untuned model, and one row a placement."""
        return {"anatomy": self.anatomy, "placements": self.placements}

    @cached_property
    def probes(self) -> list[Example]:
        """Held-out examples with different pictures."""
        by_group = {example.group: example for example in reversed(self.experiment.examples.held_out)}
        return list(by_group.values())[:PROBES]

    @cached_property
    def anatomy(self) -> dict[str, Any]:
        """Of the untuned model; measured once for the same model and pictures."""
        spec, base = self.spec, self.experiment.base
        identity = {
            "kind": "anatomy",
            "version": VERSION,
            "base": base.identity,
            "model": spec.model.model_dump(exclude=NOT_IDENTIFYING),
            "pictures": [[example.messages, image_digests(example)] for example in self.probes],
            "engine": engine(spec),
            "versions": versions(("torch", "transformers")),
        }

        def work(folder: Path) -> dict[str, Any]:
            with self.setting.screen.progress(f"{spec.id}: anatomy of {spec.model.model_name}"):
                findings = self._dissect()
            write_text(folder / "anatomy.json", json.dumps(findings))
            return {}

        folder = self.setting.make("studies", identity, work)
        return json.loads((folder / "anatomy.json").read_text(encoding="utf-8"))

    def _dissect(self) -> dict[str, Any]:
        from prism.models import anatomy, cost, vision

        base = self.experiment.base.load()
        token = _image_token(base)
        prompts = [vision.inputs(base, [example]) for example in self.probes]
        sizes = [image_size(example.images[0]) for example in self.probes]
        batch = vision.inputs(base, self.probes)
        blanks = [replace(example, images=tuple(map(blank, example.images))) for example in self.probes]
        moved = anatomy.shift(base.model, batch, vision.inputs(base, blanks))
        findings = {
            "parameters": anatomy.parameters(base.model),
            "tokens": [
                {
                    "width": width,
                    "height": height,
                    "counted": int((prompt["input_ids"] == token).sum()),
                    "formula": anatomy.visual_tokens(base.model.config, width, height),
                }
                for prompt, (width, height) in zip(prompts, sizes)
            ],
            "seconds": anatomy.forward_seconds(base.model, batch),
            "memory_gib": cost.resident_gib(),
            # How far the next-token probabilities move if the picture is blank.
            "blank": {"mean": sum(moved) / len(moved), "least": min(moved), "most": max(moved)},
            "attention": self._attention(base.model, prompts, token),
        }
        self.experiment.base.free()  # its attention is eager now
        return findings

    def _attention(self, model: Any, prompts: list[dict[str, Any]], token: int) -> dict[str, Any]:
        from prism.models import anatomy

        maps, by_layer = [], []
        for example, prompt in zip(self.probes, prompts):
            layers, places = anatomy.attention_on_image(model, prompt, token)
            by_layer.append(layers)
            rows, columns = anatomy.grid(len(places), *image_size(example.images[0]))
            maps.append({"image": example.images[0].name, "rows": rows, "columns": columns, "mass": places})
        mean = [sum(layer) / len(layer) for layer in zip(*by_layer)]
        questions = [example.question for example in self.probes[:OVERLAID]]
        return {"by_layer": mean, "maps": [m | {"question": q} for m, q in zip(maps, questions)]}

    @cached_property
    def placements(self) -> list[dict[str, Any]]:
        """LoRA on each part alone and on all: what is trained, what it costs, what it gains over the baseline.

        Empty for a finished adapter, whose spec trains nothing.
        """
        if self.spec.adapter:
            return []
        found = []
        for placement in PLACEMENTS:
            spec = self.spec.model_copy(update={"lora": {**self.spec.lora, "placement": placement}})
            experiment = Experiment(spec, self.setting, self.experiment.seeds[:1], self.experiment.examples)
            held_out = experiment.examples.held_out
            (folder,) = experiment.tuned.values()
            before, after = (
                [said.answer for said in read_predictions(part, held_out)] for part in (experiment.baseline, folder)
            )
            record = score(spec, experiment.task.metrics[:1], held_out, "", before, {spec.seed: after}, {})[0]
            notes = read_manifest(experiment.adapters[self.experiment.seeds[0]])["notes"]
            experiment.base.free()
            found.append(
                {
                    "placement": placement,
                    "trainable": notes["trainable"],
                    "parameters": notes["parameters"],
                    "seconds": notes["seconds"],
                    "peak_memory_gib": notes["peak_memory_gib"],
                    "moved": notes["moved"],
                    "metric": record.metric,
                    "n": record.n,
                    "baseline": record.baseline.value,
                    "tuned": record.tuned.value,
                    "gain": {"value": record.gain.value, "ci": list(record.gain.ci), "rule": record.gain.rule},
                }
            )
        return found


def _image_token(base: Any) -> int:
    return int(base.processor.tokenizer.convert_tokens_to_ids(base.processor.image_token))
