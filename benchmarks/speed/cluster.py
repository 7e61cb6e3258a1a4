"""What does a cluster cost beside `-n 2`? Eight nano adapters each way, on one machine; or two adapters on two GPUs.

    python -m benchmarks.speed.cluster                  # needs the extra `cluster`; best on an idle machine of two cores
    python -m benchmarks.speed.cluster --gpus 2 --data DIR --models DIR [--spec phase3/qwen2.5-1.5b]     # and --gpus 1 --way cluster

The specs are phase1/nano with eight learning rates, on --rows training and held-out rows. `-n 2` has two workers, the
cluster two nodes on loopback with one core each, and every process one thread. With GPUs it is a published recipe, phase 2's,
whole, with two seeds of its own (other splits, so that nothing is shared), first one after the other on one GPU, and the cluster
is one node that has all GPUs; the folders are as --prism-data and --prism-models (`python -m benchmarks.speed.end_to_end
--folder` makes them). The ways take turns. Seconds are those of pytest from its start to its end; CPU seconds are of all
processes of a way, Ray's own included, and depend less on what else the machine does. The cluster is started before, as a
user's is.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import re
import resource
import shutil
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parent.parent.parent
NANO, PUBLISHED = "phase1/nano", "phase2/qwen2.5-1.5b"
WAYS = ALONE, WORKERS, CLUSTER = "alone", "workers", "cluster"  # one after the other, -n 2, --prism-cluster
SMALL = {"num_cpus": 1, "object_store_memory": 100 * 2**20}


@dataclass
class Work:
    """Specs that differ in the learning rate, on GPUs in the seed, too; the options and environment of each of their runs."""

    spec: str
    adapters: int
    options: list[str]
    environment: dict[str, str]
    alone: str = ""  # CUDA_VISIBLE_DEVICES of what runs on one GPU

    def checkout(self, folder: Path) -> None:
        """A project in `folder` that has nothing but these specs and their phase."""
        phase, _, name = self.spec.partition("/")
        (benchmark,) = (ROOT / "benchmarks").glob(f"test_{phase}_*.py")
        for file in (ROOT / "conftest.py", ROOT / "pyproject.toml", benchmark):
            (folder / file.relative_to(ROOT)).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(file, folder / file.relative_to(ROOT))
        (folder / "fixtures").symlink_to(ROOT / "fixtures")
        specs = folder / "benchmarks" / "specs" / phase
        specs.mkdir(parents=True)
        source = ROOT / "benchmarks" / "specs" / f"{self.spec}.toml"
        text = source.read_text(encoding="utf-8").partition("\n[gate")[0]
        for number in range(self.adapters):
            own = re.sub("learning_rate = .*", f"learning_rate = {(10 + number) * 1e-4:.1e}", text)
            own = re.sub("^seed .*", f"seed = {42 + number}", own, flags=re.MULTILINE) if self.alone else own
            (specs / f"{name}-{number}.toml").write_text(own, encoding="utf-8")

    def run(self, folder: Path, home: str, *options: str, alone: bool = False) -> float:
        """The seconds of one pytest run, with a store of its own."""
        command = [sys.executable, "-m", "pytest", "benchmarks", "-q", "-m", self.spec.partition("/")[0]]
        command += ["--prism-home", str(folder / home), *self.options, *options]
        environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT), *sys.path[1:]]), **self.environment}
        environment |= {"CUDA_VISIBLE_DEVICES": self.alone} if alone else {}
        start = time.perf_counter()
        done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, check=False)
        seconds = time.perf_counter() - start
        made = len(list((folder / home).glob("adapters/*/manifest.json")))
        if made != self.adapters:
            raise SystemExit(f"{home}: {made} of {self.adapters} adapters were made\n{done.stdout}\n{done.stderr}")
        return seconds


def files(home: Path) -> dict[str, Any]:
    """The checksums of every adapter's files."""
    manifests = sorted(home.glob("adapters/*/manifest.json"))
    return {path.parent.name: json.loads(path.read_text(encoding="utf-8"))["files"] for path in manifests}


def of_children() -> float:
    """CPU seconds of the processes that this one has started and that have ended."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


class Watched(threading.Thread):
    """CPU seconds of a cluster's processes, looked at twice a second: Ray takes no account of those that have ended."""

    def __init__(self, cluster: Any) -> None:
        super().__init__(daemon=True)
        started = [each for node in cluster.list_all_nodes() for some in node.all_processes.values() for each in some]
        self.roots = [each.process.pid for each in started]
        self.spent: dict[int, float] = {}
        self.ended = threading.Event()

    def look(self) -> None:
        import psutil

        for root in self.roots:
            with contextlib.suppress(psutil.Error):
                for each in (psutil.Process(root), *psutil.Process(root).children(recursive=True)):
                    with contextlib.suppress(psutil.Error):
                        times = each.cpu_times()
                        self.spent[each.pid] = times.user + times.system

    def run(self) -> None:
        while not self.ended.wait(0.5):
            self.look()

    def since(self, before: Mapping[int, float]) -> float:
        return sum(seconds - before.get(pid, 0.0) for pid, seconds in self.spent.items())


