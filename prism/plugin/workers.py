"""Parallel runs with pytest-xdist: one GPU per worker, one worker per spec, as many workers as GPUs.

Pin a worker before asking the driver for devices in it: the driver reads CUDA_VISIBLE_DEVICES only once.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from typing import Any

import pytest

from prism.devices import use_one_gpu
from prism.plugin.scheduling import sharded
from prism.spec import find_specs

DIED = "???"  # `when` of xdist's report for an item whose worker died
MEMORY_GIB = 4  # per worker: the need of a nano spec


def visible() -> list[str]:
    """The GPUs for workers, as named in CUDA_VISIBLE_DEVICES; the driver stops at the first unknown name."""
    from prism.devices import cuda_devices

    named = os.environ.get("CUDA_VISIBLE_DEVICES")
    return named.split(",")[: cuda_devices()] if named else [str(n) for n in range(cuda_devices())]


def automatic() -> int:
    """The workers of `-n auto`: the number of GPUs; without a GPU, as many as cores and memory allow."""
    import psutil

    if gpus := visible():
        return len(gpus)
    return max(1, min(os.cpu_count() or 1, int(psutil.virtual_memory().available / 2**30 / MEMORY_GIB)))


class Pins:
    """Assigns GPUs: a new worker gets the GPU with the fewest workers, so that of a dead worker is reused."""

    def __init__(self) -> None:
        self.gpus = visible()
        self.assigned: dict[str, str] = {}

    def take(self, worker: str) -> str | None:
        if not self.gpus:
            return None
        used = list(self.assigned.values())
        self.assigned[worker] = min(self.gpus, key=used.count)
        return self.assigned[worker]

    def give_back(self, worker: str) -> None:
        self.assigned.pop(worker, None)


def pin(config: pytest.Config) -> None:
    """Hide all GPUs but the one that the controller chose for this worker, or the first if there are no workers.

    Where a spec divides its base they stay, and the trainer is told to use one (`prism.models.train.sft_config`).
    """
    if hasattr(config, "workerinput"):
        gpu = config.workerinput.get("prism_gpu")
        if gpu is not None:
            os.environ["CUDA_VISIBLE_DEVICES"] = gpu
            os.environ.setdefault("OMP_NUM_THREADS", str(share_of_cores(config.workerinput["workercount"])))
    elif not config.getoption("tx", None) and not any(
        map(sharded, find_specs(config.rootpath / "benchmarks" / "specs"))
    ):
        use_one_gpu()


def share_of_cores(workers: int) -> int:
    """The threads of each of several workers that compute on GPUs: with all cores each, they wait for one another."""
    import psutil

    cores = psutil.Process().cpu_affinity() if hasattr(psutil.Process, "cpu_affinity") else range(os.cpu_count() or 1)
    return max(1, len(cores) // workers)


def scheduler(config: pytest.Config, log: Any, scope: Callable[[str], str]) -> Any:
    """A scheduler that keeps the items of one scope on one worker; xdist's `--dist loadgroup` does not do this."""
    from xdist.scheduler.loadscope import LoadScopeScheduling

    class BySpec(LoadScopeScheduling):
        def _split_scope(self, nodeid: str) -> str:
            return scope(nodeid)

        def remove_node(self, node: Any) -> str | None:
            """Fail a dead worker's spec. xdist would run it again on the next worker, which may die of it, too."""
            workload = self.assigned_work.pop(node)
            left = [(name, item) for name, unit in workload.items() for item, done in unit.items() if not done]
            if not left:
                return None
            lost, crashed = left[0]
            del workload[lost]
            self.workqueue.update({name: unit for name, unit in workload.items() if not all(unit.values())})
            reason = f"worker {node.gateway.id!r} died running {crashed!r}, which belongs to the same spec"
            for name, item in left[1:]:
                if name == lost:
                    _fail(config, node, item, reason)
            for other in self.assigned_work:
                self._reschedule(other)
            return crashed

        def _reschedule(self, node: Any) -> None:
            """Give each worker two items or shut it down: it needs the next item, or the end, to run one."""
            super()._reschedule(node)
            while self.workqueue and not node.shutting_down and self._pending_of(self.assigned_work[node]) < 2:
                self._assign_work_unit(node)
            if not self.workqueue and not node.shutting_down:
                node.shutdown()

    return BySpec(config, log)


def _fail(config: pytest.Config, node: Any, item: str, reason: str) -> None:
    file = item.partition("::")[0]
    report = pytest.TestReport(item, (file, None, file), {}, "failed", reason, DIED)  # type: ignore[arg-type]
    report.node = node  # type: ignore[attr-defined]
    config.hook.pytest_runtest_logreport(report=report)


def scope(nodeid: str, specs: Sequence[str]) -> str:
    """The group that must share a worker: the items of the same file and spec, or of the file if there is no spec."""
    file, _, rest = nodeid.partition("::")
    parameters = rest.partition("[")[2].removesuffix("]")
    for name in sorted(specs, key=len, reverse=True):
        if parameters == name or parameters.startswith(f"{name}-"):
            return f"{file}[{name}]"
    return file
