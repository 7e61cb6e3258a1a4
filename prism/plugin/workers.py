"""Parallel runs with pytest-xdist: one GPU a worker, one worker a spec, as many workers as there are GPUs.

Nothing here may ask the driver for its devices in a worker before that worker is pinned: the driver reads
CUDA_VISIBLE_DEVICES once.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from typing import Any

import pytest

DIED = "???"  # when xdist says that an item failed whose worker died
MEMORY_GIB = 4  # what a nano spec asks for, a worker


def visible() -> list[str]:
    """The GPUs that workers may have, as CUDA_VISIBLE_DEVICES names them; the driver stops at a name it does not know."""
    from prism.devices import cuda_devices

    named = os.environ.get("CUDA_VISIBLE_DEVICES")
    return named.split(",")[: cuda_devices()] if named else [str(n) for n in range(cuda_devices())]


def automatic() -> int:
    """What `-n auto` means: the number of GPUs; without one, as many workers as cores and memory carry."""
    import psutil

    if gpus := visible():
        return len(gpus)
    return max(1, min(os.cpu_count() or 1, int(psutil.virtual_memory().available / 2**30 / MEMORY_GIB)))


class Pins:
    """Which worker has which GPU: a new worker gets the one that the fewest have, so a dead one's is used again."""

    def __init__(self) -> None:
        self.gpus = visible()
        self.held: dict[str, str] = {}

    def take(self, worker: str) -> str | None:
        if not self.gpus:
            return None
        taken = list(self.held.values())
        self.held[worker] = min(self.gpus, key=taken.count)
        return self.held[worker]

    def give_back(self, worker: str) -> None:
        self.held.pop(worker, None)


def pin(config: pytest.Config) -> None:
    """First of all: see no GPU but the one that the controller chose for this worker, without workers the first."""
    if hasattr(config, "workerinput"):
        gpu = config.workerinput.get("prism_gpu")
        if gpu is not None:
            os.environ["CUDA_VISIBLE_DEVICES"] = gpu
    elif not config.getoption("tx", None):
        alone()


def alone() -> None:
    """This process takes one GPU: transformers' trainer would share each batch among all that it sees."""
    os.environ["CUDA_VISIBLE_DEVICES"] = os.environ.get("CUDA_VISIBLE_DEVICES", "0").partition(",")[0]


def scheduler(config: pytest.Config, log: Any, scope: Callable[[str], str]) -> Any:
    """A scheduler that keeps the items of one scope on one worker. xdist's own `--dist loadgroup` does not group."""
    from xdist.scheduler.loadscope import LoadScopeScheduling

    class BySpec(LoadScopeScheduling):
        def _split_scope(self, nodeid: str) -> str:
            return scope(nodeid)

        def remove_node(self, node: Any) -> str | None:
            """xdist would run a dead worker's spec again on the next worker, which may die of it, too: it fails here."""
            workload = self.assigned_work.pop(node)
            left = [(name, item) for name, unit in workload.items() for item, done in unit.items() if not done]
            if not left:
                return None
            lost, crashed = left[0]
            del workload[lost]
            self.workqueue.update({name: unit for name, unit in workload.items() if not all(unit.values())})
            reason = f"worker {node.gateway.id!r} died of {crashed!r}, whose spec this item belongs to"
            for name, item in left[1:]:
                if name == lost:
                    _fail(config, node, item, reason)
            for other in self.assigned_work:
                self._reschedule(other)
            return crashed

        def _reschedule(self, node: Any) -> None:
            """A worker runs an item once it knows the next one, or that there is none: xdist may leave it with one."""
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
    """What an item stays together with: the items of its file and spec; without a spec, those of its file."""
    file, _, rest = nodeid.partition("::")
    parameters = rest.partition("[")[2].removesuffix("]")
    for name in sorted(specs, key=len, reverse=True):
        if parameters == name or parameters.startswith(f"{name}-"):
            return f"{file}[{name}]"
    return file
