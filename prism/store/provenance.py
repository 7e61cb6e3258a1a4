"""Where a run happened: commit, machine, libraries. Asked without importing a model library."""

from __future__ import annotations

import os
import platform
import subprocess
from collections.abc import Sequence
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from prism.devices import cuda_devices
from prism.store import digest, file_digest


def provenance(root: Path, packages: Sequence[str]) -> dict[str, Any]:
    """Commit and whether the tree had changes, versions, and the machine, as plain JSON types."""
    import psutil

    return {
        "commit": _git(root, "rev-parse", "HEAD"),
        # What lies in reports/ does not change what is measured: accepting one run leaves the next one's tree clean.
        "dirty": bool(_git(root, "status", "--porcelain", "--", ":/", ":(exclude)reports")),
        "python": platform.python_version(),
        "versions": versions(("prism-bench", *packages, "deepeval", "scikit-learn", "pytest")),
        "machine": {
            "system": platform.platform(),
            "processor": _processor(),
            "cores": os.cpu_count(),
            "memory_gib": round(psutil.virtual_memory().total / 2**30, 1),
            "gpus": _gpus(),
        },
    }


def _git(root: Path, *words: str) -> str | None:
    try:
        done = subprocess.run(["git", *words], cwd=root, capture_output=True, text=True, timeout=10, check=True)
    except (OSError, subprocess.SubprocessError):
        return None
    return done.stdout.strip()


def _processor() -> str:
    try:
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    except OSError:
        pass
    return platform.processor() or platform.machine()


def _gpus() -> list[str]:
    if not cuda_devices():
        return []
    try:
        query = ["nvidia-smi", "--query-gpu=name,memory.total,driver_version", "--format=csv,noheader"]
        return subprocess.run(query, capture_output=True, text=True, timeout=10, check=True).stdout.strip().splitlines()
    except (OSError, subprocess.SubprocessError):
        return [f"{cuda_devices()} CUDA device(s)"]


def versions(packages: Sequence[str]) -> dict[str, str]:
    """Installed versions; a package that is not installed is left out."""
    found = {}
    for package in packages:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            continue
    return found


@cache
def own_source() -> str:
    """The digest of PRISM's own code and lexicons."""
    package = Path(__file__).parent.parent
    files = sorted(file for file in package.rglob("*") if file.suffix in (".py", ".txt"))  # .txt: the lexicons
    return digest({str(file.relative_to(package)): file_digest(file) for file in files})
