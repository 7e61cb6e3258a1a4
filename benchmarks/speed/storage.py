"""What does storage far away cost? `prism store ls` and a cached run, beside the same of a local folder.

The store has 10,000 artifacts, in a folder and in a real S3 server on loopback that takes 20 ms for each request. The
target: at most 1.5 times the local store's time. Each time is a process's from start to end, the least of several, and
the server counts the requests. `cold` is a machine that has no cache yet. Needs the cluster extra and moto.
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
from pathlib import Path

from tabulate import tabulate

from prism.store import MANIFEST, digest
from tests.cluster.s3 import Server, serving

ROOT = Path(__file__).resolve().parents[2]
PRISM = [sys.executable, "-m", "prism", "store"]
PYTEST = [sys.executable, "-m", "pytest", "benchmarks", "-q", "--prism-profile", "nano", "--prism-spec", "phase1/nano"]


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


def least(command: list[str], environment: dict[str, str], server: Server | None, times: int) -> tuple[float, str]:
    """The least seconds of a command, and the requests of its last call by method."""
    seconds = []
    for _ in range(times):
        if server:
            server.requests.clear()
        seconds.append(timed(command, environment))
    return min(seconds), " ".join(f"{n} {method}" for method, n in sorted(server.requests.items())) if server else "–"


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
        cold_seconds, cold_requests = [], ""
        for number in range(asked.times):
            cold = there | {"PRISM_CACHE": str(work / f"cold-{number}")}
            seconds, cold_requests = least(run, cold, server, 1)
            cold_seconds.append(seconds)
        least(run, there, server, 1)
        local_ls, _ = least([*PRISM, "ls"], here, None, asked.times)
        far_ls, ls_requests = least([*PRISM, "ls"], there, server, asked.times)
        local_run, _ = least(run, here, None, asked.times)
        far_run, run_requests = least(run, there, server, asked.times)
    rows = [
        ("prism store ls", local_ls, far_ls, far_ls / local_ls, ls_requests),
        ("a cached run", local_run, far_run, far_run / local_run, run_requests or "none"),
        ("a cached run, cold", local_run, min(cold_seconds), min(cold_seconds) / local_run, cold_requests),
    ]
    print(tabulate(rows, headers=["", "folder, s", "S3, s", "ratio", "requests"], floatfmt=".2f", tablefmt="github"))


if __name__ == "__main__":
    main()
