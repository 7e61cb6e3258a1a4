"""What does storage far away cost? `prism store ls` and a cached run, beside the same of a local folder.

The store has 10,000 artifacts, in a folder and in a real S3 server on loopback that takes 20 ms for each request. The
target: at most 1.5 times the local store's time. Each time is a process's from start to end, the least of several, and
the server counts the requests. What moto itself computes (about .3 s for a page of a listing) is no part of the 20 ms, so
it is told apart. Needs the cluster extra and moto.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
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
    """The seconds of a process, those in which the server itself was busy, and the requests by method."""

    seconds: float
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


def timed(command: list[str], environment: dict[str, str]) -> float:
    """The seconds of a process."""
    began = time.perf_counter()
    done = subprocess.run(command, env=os.environ | environment, cwd=ROOT, capture_output=True, text=True, check=False)
    if done.returncode not in (0, 1):  # 1: a gate of so few rows may fail
        raise SystemExit(f"{' '.join(command)}\n{done.stdout}\n{done.stderr}")
    return time.perf_counter() - began


def least(command: list[str], environment: dict[str, str], server: Server, times: int) -> Figure:
    """The least seconds of a command, with what the server did meanwhile."""
    found = []
    for _ in range(times):
        server.requests.clear()
        server.busy = 0.0
        seconds = timed(command, environment)
        asked = " ".join(f"{n} {method}" for method, n in sorted(server.requests.items()))
        found.append(Figure(seconds, server.busy, asked or "none"))
    return min(found, key=lambda figure: figure.seconds - figure.busy)


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
        print(f"a run to cache: {timed(run, {'PRISM_HOME': str(home)}):.0f} s", flush=True)
        fill(home, asked.artifacts)
        url = f"s3://{server.bucket()}/team"
        there = server.environment | {"PRISM_HOME": url, "PRISM_CACHE": str(work / "cache")}
        here = {"PRISM_HOME": str(home)}
        server.delay = asked.delay
        copying = timed([*PRISM, "copy", str(home), url], there)
        print(f"copied: {copying:.0f} s, {server.requests.total():,} requests", flush=True)
        folder = {"ls": least([*PRISM, "ls"], here, server, asked.times), "run": least(run, here, server, asked.times)}
        far = {"ls": least([*PRISM, "ls"], there, server, asked.times)}
        caches = [there | {"PRISM_CACHE": str(work / f"cold-{number}")} for number in range(asked.times)]
        cold = [least(run, cache, server, 1) for cache in caches]
        far["run, no cache yet"] = min(cold, key=lambda figure: figure.seconds - figure.busy)
        far["run"] = least(run, caches[0], server, asked.times)
    rows = [
        (what, local.seconds, figure.seconds, figure.busy, (figure.seconds - figure.busy) / local.seconds, figure.asked)
        for what, figure in far.items()
        for local in [folder[what.partition(",")[0]]]
    ]
    headers = ["", "folder, s", "S3, s", "of which moto, s", "ratio without moto", "requests"]
    print(tabulate(rows, headers=headers, floatfmt=".2f", tablefmt="github"))


if __name__ == "__main__":
    main()
