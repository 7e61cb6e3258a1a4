"""What can run on this machine: the profile, a spec's needs, free resources. This module loads no model library."""

from __future__ import annotations

import contextlib
import importlib.util
import re
import shutil
import tomllib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from prism.devices import cuda_devices, cuda_fault, cuda_memory
from prism.errors import ResourceError, SpecError
from prism.rows.parts import is_hub_id, stand_in
from prism.spec import PROFILES, Spec

MOST_RANGE = 1_000  # seeds of a range or list
MOST_SEEDS = 20  # a larger --prism-seeds is probably meant as a seed


def choose_profile(asked: str | None, specs: Sequence[Path] = ()) -> tuple[str, str]:
    """The profile and the reason: the requested one, else the only one of the specs' files.

    Of several, it is full if there are a GPU and the gpu extra, else nano.
    """
    if asked:
        return asked, "--prism-profile"
    if len(only := {profile for path in specs if (profile := _profile(path))}) == 1:
        return only.pop(), "the only one of these specs"
    if not cuda_devices():
        return "nano", cuda_fault() or "no CUDA device"
    if importlib.util.find_spec("bitsandbytes") is None:
        return "nano", "a CUDA device without the gpu extra: pip install 'pytest-prism[gpu]'"
    return "full", f"{cuda_devices()} CUDA device(s) and the gpu extra"


def _profile(path: Path) -> str | None:
    """The profile that a spec's file names; None if it cannot be read."""
    named = _written(path).get("profile")
    return named if isinstance(named, str) and named in PROFILES else None


def sharded(path: Path) -> bool:
    """Whether a spec's file divides its base among GPUs, on all of which together the base is asked."""
    options = _written(path, holding="fsdp").get("sft")
    return isinstance(options, dict) and bool(options.get("fsdp"))


def _written(path: Path, holding: str = "") -> dict[str, Any]:
    """What is in a spec's file, unchecked, if it holds a word; nothing if it cannot be read, which is said where specs are read."""
    with contextlib.suppress(OSError, ValueError, RecursionError):
        text = path.read_text(encoding="utf-8")
        return tomllib.loads(text) if holding in text else {}
    return {}


def resources(spec: Spec, home: Path) -> list[tuple[str, bool]]:
    """Needed and free memory and disk: a sentence for each, and whether it is enough."""
    import psutil

    existing = next(folder for folder in (home, *home.parents) if folder.exists())
    free = {
        "memory": (spec.requires.memory_gb, psutil.virtual_memory().available / 2**30),
        f"disk at {existing}": (spec.requires.disk_gb, shutil.disk_usage(existing).free / 2**30),
    }
    return [
        (f"needs {need:g} GiB of {what}, and {have:.1f} GiB are free", have >= need)
        for what, (need, have) in free.items()
        if need
    ]


def require(spec: Spec, home: Path) -> None:
    """Raise ResourceError if the machine lacks the memory or disk that a spec needs."""
    for line, enough in resources(spec, home):
        if not enough:
            raise ResourceError(f"{spec.id}: {line}; free some, choose a smaller spec, or lower [requires]")


def lacking(spec: Spec, root: Path, data: Path | None, gpus: Sequence[tuple[str, float]] | None = None) -> str:
    """Why a spec cannot run here, without loading anything; empty if it can.

    `gpus` are those that may run it, by default all that this process sees.
    """
    if need := spec.requires.vram_gb:
        if not cuda_devices():
            why = cuda_fault()
            return f"needs a CUDA device with {need:g} GiB, and there is none" + (f" ({why})" if why else "")
        gpus = gpus or cuda_memory()
        name, total = min(gpus, key=lambda gpu: gpu[1])
        if total < 0.95 * need:  # the nominal GiB of a GPU are slightly more than its real ones
            others = "; name the larger ones in CUDA_VISIBLE_DEVICES" if len(gpus) > 1 else ""
            return f"needs a GPU with {need:g} GiB, and {name} has {total:.1f}{others}"
    # A nano spec runs without a network, unless it names rows that only the hub has.
    if spec.profile == "nano" and spec.data.name and is_hub_id(spec.data.path, root) and not stand_in(spec, data):
        return (
            f"its rows are not bundled; pass --prism-data DIR with the folder {spec.data.name}/, or delete [data].name "
            f"to download them"
        )
    return ""


def limited(spec: Spec, rows: int | None) -> Spec:
    """The spec of a smoke run, --prism-limit: with at most `rows` held-out and `rows` training rows."""
    if rows is None:
        return spec
    fewer = {"eval_rows": min(rows, spec.data.eval_rows or rows)}
    if spec.has_training_rows:
        fewer["train_rows"] = min(rows, spec.data.train_rows or rows)
    return spec.model_copy(update={"data": spec.data.model_copy(update=fewer)})


def training_seeds(asked: str, first: int) -> list[int]:
    """The training seeds: "5" is five seeds from the spec's own on; "47-51" and "42,47-49" are exactly these.

    The split always uses the spec's own seed.
    """
    if len(asked) > 1_000:
        raise SpecError(f"--prism-seeds {asked[:20]}…: has {len(asked):,} characters; write a range (47-51)")
    if asked.isdecimal() and int(asked) > MOST_SEEDS:
        raise SpecError(
            f"--prism-seeds {asked}: is a count, and would train {asked} adapters per spec; write {asked}-{asked} for "
            f"seed {asked} alone, or a range for that many"
        )
    if asked.isdecimal() and int(asked) > 0:
        return list(range(first, first + int(asked)))
    parts = [re.fullmatch(r"(\d+)(?:-(\d+))?", part.strip()) for part in asked.split(",")]
    ranges = [range(int(part[1]), int(part[2] or part[1]) + 1) for part in parts if part]
    if sum(seeds.stop - seeds.start for seeds in ranges) > MOST_RANGE:
        raise SpecError(f"--prism-seeds {asked}: is more than {MOST_RANGE} seeds a spec; write fewer")
    if over := [part.stop - 1 for part in ranges if part.stop > 2**32]:
        raise SpecError(f"--prism-seeds {asked}: {over[0]} must be below 2**32, the range that NumPy takes")
    found = [seed for seeds in ranges for seed in seeds]
    if asked.isdecimal() or not all(parts) or not all(ranges) or len(set(found)) < len(found):
        raise SpecError(f"--prism-seeds {asked}: must be a count of at least 1, a range (47-51) or a list (42,47-49)")
    return found