def tell(way: str, found: dict[str, list[tuple[float, float]]]) -> None:
    seconds, cpu = found[way][-1]
    print(f"turn {len(found[way])}: {way}: {seconds:.0f} s, {cpu:.0f} CPU seconds", flush=True)


def work_of(given: argparse.Namespace) -> Work:
    if not given.gpus:
        own = ["--prism-profile", "nano", "--prism-limit", str(given.rows)]
        return Work(NANO, 8, own, {"OMP_NUM_THREADS": "1"})
    own = ["--prism-profile", "full", "--prism-data", str(given.data), "--prism-models", str(given.models)]
    first = os.environ.get("CUDA_VISIBLE_DEVICES", "0").partition(",")[0]
    return Work(given.spec, 2, own, {}, first)


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.speed.cluster", description=__doc__)
    parser.add_argument("--rows", type=int, default=300, help="of the nano specs")
    parser.add_argument("--turns", type=int, default=2)
    parser.add_argument("--gpus", type=int, default=0, help="two adapters on so many GPUs")
    parser.add_argument("--spec", default=PUBLISHED, help="with --gpus: the recipe")
    parser.add_argument("--way", action="append", choices=WAYS, help="only these (repeatable)")
    parser.add_argument("--data", type=lambda path: Path(path).resolve(), help="with --gpus")
    parser.add_argument("--models", type=lambda path: Path(path).resolve(), help="with --gpus")
    given = parser.parse_args()
    work = work_of(given)
    os.environ |= work.environment
    nodes = [{"num_cpus": 8 * given.gpus, "num_gpus": given.gpus}] if given.gpus else [SMALL, SMALL]
    ways = given.way or (WAYS if given.gpus else WAYS[1:])
    found: dict[str, list[tuple[float, float]]] = {way: [] for way in ways}
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        work.checkout(folder)
        for turn in range(given.turns):
            for way, options in ((ALONE, []), (WORKERS, ["-n", "2"])):
                if way in ways:
                    start = of_children()
                    seconds = work.run(folder, f"{way}-{turn}", *options, alone=way == ALONE)
                    found[way].append((seconds, of_children() - start))
                    tell(way, found)
            if CLUSTER not in ways:
                continue
            from ray.cluster_utils import Cluster

            cluster = Cluster(initialize_head=True, head_node_args={"include_dashboard": False, **nodes[0]})
            for further in nodes[1:]:
                cluster.add_node(**further)
            try:
                watched, own = Watched(cluster), of_children()
                watched.look()
                before = dict(watched.spent)
                watched.start()
                seconds = work.run(folder, f"{CLUSTER}-{turn}", "--prism-cluster", cluster.address)
                found[CLUSTER].append((seconds, watched.since(before) + of_children() - own))
                tell(CLUSTER, found)
            finally:
                watched.ended.set()
                cluster.shutdown()
            if WORKERS in ways and files(folder / f"{WORKERS}-{turn}") != files(folder / f"{CLUSTER}-{turn}"):
                if not given.gpus:
                    raise SystemExit("the adapters of the two ways differ")
                print("the adapters of the two ways differ", flush=True)  # a GPU adds up in any order
    wall, cpu = ({way: statistics.median(each[i] for each in pairs) for way, pairs in found.items()} for i in (0, 1))
    what = work.spec if given.gpus else f"{given.rows} rows"
    print(f"{work.adapters} adapters of {what}, median of {given.turns} turns")
    for measure, by_way in (("seconds", wall), ("CPU seconds", cpu)):
        print(f"{measure}: " + ", ".join(f"{way} {spent:.0f}" for way, spent in by_way.items()))
        if {WORKERS, CLUSTER} <= by_way.keys():
            plain, ray = by_way[WORKERS], by_way[CLUSTER]
            lost = (ray - plain) / (work.adapters + 1) * (2 if measure == "seconds" else 1)  # two tasks at once
            print(f"the cluster: {100 * (ray / plain - 1):+.0f} %, {lost:+.1f} a task")
    for way in WAYS[1:]:
        if {way, ALONE} <= wall.keys():
            print(f"{way}: {wall[way] / wall[ALONE]:.2f} of {ALONE}")


if __name__ == "__main__":
    main()
