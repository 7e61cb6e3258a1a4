"""How long does a cluster take for 1,000 specs and 8 seeds, beside the least that it could take? And what does Ray do?

    python -m benchmarks.simulation.cluster                     # the graph on simulated GPUs: seconds
    python -m benchmarks.simulation.cluster --ray 9000 90000    # so many tasks that do nothing, through a real Ray

The tasks, their order and what hands them out are `prism.cluster`'s own. Durations are those that the shipped specs of the
profile state for a GPU (`requires.minutes`), or those of the records of runs (`--records reports/latest/results.json`):
the clock of a run that made everything, else the seconds of its stages. The order knows the stated minutes alone, and a
task takes them times a lognormal factor. A GPU takes the first task that waits, as Ray does for tasks of equal needs. The least possible is the larger of the sum
over all GPUs and the longest task.
"""

from __future__ import annotations

import argparse
import heapq
import json
import math
import os
import random
import statistics
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from prism.cluster.plan import BASELINE_SHARE, Task, longest_first
from prism.spec import Spec, find_specs, load_spec

ROOT = Path(__file__).parent.parent.parent
GPUS = 512
SPREAD = 0.3  # of the logarithm of a duration around what its spec states
OVERHEAD = 3.0  # seconds a task, the most that benchmarks.speed.cluster allows
SEED = 42
# Parts of a record's clock: what pytest's process does, what each task does, and the baseline's, by its stages' names, too.
DRIVER = ("scores and verdicts", "total")
EACH = ("rows", "importing the libraries", "loading the base", "rows in the window")
BASELINE = ("answers, baseline", "baseline", "label likelihoods")


def durations(profile: str, records: Sequence[Path]) -> list[tuple[Spec, float, float]]:
    """Specs with the seconds of their baseline and of one seed's adapter and answers."""
    specs = [load_spec(path) for path in find_specs(ROOT / "benchmarks" / "specs")]
    if not records:
        stated = [
            (spec, 60 * spec.requires.minutes) for spec in specs if spec.profile == profile and spec.requires.minutes
        ]
        return [(spec, BASELINE_SHARE * seconds, (1 - BASELINE_SHARE) * seconds) for spec, seconds in stated]
    by_id, found = {spec.id: spec for spec in specs}, []
    for path in records:
        for cost in json.loads(path.read_text(encoding="utf-8"))["cost"]:
            spec = by_id.get(f"{cost['phase']}/{cost['spec']}")
            if spec and (taken := recorded(cost)):
                found.append((spec, *taken))
    return found


def recorded(cost: dict[str, Any]) -> tuple[float, float] | None:
    """The seconds of the baseline's task and of one seed's, by a run's record; None if it trained nothing.

    By its clock, where nothing was cached: rows, imports and the base are read by each task. Else by its stages alone.
    """
    clock = {} if cost.get("cached") else {part: s for part, s in cost.get("clock", {}).items() if part not in DRIVER}
    seconds = clock or cost["seconds"]
    by_all = sum(seconds.get(part, 0.0) for part in EACH)
    first = sum(seconds.get(part, 0.0) for part in BASELINE)
    seeds = len([part for part in seconds if part.startswith("training")])
    return (by_all + first, by_all + (sum(seconds.values()) - by_all - first) / seeds) if seeds else None


def graph(
    known: Sequence[tuple[Spec, float, float]], specs: int, seeds: int, spread: float
) -> list[tuple[Task, float]]:
    """A baseline a spec and an adapter a seed, with the seconds that each takes."""
    chance, tasks = random.Random(SEED), []
    for number in range(specs):
        spec, first, each = known[number % len(known)]
        renamed = spec.model_copy(update={"name": f"{spec.name}-{number}"})
        for seed in (None, *range(seeds)):
            factor = chance.lognormvariate(-(spread**2) / 2, spread)
            seconds = (first if seed is None else each) * factor + OVERHEAD
            tasks.append((Task(renamed, seed, f"adapters/{number}-{seed}"), seconds))
    return tasks


def makespan(seconds: Sequence[float], gpus: int) -> float:
    """When the last task ends, where each GPU that is free takes the next one."""
    free = [0.0] * min(gpus, len(seconds))
    for each in seconds:
        heapq.heapreplace(free, free[0] + each)
    return max(free)


def simulated(known: Sequence[tuple[Spec, float, float]], specs: int, seeds: int, gpus: int) -> str:
    """One row of the table."""
    tasks = graph(known, specs, seeds, SPREAD)
    took = {task.makes: seconds for task, seconds in tasks}
    least = max(sum(took.values()) / gpus, max(took.values()))
    ours = makespan([took[task.makes] for task in longest_first(task for task, _ in tasks)], gpus)
    shuffled = list(took.values())
    by_chance = []
    for number in range(10):
        random.Random(number).shuffle(shuffled)
        by_chance.append(makespan(shuffled, gpus))
    share = f"{100 * (ours / least - 1):.1f} %"
    unordered = f"{100 * (statistics.mean(by_chance) / least - 1):.1f} %"
    hours = [f"{value / 3600:.2f}" for value in (least, ours)]
    return f"| {specs:,} × {seeds} | {gpus} | {len(tasks):,} | {' | '.join(hours)} | {share} | {unordered} |"


