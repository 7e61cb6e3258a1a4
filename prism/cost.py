"""What a stage cost: wall time, tokens, peak memory, energy. Measured where the work is done and kept in its manifest."""

from __future__ import annotations

import resource
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from prism.record import Record, Score, empty_record
from prism.spec import Spec


@contextmanager
def stage() -> Iterator[dict[str, Any]]:
    """Time a stage; the dict gets `seconds`, and `peak_memory_gib` of this process so far (GPU memory where one is).

    `energy_wh` is there where NVML is and the stage used a GPU.
    """
    notes: dict[str, Any] = {}
    began, drawn = time.perf_counter(), _energy()
    yield notes
    notes["seconds"] = notes.get("seconds", time.perf_counter() - began)
    notes["peak_memory_gib"] = peak_memory_gib()
    used = _used_gpus() & drawn.keys()
    if used:
        now = _energy()
        notes["energy_wh"] = sum(now[gpu] - drawn[gpu] for gpu in used) / 3600


def _energy() -> dict[str, float]:
    """The joules that each GPU has drawn since its driver was loaded, whoever used it; none without NVML's Python."""
    try:
        import pynvml
    except ImportError:
        return {}
    try:
        pynvml.nvmlInit()
        gpus = [pynvml.nvmlDeviceGetHandleByIndex(i) for i in range(pynvml.nvmlDeviceGetCount())]
        return {pynvml.nvmlDeviceGetUUID(gpu): pynvml.nvmlDeviceGetTotalEnergyConsumption(gpu) / 1000 for gpu in gpus}
    except pynvml.NVMLError:  # no driver, or a GPU that does not count
        return {}


def _used_gpus() -> set[str]:
    """NVML's names of the GPUs that this process has held memory on."""
    torch = sys.modules.get("torch")
    if torch is None or not torch.cuda.is_available():
        return set()
    held = [i for i in range(torch.cuda.device_count()) if torch.cuda.max_memory_allocated(i)]
    return {f"GPU-{torch.cuda.get_device_properties(i).uuid}" for i in held}


def peak_memory_gib() -> float:
    """The most GPU memory that this process held, or, without a GPU, the most memory."""
    torch = sys.modules.get("torch")
    if torch is not None and torch.cuda.is_available() and torch.cuda.max_memory_allocated():
        return torch.cuda.max_memory_allocated() / 2**30
    unit = 1 if sys.platform == "darwin" else 1024  # macOS counts bytes, Linux KiB
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 2**30


def resident_gib() -> float:
    """The GPU memory that this process holds now, or, without a GPU, its resident memory."""
    torch = sys.modules.get("torch")
    if torch is not None and torch.cuda.is_available():
        return torch.cuda.memory_allocated() / 2**30
    import psutil

    return psutil.Process().memory_info().rss / 2**30


def summary(stages: dict[str, dict[str, Any]], cached: list[str]) -> dict[str, Any]:
    """One spec's cost from its stages' notes. What came from the store keeps the cost of when it was made."""
    return {
        "seconds": {name: notes["seconds"] for name, notes in stages.items()},
        "tokens_per_second": {
            name: notes["tokens"] / notes["seconds"] for name, notes in stages.items() if notes.get("tokens")
        },
        "energy_wh": {name: notes["energy_wh"] for name, notes in stages.items() if "energy_wh" in notes},
        "peak_memory_gib": max(notes["peak_memory_gib"] for notes in stages.values()),
        "cached": cached,
    }


def records(spec: Spec, evaluation: str, n: int, spent: dict[str, Any]) -> list[Record]:
    """One record a cost that the spec puts a limit on. A cost is one measurement, so its interval is itself."""
    found = []
    for name in spec.gate.get("cost", {}):
        exact = Score(float(spent[name]), (float(spent[name]), float(spent[name])))
        given = {"n": n, "groups": n, "direction": "lower", "baseline": exact, "tuned": exact}
        found.append(empty_record(spec, evaluation, "cost", name, 0, **given, gain=Score(0.0, (0.0, 0.0))))
    return found
