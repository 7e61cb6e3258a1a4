"""The tasks of one run on a cluster: hand them out, the longest first, tell what they do, and take what they made."""

from __future__ import annotations

import contextlib
import os
import threading
import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import cached_property
from typing import Any

from prism.cluster import carrying, joining, judging, node
from prism.cluster.joining import Nodes
from prism.cluster.node import Done, Order
from prism.cluster.plan import Looking, Missing, Needs, Task, longest_first, make, missing
from prism.devices import cuda_devices, use_elsewhere
from prism.errors import ClusterError, PrismError, first_line
from prism.experiment import Experiment
from prism.progress import EVERY
from prism.setting import Setting
from prism.spec import Spec

RETRIES = 2  # of a task whose node or process is lost; what it raises itself is final
LISTEN = 0.5  # seconds between two looks at what tasks tell
PATIENCE = 15.0  # seconds in which a cancelled task may end by itself
# Of this machine's environment, what changes where a task reads or how it computes.
CARRIED = ("PRISM_ENGINE", "HF_ENDPOINT", "HF_HUB_OFFLINE", "TORCHDYNAMO_DISABLE", "TRITON_INTERPRET")


class Cluster:
    """The connection of one pytest run. Nothing is imported or connected before a task is needed."""

    def __init__(self, address: str, setting: Setting) -> None:
        self.address, self.setting = address, setting
        self.tasks: dict[str, Task] = {}  # by name
        self.done: dict[str, Done] = {}
        self._refs: dict[Any, list[str]] = {}  # the tasks that a result ends
        self._by_artifact: dict[str, Any] = {}
        self._leading: dict[Any, str] = {}  # the other way round
        self._needs: dict[str, Needs] = {}  # by spec
        self._ungraded: dict[str, tuple[Task, list[int], list[str]]] = {}  # by spec, with its seeds and other tasks
        self._changed = threading.Condition()
        self._lines: list[str] = []
        self._stages: dict[str, tuple[str, str, int, int, str]] = {}
        self._stopping = False
        self._collector: threading.Thread | None = None

    @cached_property
    def nodes(self) -> Nodes:
        """The cluster, joined when it is first asked for. Raises ClusterError."""
        found = joining.join(self.address, self.setting)
        self.setting.screen.say(found.sentence())
        if not cuda_devices():  # by which digests and skips are decided
            use_elsewhere([card for each in found.nodes for card in each.cards])
            self.computes_elsewhere = cuda_devices() > 0
        return found

    computes_elsewhere = False  # whether this machine lacks the GPUs that the cluster has

    def begin(self, wanted: Sequence[tuple[Spec, list[int]]]) -> dict[str, Experiment]:
        """Start what the store lacks of these specs and seeds; returns their experiments, which make nothing yet.

        A spec whose task, rows or base cannot be read is left out: what is wrong with it is said where it is measured. Raises
        ClusterError, before anything is started, if the cluster cannot be used or no node is large enough.
        """
        looking = Looking(**vars(self.setting))
        experiments, tasks = {}, []
        for spec, seeds in wanted:
            with contextlib.suppress(Exception):
                experiment = Experiment(spec, looking, seeds)
                lacking = missing(experiment)
                if lacking:  # many specs' rows would fill the memory while the cluster works
                    vars(experiment).pop("examples", None)
                experiments[spec.id] = experiment
                tasks += lacking
                for task in judging.ungraded(experiment, lacking):
                    self._ungraded[spec.id] = task, seeds, [other.name for other in lacking]
        if tasks or self._ungraded:
            needed = {task.spec.id: self.nodes.require(task.spec) for task in tasks}
            self._needs |= needed
            for task in longest_first(tasks):
                self._submit(task)
            _ = self.nodes  # joins, also where only a judge has work
            self.tasks |= {task.name: task for task, _, _ in self._ungraded.values()}
            count = len(self._refs) + len(self._ungraded)
            self.setting.screen.say(f"{count} {'task' if count == 1 else 'tasks'} for the cluster")
            self._collector = threading.Thread(target=self._collect, name="prism-cluster", daemon=True)
            self._collector.start()
        return experiments

    @cached_property
    def _ray(self) -> Any:
        import ray

        return ray

    @cached_property
    def _board(self) -> Any:
        """On the node of this process, so that no other node's end loses it."""
        from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy as On

        here = On(self._ray.get_runtime_context().get_node_id(), soft=False)
        return self._ray.remote(node.Board).options(num_cpus=0, max_restarts=-1, scheduling_strategy=here).remote()

    @cached_property
    def _work(self) -> dict[bool, Any]:
        """The remote function, by whether it takes a GPU, whose process then ends with the task and gives it free."""
        plain = {"max_retries": RETRIES, "retry_exceptions": False}
        return {
            False: self._ray.remote(**plain)(node.work),
            True: self._ray.remote(**plain, num_gpus=1, max_calls=1)(node.work),
        }

    def _submit(self, task: Task) -> None:
        leader, need = self._by_artifact.get(task.makes), self._needs[task.spec.id]
        self.tasks[task.name] = task
        if task.seed is None and need.gpus:  # only a training may be spread
            need = replace(need, cpus=1, gpus=1)
        if leader is not None:  # two specs with one baseline, or with one recipe: it is made once
            self._refs[leader].append(task.name)
            return
        kind = self.nodes.kind(need) if need.gpus else ""
        order = self._order(task)
        ref = (
            self._work[bool(need.gpus)]
            .options(
                name=task.name,
                num_cpus=need.cpus,
                num_gpus=need.gpus,
                memory=need.memory or None,
                resources={kind: 0.001} if kind else None,
                runtime_env=self._environment({} if need.gpus else {"CUDA_VISIBLE_DEVICES": ""}),
            )
            .remote(order, self._board)
        )
        self._note(ref, task)

    def _note(self, ref: Any, task: Task) -> None:
        self._by_artifact[task.makes], self._leading[ref] = ref, task.makes
        self._refs[ref] = [task.name]

    def _environment(self, variables: Mapping[str, str]) -> dict[str, Any]:
        """Ray's runtime_env of a task. It is shown on Ray's dashboard, so it holds no secret."""
        own = {"OMP_NUM_THREADS": str(self.nodes.threads), **variables}
        own |= {name: os.environ[name] for name in CARRIED if name in os.environ}
        return {"env_vars": self.nodes.environment.get("env_vars", {}) | own}

    def _ask_judge(self) -> None:
        """Hand a judge the answers of the next spec that has them all.

        One spec after another: so the judge gets no more requests at once than from a local run, and the budget is one.
        What cannot be handed out is graded, or refused, where the spec is measured.
        """
        if any(self.tasks[first].grades for first, *_ in self._refs.values()):
            return
        complete = (each for each in self._ungraded.values() if all(name in self.done for name in each[2]))
        for task, seeds, others in list(complete):
            del self._ungraded[task.spec.id]
            try:
                if not any(self.done[name].error for name in others) and (ref := self._graded(task, seeds)):
                    self._note(ref, task)
                    return
            except Exception:  # noqa: BLE001, S110  # what is wrong is said where the spec is measured
                pass
            with self._changed:
                self.done[task.name] = Done("")
                self._changed.notify_all()

    def _graded(self, task: Task, seeds: list[int]) -> Any:
        """The result to come of a judge's task; None if only this process reaches the judge."""
        judge, nodes = self.setting.judge, self.nodes
        assert judge
        place = judging.place(judge[0], nodes)
        if place is None:
            return None
        asked, cases = judging.asked(task, seeds, judge, self.setting, nodes.shared)
        environment = self._environment({"CUDA_VISIBLE_DEVICES": ""})
        remote = self._ray.remote(max_retries=RETRIES, retry_exceptions=False)(node.judge)
        remote = remote.options(name=task.name, runtime_env=environment, **place)
        return remote.remote(asked, self._ray.put(cases), self._board, judge[0].key)

    def _order(self, task: Task) -> Order:
        setting, shared = self.setting, self.nodes.shared
        copied = "working_dir" in self.nodes.environment
        found = {} if shared else {name: self._sent(name) for name in task.found}
        origin, home = str(setting.root), setting.store.name
        return Order(
            task,
            "" if copied else origin,
            origin,
            home if shared else "",
            setting.data,
            setting.models,
            setting.retrain and not task.found,
            found,
        )

    def _sent(self, artifact: str) -> Any:
        return self._ray.put(carrying.pack(self.setting.store.home / artifact))

    def _collect(self) -> None:
        """A thread: take results as they come, also while this process scores, so that a node's end loses none."""
        ray = self._ray
        while not self._stopping:
            self._ask_judge()
            with self._changed:
                refs = list(self._refs)
            if not refs:
                return
            ready, _ = ray.wait(refs, num_returns=len(refs), timeout=LISTEN, fetch_local=False)
            taken = {ref: self._take(ref) for ref in ready}
            lines, stages = [], {}
            with contextlib.suppress(ray.exceptions.RayError):
                lines, stages = ray.get(self._board.fetch.remote(), timeout=10)
            with self._changed:
                self._lines += [line for _, line in lines]
                self._stages = stages
                for ref, done in taken.items():
                    self._settle(ref, done)
                self._changed.notify_all()

    def _settle(self, ref: Any, done: Done) -> None:
        """Note what became of a task, and hand out those that waited for what it makes, too.

        They have an adapter's answers left to make. Where the task failed they try by themselves: it may be its spec's.
        """
        first, *others = self._refs.pop(ref)
        self.done[first] = done
        made = self._leading.pop(ref)
        del self._by_artifact[made]
        if self.tasks[first].seed is None and not done.error:
            self.done |= dict.fromkeys(others, done)
            return
        for name in others:
            task = self.tasks[name]
            self._submit(task if done.error else replace(task, makes=f"answers of {name}", found=(made,)))

    def _take(self, ref: Any) -> Done:
        """The result of a task; what was carried is stored."""
        exceptions = self._ray.exceptions
        try:
            done: Done = self._ray.get(ref)
            for artifact, content in done.carried.items():
                carrying.unpack(artifact, content, self.setting.store)
            if judge := self.setting.judge:
                judge[1].spent += done.spent
                judge[1].retries += done.retries
                judging.keep(done.judged, [*done.grades], judge[0], self.setting.store)
        except PrismError as error:  # of the store
            return Done("", error=str(error))
        except exceptions.TaskCancelledError:
            return Done("", error="was cancelled")
        except exceptions.RayTaskError as error:  # what raised before or after the task's own work
            return Done("", error=first_line(error.cause or error), trace=str(error))
        except exceptions.RayError as error:
            return Done("", error=f"its process was lost {RETRIES + 1} times ({first_line(error)})")
        self.setting.made.update(self.setting.store.home / artifact for artifact in done.new)
        return replace(done, carried={}, judged=())

    def wait(self, experiment: Experiment) -> None:
        """Wait for a spec's tasks, and let its experiment find what they made.

        Raises ClusterError if one of them failed, or made something else than this machine looks for.
        """
        spec = experiment.spec
        names = [name for name, task in self.tasks.items() if task.spec.id == spec.id]
        if any(name not in self.done for name in names):
            self._draw(names)
        self._tell()
        for name in names:
            done = self.done[name]
            if done.trace:
                raise RuntimeError(f"{name} failed on {done.host or 'the cluster'}:\n{done.trace}")
            if done.error:
                raise ClusterError(f"{name}, on {done.host or 'the cluster'}: {done.error}")
        looking = Looking.of(self.setting)
        experiment.setting = looking
        for name in names:
            if self.tasks[name].grades:
                if grades := self.done[name].grades:
                    experiment.grades = dict(grades)
                continue
            try:
                make(experiment, self.tasks[name].seed)
            except Missing as lacking:
                raise ClusterError(
                    f"{name}: {self.done[name].host} made other artifacts than {lacking.artifact[:24]}, which this machine "
                    f"looks for; its rows, base or adapter differ, so make them the same on all machines"
                ) from None
        if not self.computes_elsewhere:
            experiment.setting = Setting(**vars(looking))

    def _tell(self) -> None:
        """Say what tasks told since it was last said, also those that ended while this process scored."""
        with self._changed:
            lines, self._lines = self._lines, []
        for line in lines:
            self.setting.screen.say(line)

    def _draw(self, names: Sequence[str]) -> None:
        """Show what the cluster does until these tasks are done."""
        screen, told = self.setting.screen, time.monotonic()
        total = len(self.tasks)
        with screen.progress(f"cluster, {len(self.nodes.nodes)} nodes: tasks", total) as advance:
            counted = 0
            while True:
                self._tell()
                with self._changed:
                    stages, count = dict(self._stages), len(self.done)
                    finished = all(name in self.done for name in names)
                if time.monotonic() - told > EVERY:
                    told = time.monotonic()
                    for host, what, steps, of, live in stages.values():
                        far = f" {steps} of {of}" if of else ""
                        screen.say(f"{what}:{far}{f', {live}' if live else ''} ({host})")
                shown = [f"{what} {steps}/{of}" if of else what for _, what, steps, of, _ in stages.values()]
                advance(count - counted, "; ".join(shown[:2]))
                counted = count
                if finished:
                    return
                with self._changed:
                    self._changed.wait(LISTEN)

    def stop(self) -> None:
        """Cancel what runs, keep what is done, and disconnect. Checkpoints and finished artifacts are in the store."""
        if "nodes" not in vars(self):
            return
        ray, self._stopping = self._ray, True
        if self._collector:
            self._collector.join(PATIENCE)
        refs = list(self._refs)
        with contextlib.suppress(ray.exceptions.RayError):
            for ref in refs:
                ray.cancel(ref)
            _, running = ray.wait(refs, num_returns=len(refs), timeout=PATIENCE) if refs else ([], [])
            for ref in running:
                ray.cancel(ref, force=True)
        ray.shutdown()
