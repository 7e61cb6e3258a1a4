"""The commit, machine and library versions of a run, read without importing a model library."""

from __future__ import annotations

import os
import platform
import subprocess
import sys
from collections.abc import Sequence
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from prism import __version__
from prism.devices import cuda_devices
from prism.store import digest, file_digest


def provenance(root: Path, packages: Sequence[str]) -> dict[str, Any]:
    """The commit, whether its tree had changes, the tree's digest, versions and the machine, as JSON types."""
    return {
        "commit": _git(root, "rev-parse", "HEAD"),
        "tree": source_tree(root),
        "dirty": _is_dirty(root),
        "python": platform.python_version(),
        "versions": {"prism": __version__} | versions((*packages, "deepeval", "scikit-learn", "pytest")),
        "machine": machine(),
    }


@cache
def machine() -> dict[str, Any]:
    """System, processor, cores, memory and GPUs with their driver, as JSON types."""
    import psutil

    return {
        "system": platform.platform(),
        "processor": processor(),
        "cores": os.cpu_count(),
        "memory_gib": round(psutil.virtual_memory().total / 2**30, 1),
        "gpus": _gpus(),
    }


def _is_dirty(root: Path) -> bool | None:
    """Whether files differ from the commit or are not in it; None if git cannot say.

    Files in reports/ do not change results, so that accepting one run leaves the tree of the next one clean. Nor does
    compiled Python, which pytest writes beside each benchmark.
    """
    where = ("--", ":/", ":(exclude)reports", ":(exclude,glob)**/__pycache__/**")
    status = _git(root, "status", "--porcelain", "--untracked-files=all", "--ignore-submodules=none", *where)
    marked = _git(root, "ls-files", "-v", *where)  # lower case: assumed unchanged; S: never looked at
    if status is None or marked is None:
        return None
    return bool(status) or any(line[0].islower() or line[0] == "S" for line in marked.splitlines())


def _git(root: Path, *arguments: str) -> str | None:
    try:
        result = subprocess.run(["git", *arguments], cwd=root, capture_output=True, text=True, timeout=60, check=True)
    except (OSError, subprocess.SubprocessError, UnicodeDecodeError):
        return None
    return result.stdout.strip()


@cache
def processor() -> str:
    """The name of this machine's processor."""
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


@cache
def installed() -> list[str]:
    """All installed packages, by the names of their metadata's folders: `torch-2.13.0.dist-info`.

    These hold names and versions; to open each of some hundred folders takes a tenth of a second.
    """
    return sorted({found.name for folder in sys.path for found in Path(folder).glob("*.*-info")})


def versions(packages: Sequence[str]) -> dict[str, str]:
    """Installed versions; packages that are not installed are left out."""
    return {package: found for package in packages if (found := _version(package))}


@cache
def _version(package: str) -> str | None:
    """The installed version; every identity names some, and each look-up reads a file."""
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def source_tree(root: Path) -> str:
    """SHA-256 of PRISM's code and of a checkout's benchmarks, specs and makers, read without git.

    Rows and weights are not part of it: they have digests of their own.
    """
    folders = (root / "benchmarks", root / "fixtures")
    found = [file for folder in folders for file in folder.rglob("*") if file.suffix in (".py", ".toml")]
    files = [file for file in (*found, root / "conftest.py", root / "pyproject.toml") if file.is_file()]
    own = {file.relative_to(root).as_posix(): file_digest(file) for file in sorted(files)}
    return digest({"prism": own_source(), **own})


@cache
def own_source() -> str:
    """SHA-256 of PRISM's own code and lexicons."""
    package = Path(__file__).parent.parent
    files = sorted(file for file in package.rglob("*") if file.suffix in (".py", ".txt", ".j2"))  # .txt: the lexicons
    return digest({str(file.relative_to(package)): file_digest(file) for file in files})
