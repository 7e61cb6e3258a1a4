"""What of an experiment the store lacks, as tasks, and what each task needs of a node. Nothing is computed here."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from prism.errors import ClusterError
from prism.experiment import Experiment
from prism.models import cost
from prism.models.identity import engine
from prism.setting import Setting
from prism.spec import Spec
from prism.store import digest

KINDS = ("adapters", "predictions")  # what tasks make; all else is small and made where it is asked for
BASELINE_SHARE = 0.25  # of a spec's minutes, its baseline's: it only decides the order


class Missing(ClusterError):
    """An artifact that the store lacks, where nothing may be made."""

    def __init__(self, artifact: str) -> None:
        super().__init__(
            f"{artifact[:24]}: no task of the cluster makes this; run pytest without --prism-cluster on a machine that can"
        )
        self.artifact = artifact


class Looking(Setting):
    """A setting that finds adapters and answers and makes none: it raises `Missing` for the first that is not there."""

    @classmethod
    def of(cls, setting: Setting) -> Looking:
        """The same setting, which takes what is there even where the run makes everything anew."""
        return cls(**(vars(setting) | {"retrain": False}))

    def make(
        self, kind: str, identity: Mapping[str, Any], work: Callable[[Path], dict], *, again: bool = False
    ) -> Path:
        if kind not in KINDS:
            return super().make(kind, identity, work, again=again)
        if not again and (found := self.store.find(kind, identity)):
            return found
        raise Missing(f"{kind}/{digest(identity)}")


@dataclass(frozen=True)
class Task:
    """One piece of work: the base's answers (`seed` is None), the adapter of one seed and its answers, or judgements."""

    spec: Spec
    seed: int | None
    makes: str  # the first artifact that is missing, kind/digest; equal for tasks that do the same first
    found: tuple[str, ...] = ()  # the artifacts before it, which a node without the store needs
    grades: bool = False  # a judge's, of all answers of the spec

    @property
    def name(self) -> str:
        if self.grades:
            return f"{self.spec.id} judgements"
        return f"{self.spec.id} {'baseline' if self.seed is None else f'seed {self.seed}'}"

    @property
    def minutes(self) -> float:
        """The expected duration, by the spec's `requires.minutes`; unknown ones count as the longest."""
        return (self.spec.requires.minutes or math.inf) * (BASELINE_SHARE if self.seed is None else 1)


def longest_first(tasks: Iterable[Task]) -> list[Task]:
    """The order in which tasks are handed out, so that no long one begins when all others end."""
    return sorted(tasks, key=lambda task: -task.minutes)


def make(experiment: Experiment, seed: int | None) -> list[Path]:
    """Every artifact of a task: found, or made where the experiment's setting makes any."""
    held_out = experiment.examples.held_out
    if seed is None:
        answered = experiment.answers(held_out, None, "baseline")  # which makes the likelihoods by the same reading
        labelled = experiment.likelihoods
        return [answered, *([labelled] if labelled else [])]
    folder = experiment.adapter(seed)
    made = [folder, experiment.answers(held_out, folder, cost.named("tuned", seed, experiment.spec))]
    if asked := [example for examples in experiment.asked_by_control.values() for example in examples]:
        made.append(experiment.answers(asked, folder, cost.named("controls", seed, experiment.spec)))
    return made


def missing(experiment: Experiment) -> list[Task]:
    """The tasks of an experiment whose setting is `Looking`. Raises PrismError for rows or a base that cannot be read."""
    tasks = []
    for seed in (None, *experiment.seeds):
        try:
            make(experiment, seed)
        except Missing as lacking:
            tasks.append(Task(experiment.spec, seed, lacking.artifact, _before(experiment, seed)))
    return tasks


def _before(experiment: Experiment, seed: int | None) -> tuple[str, ...]:
    """What is there of a task: its adapter, where only answers are missing."""
    if seed is None:
        return ()
    try:
        folder = experiment.adapter(seed)
    except Missing:
        return ()
    return (f"{folder.parent.name}/{folder.name}",)


@dataclass(frozen=True)
class Needs:
    """What a task takes of a node: cores, GPUs, bytes of memory, and the GiB that its GPU must have."""

    cpus: int
    gpus: int
    memory: int
    vram: float


def needs(spec: Spec, threads: int) -> Needs:
    """By `requires` and `[launch]`, and the device that the engine takes where the cluster's GPUs are known."""
    memory, vram = int((spec.requires.memory_gb or 0) * 2**30), spec.requires.vram_gb or 0
    processes = spec.launch.processes
    if engine(spec)["device"] == "cuda" or vram:
        return Needs(processes, processes, memory, vram)
    return Needs(threads * processes, 0, memory, vram)