def nothing(order: Any, board: Any) -> Any:
    from prism.cluster.node import Done

    return Done("nowhere")


def through_ray(count: int, workers: int) -> str:
    """Hand out tasks that do nothing, as `prism.cluster.running` does, and measure this process and Ray's."""
    import psutil
    import ray
    from ray.cluster_utils import Cluster as Loopback

    from prism.cluster.joining import Node, Nodes
    from prism.cluster.plan import Needs
    from prism.cluster.running import Cluster
    from prism.progress import CONSOLE
    from prism.setting import Setting
    from prism.store import Store

    head = {"num_cpus": workers, "object_store_memory": 100 * 2**20, "include_dashboard": False}
    loopback = Loopback(initialize_head=True, head_node_args=head)
    try:
        ray.init(loopback.address, log_to_driver=False, logging_level="ERROR")
        cluster = Cluster(loopback.address, Setting(ROOT, Store(Path("/nonexistent")), CONSOLE))
        here = Node("", "here", workers, 0, math.inf, "", (), "", True, True, "installed")
        environment = {"env_vars": {"PYTHONPATH": str(ROOT)}}
        vars(cluster)["nodes"] = Nodes((here,), 1, True, environment)
        vars(cluster)["_work"] = {False: ray.remote(nothing)}
        tasks = [task for task, _ in graph(durations("full", ()), math.ceil(count / 9), 8, SPREAD)][:count]
        process = psutil.Process()
        cluster._needs |= {task.spec.id: Needs(1, 0, 0, 0.0) for task in tasks}
        before, start = process.memory_info().rss, time.perf_counter()
        for task in longest_first(tasks):
            cluster._submit(task)
        submitted, memory = time.perf_counter() - start, process.memory_info().rss - before
        refs = list(cluster._refs)
        start = time.perf_counter()
        ray.wait(refs, num_returns=len(refs), timeout=0, fetch_local=False)
        look = time.perf_counter() - start
        cluster._collect()
        took = time.perf_counter() - start
        most = process.memory_info().rss - before
        servers = [each for each in psutil.process_iter(["name", "memory_info"]) if each.info["name"] == "gcs_server"]
        gcs = max((each.info["memory_info"].rss for each in servers), default=0)
        assert len(cluster.done) == len(tasks)
    finally:
        ray.shutdown()
        loopback.shutdown()
    mib = [f"{value / 2**20:,.0f}" for value in (memory, most, gcs)]
    return f"| {len(tasks):,} | {len(refs):,} | {submitted:.1f} | {1e3 * look:.0f} | {took:.1f} | {' | '.join(mib)} |"


def lines(options: argparse.Namespace) -> Iterator[str]:
    if options.ray:
        yield "| tasks | objects of the driver | submitted in, s | one look, ms | all done in, s | driver then, MiB | driver most, MiB | GCS, MiB |"
        yield "|---:" * 8 + "|"
        for count in options.ray:
            yield through_ray(count, options.workers)
        return
    known = durations(options.profile, options.records)
    source = (
        ", ".join(map(str, options.records))
        or f"requires.minutes of the {len(known)} shipped specs of {options.profile}"
    )
    yield f"Durations: {source}; spread {SPREAD:g}, {OVERHEAD:g} s a task, seed {SEED}"
    yield ""
    yield "| specs × seeds | GPUs | tasks | least, h | longest first, h | above the least | in any order |"
    yield "|---:" * 7 + "|"
    for specs, seeds, gpus in options.cases:
        yield simulated(known, specs, seeds, gpus)


def case(text: str) -> tuple[int, int, int]:
    specs, seeds, gpus = map(int, text.split("x"))
    return specs, seeds, gpus


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.simulation.cluster", description=__doc__)
    several = [(1000, 8, GPUS), (1000, 1, GPUS), (64, 8, GPUS), (40, 8, 8), (40, 8, 64), (1, 8, 8)]
    parser.add_argument("--cases", type=case, nargs="+", default=several, metavar="SPECSxSEEDSxGPUS")
    parser.add_argument("--profile", default="full", help="whose shipped specs state the durations")
    parser.add_argument("--records", type=Path, nargs="+", default=(), metavar="RESULTS.json")
    parser.add_argument("--ray", type=int, nargs="+", default=(), metavar="TASKS")
    parser.add_argument("--workers", type=int, default=2, help="processes that take the tasks that do nothing")
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    for line in lines(parser.parse_args()):
        print(line, flush=True)


if __name__ == "__main__":
    sys.exit(main())
