"""A judge's grades as tasks: what of a spec is ungraded, what its task is sent, and where it runs."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from prism.cluster.joining import Nodes
from prism.cluster.node import Asked
from prism.cluster.plan import Looking, Task
from prism.experiment import Experiment
from prism.judge import Case, ledger
from prism.judge.choosing import Choice
from prism.judge.grading import estimate, judgement_identity
from prism.judge.tier3 import Judge
from prism.setting import Setting
from prism.store import Store


def ungraded(experiment: Experiment, lacking: Sequence[Task]) -> list[Task]:
    """The task of a judge, if it has anything to grade: answers that are still to be made, or that it never graded.

    A model in a folder of this machine is asked where the tests run.
    """
    setting, spec = experiment.setting, experiment.spec
    if setting.judge is None or setting.judge[0].kind == "local" or not experiment.task.judged:
        return []
    if not lacking:
        definitions, cases = experiment.judged()
        for definition in definitions:
            ledger.gather(setting.store, judgement_identity(setting.judge[0], definition))
        if not any(estimate(setting.judge[0], each, cases, setting.store).requests for each in definitions):
            return []
    return [Task(spec, None, f"judgements of {spec.id}", grades=True)]


def asked(task: Task, seeds: list[int], judge: Judge, setting: Setting, shared: bool) -> tuple[Asked, list[Case]]:
    """What the task is sent, but for the judge's key. All answers must be in the store."""
    choice, spending = judge
    definitions, cases = Experiment(task.spec, Looking.of(setting), seeds).judged()
    identities = [judgement_identity(choice, definition) for definition in definitions]
    known = () if shared else tuple(ledger.lines(setting.store, identity) for identity in identities)
    home = setting.store.name if shared else ""
    return Asked(task, replace(choice, key=""), definitions, spending, home, known), cases


def place(choice: Choice, nodes: Nodes) -> dict[str, Any] | None:
    """Ray's options of the task: one core of any node, or this machine for a server on it. None: this is no node."""
    import ray
    from ray.util.client import ray as client
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy as On

    if not choice.is_here:
        return {"num_cpus": min(1, max(node.cpus for node in nodes.nodes))}
    if client.is_connected():
        return None
    return {"num_cpus": 0, "scheduling_strategy": On(ray.get_runtime_context().get_node_id(), soft=False)}


def keep(made: Sequence[bytes], asked_for: Sequence[Any], choice: Choice, store: Store) -> None:
    """Store the judgements that travelled, by definition."""
    for definition, content in zip(asked_for, made):
        ledger.receive(store, judgement_identity(choice, definition), content)
