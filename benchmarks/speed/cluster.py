"""What does a cluster cost beside `-n 2`? Eight nano adapters each way, on one machine.

    python -m benchmarks.speed.cluster                  # needs the extra `cluster`; best on an idle machine of two cores

The eight specs are phase1/nano with eight learning rates, on --rows training and held-out rows. `-n 2` has two workers, the
cluster two nodes on loopback with one core each, and every process one thread. The ways take turns. Seconds are those of
pytest from its start to its end; CPU seconds are of all processes of a way, Ray's own included, and depend less on what
else the machine does. The cluster is started before, as a user's is.
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
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parent.parent.parent
ADAPTERS = 8
SPEC = "benchmarks/specs/phase1/nano.toml"
SMALL = {"num_cpus": 1, "object_store_memory": 100 * 2**20}


def checkout(folder: Path) -> None:
    """Phase 1 with eight specs that differ in the learning rate."""
    for name in ("conftest.py", "pyproject.toml", "benchmarks/test_phase1_financial_sentiment.py"):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(ROOT / name, folder / name)
    (folder / "fixtures").symlink_to(ROOT / "fixtures")
    specs = folder / "benchmarks" / "specs" / "phase1"
    specs.mkdir(parents=True)
    text = (ROOT / SPEC).read_text(encoding="utf-8").partition("\n[gate")[0]
    for number in range(ADAPTERS):
        rate = f"learning_rate = {(10 + number) * 1e-4:.1e}"
        (specs / f"nano-{number}.toml").write_text(re.sub("learning_rate = .*", rate, text), encoding="utf-8")


def run(folder: Path, name: str, rows: int, *options: str) -> float:
    """The seconds of one pytest run, with a store of its own."""
    command = [sys.executable, "-m", "pytest", "benchmarks", "-q", "-m", "phase1", "--prism-profile", "nano"]
    command += ["--prism-limit", str(rows), "--prism-home", str(folder / name), *options]
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    start = time.perf_counter()
    done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, check=False)
    seconds = time.perf_counter() - start
    made = len(list((folder / name).glob("adapters/*/manifest.json")))
    if made != ADAPTERS:
        raise SystemExit(f"{name}: {made} of {ADAPTERS} adapters were made\n{done.stdout}\n{done.stderr}")
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


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.speed.cluster", description=__doc__)
    parser.add_argument("--rows", type=int, default=300)
    parser.add_argument("--turns", type=int, default=2)
    options = parser.parse_args()
    from ray.cluster_utils import Cluster

    os.environ["OMP_NUM_THREADS"] = "1"
    head = {"include_dashboard": False, **SMALL}
    found: dict[str, list[tuple[float, float]]] = {"-n 2": [], "--prism-cluster": []}
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        checkout(folder)
        for turn in range(options.turns):
            start = of_children()
            seconds = run(folder, f"workers-{turn}", options.rows, "-n", "2")
            found["-n 2"].append((seconds, of_children() - start))
            tell("-n 2", found)
            cluster = Cluster(initialize_head=True, head_node_args=head)
            cluster.add_node(**SMALL)
            try:
                watched, own = Watched(cluster), of_children()
                watched.look()
                before = dict(watched.spent)
                watched.start()
                seconds = run(folder, f"cluster-{turn}", options.rows, "--prism-cluster", cluster.address)
                found["--prism-cluster"].append((seconds, watched.since(before) + of_children() - own))
                tell("--prism-cluster", found)
            finally:
                watched.ended.set()
                cluster.shutdown()
            if files(folder / f"workers-{turn}") != files(folder / f"cluster-{turn}"):
                raise SystemExit("the adapters of the two ways differ")
    wall, cpu = ({way: statistics.median(each[i] for each in pairs) for way, pairs in found.items()} for i in (0, 1))
    print(f"{ADAPTERS} adapters of {options.rows} rows, median of {options.turns} turns, the same bytes both ways")
    for what, by_way in (("seconds", wall), ("CPU seconds", cpu)):
        plain, ray = by_way["-n 2"], by_way["--prism-cluster"]
        lost = (ray - plain) / (ADAPTERS + 1) * (2 if what == "seconds" else 1)  # two tasks at once
        print(
            f"{what}: {plain:.0f} with -n 2, {ray:.0f} on the cluster: {100 * (ray / plain - 1):+.0f} %, {lost:+.1f} a task"
        )


if __name__ == "__main__":
    main()
