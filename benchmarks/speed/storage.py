"""What does storage far away cost? `prism store ls` and a cached run, beside the same of a local folder.

The store has 10,000 artifacts, in a folder and in a real S3 server on loopback that takes 20 ms for each request. The
target: at most 1.5 times the local store's time. Each time is a process's from start to end, the least of several, and
the server counts the requests. What moto itself computes (about .3 s for a page of a listing) is no part of the 20 ms, so
it is told apart. Needs the cluster extra and moto, and minutes for the first copy.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

from tabulate import tabulate

from prism.store import MANIFEST, digest
from tests.cluster.s3 import Server, serving

ROOT = Path(__file__).resolve().parents[2]
PRISM = [sys.executable, "-m", "prism", "store"]
PYTEST = [sys.executable, "-m", "pytest", "benchmarks", "-q", "--prism-profile", "nano", "--prism-spec", "phase1/nano"]


@dataclass(frozen=True)
class Figure:
    """The seconds of a process, those of its processor, those that the server itself took, and the requests by method."""

    seconds: float
    processor: float
    busy: float
    asked: str


def fill(home: Path, artifacts: int) -> None:
    """Small artifacts, as `Store.make` leaves them, but not each written to the disk."""
    for number in range(artifacts):
        identity, content = {"number": number}, f"{number}".encode()
        folder = home / "tables" / digest(identity)
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "value.json").write_bytes(content)
        files = {"value.json": hashlib.sha256(content).hexdigest()}
        manifest = {"kind": "tables", "identity": identity, "files": files, "notes": {}}
        (folder / MANIFEST).write_text(json.dumps({**manifest, "check": digest(manifest)}, indent=1))


def timed(command: list[str], environment: dict[str, str], server: Server) -> Figure:
    """What a process cost."""
    server.requests.clear()
    server.busy = 0.0
    before, began = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter()
    done = subprocess.run(command, env=os.environ | environment, cwd=ROOT, capture_output=True, text=True, check=False)
    seconds, after = time.perf_counter() - began, resource.getrusage(resource.RUSAGE_CHILDREN)
    if done.returncode:
        raise SystemExit(f"{' '.join(command)}\n{done.stdout}\n{done.stderr}")
    processor = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    asked = " ".join(f"{n} {method}" for method, n in sorted(server.requests.items()))
    return Figure(seconds, processor, server.busy, asked or "none")


def least(figures: list[Figure]) -> Figure:
    return min(figures, key=lambda figure: figure.seconds - figure.busy)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--artifacts", type=int, default=10_000)
    parser.add_argument("--delay", type=float, default=0.02, help="seconds a request")
    parser.add_argument("--times", type=int, default=3)
    parser.add_argument("--home", type=Path, help="a folder to fill and keep, so that the next call finds its run")
    asked = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary, serving() as server:
        work = Path(temporary)
        home = asked.home or work / "home"
        run = [*PYTEST, "--prism-report", str(work / "reports")]
        here = {"PRISM_HOME": str(home)}
        print(f"a run to cache: {timed(run, here, server).seconds:.0f} s", flush=True)
        fill(home, asked.artifacts)
        url = f"s3://{server.bucket()}/team"
        there = server.environment | {"PRISM_HOME": url, "PRISM_CACHE": str(work / "cache")}
        server.delay = asked.delay
        copying = timed([*PRISM, "copy", str(home), url], there, server)
        print(f"copied: {copying.seconds:.0f} s, {copying.asked}", flush=True)
        found: dict[str, list[Figure]] = {}
        for number in range(asked.times):  # side by side, since the load of a machine changes
            cache = there | {"PRISM_CACHE": str(work / f"cache-{number}")}
            for name, command, environment in (
                ("ls, folder", [*PRISM, "ls"], here),
                ("ls, S3", [*PRISM, "ls"], there),
                ("cached run, folder", run, here),
                ("cached run, S3, on a new machine", run, cache),
                ("cached run, S3", run, cache),
            ):
                found.setdefault(name, []).append(timed(command, environment, server))
    best = {name: least(figures) for name, figures in found.items()}
    rows = [
        (name, each.seconds, each.processor, each.busy, (each.seconds - each.busy) / of_folder.seconds, each.asked)
        for name, each in best.items()
        for of_folder in [best[f"{name.partition(',')[0]}, folder"]]
    ]
    headers = ["", "s", "of processor", "of moto's own", "without moto, ÷ folder", "requests"]
    print(tabulate(rows, headers=headers, floatfmt=".2f", tablefmt="github"))


if __name__ == "__main__":
    main()
