"""What a stage cost: wall time, tokens, peak memory, energy. Measured where the work is done and kept in its manifest."""

from __future__ import annotations

import gc
import math
import re
import resource
import sys
import time
import traceback
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

from prism.errors import ResourceError

COSTS = {  # a cost that a spec may put a limit on, and which way is better
    "peak_memory_gib": "lower",
    "utilization": "higher",  # of the GPU's arithmetic, in training
    "generation_ratio": "higher",  # tuned answers' tokens/s over the baseline's
}
# Dense bfloat16 rates by the makers' data sheets, by what the driver calls the GPU; variants before what they vary.
BF16_TFLOPS = {
    "H200 NVL": 836,
    "H200": 989,
    "H100 PCIe": 756,
    "H100 NVL": 835,
    "H100": 989,
    "A100": 312,
    "L40S": 362,
    "L40": 181,
    "L4": 121,
    "A10": 125,
    "RTX 4090": 165,
    "RTX 3090": 71,
}
SLOWER = r"(?! Laptop| D\b| Ti\b)"  # of the same name, and not of the same rate
FULL = ("CUDA error: out of memory", "CUBLAS_STATUS_ALLOC_FAILED")  # as the driver and cuBLAS say it


@contextmanager
def stage(what: str = "", lower: str = "") -> Iterator[dict[str, Any]]:
    """Time a stage; the dict gets `seconds`, and `peak_memory_gib`: the stage's on a GPU, else this process's so far.

    `energy_wh` is there where NVML is and the stage used a GPU. Raises ResourceError where the GPU's memory does not
    suffice, naming the stage and the spec key to `lower`.
    """
    notes: dict[str, Any] = {}
    cuda, full, free = _cuda(), False, 0.0
    began, drawn = time.perf_counter(), _energy()
    try:
        if cuda:  # which needs memory of its own
            free = cuda.mem_get_info()[0] / 2**30
            cuda.reset_peak_memory_stats()
        yield notes
    except RuntimeError as error:
        if not (type(error).__name__ == "OutOfMemoryError" or any(said in str(error) for said in FULL)):
            raise
        full = True
        traceback.clear_frames(error.__traceback__)  # they hold the tensors that filled the memory
    if full:
        _empty()
        raise ResourceError(f"{what}: the GPU's memory is full ({free:.1f} GiB were free as it began); lower {lower}")
    notes["seconds"] = notes.get("seconds", time.perf_counter() - began)
    notes["peak_memory_gib"] = peak_memory_gib()
    notes["device"] = gpu_name()
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


def _cuda() -> Any:
    """torch.cuda where torch is imported already and has a GPU, else None: what costs are read off imports nothing."""
    torch = sys.modules.get("torch")
    return torch.cuda if torch is not None and torch.cuda.is_available() else None


def _used_gpus() -> set[str]:
    """NVML's names of the GPUs that this process has held memory on."""
    cuda = _cuda()
    if cuda is None:
        return set()
    held = [i for i in range(cuda.device_count()) if cuda.max_memory_allocated(i)]
    return {f"GPU-{cuda.get_device_properties(i).uuid}" for i in held}


def peak_memory_gib() -> float:
    """The most GPU memory that this process held, or, without a GPU, the most memory."""
    cuda = _cuda()
    if cuda and cuda.max_memory_allocated():
        return float(cuda.max_memory_allocated() / 2**30)
    unit = 1 if sys.platform == "darwin" else 1024  # macOS counts bytes, Linux KiB
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 2**30


def _empty() -> None:
    gc.collect()
    if cuda := _cuda():
        cuda.empty_cache()


def gpu_name() -> str:
    """The GPU as its driver names it; empty without one."""
    cuda = _cuda()
    return str(cuda.get_device_name()) if cuda else ""


def utilization(notes: Mapping[str, Any]) -> float | None:
    """Model flops utilization of a training: the least work its tokens take, over what the GPU could have done.

    Frozen weights need two operations a weight forwards and two backwards, and no third two for their gradient; what
    checkpointing computes twice counts once. None where the GPU's rate is not known.
    """
    device = notes.get("device", "")
    rate = next((rate for name, rate in BF16_TFLOPS.items() if re.search(rf"\b{name}\b{SLOWER}", device)), None)
    if not rate or not notes.get("tokens") or "parameters" not in notes:
        return None
    return 4 * notes["parameters"] * notes["tokens"] / notes["seconds"] / (rate * 1e12)


def free_memory() -> float:
    """Bytes of GPU memory that this process can still take: what is free, and what its allocator keeps for reuse."""
    import torch

    kept = torch.cuda.memory_reserved() - torch.cuda.memory_allocated()
    return float(torch.cuda.mem_get_info()[0] + max(0, kept))


def resident_gib() -> float:
    """The GPU memory that this process holds now, or, without a GPU, its resident memory."""
    if cuda := _cuda():
        return float(cuda.memory_allocated() / 2**30)
    import psutil

    return psutil.Process().memory_info().rss / 2**30


def summary(stages: Mapping[str, Mapping[str, Any]], cached: Sequence[str]) -> dict[str, Any]:
    """One spec's cost, from its stages' notes. What came from the store keeps the cost of when it was made."""
    return {
        "seconds": {name: notes["seconds"] for name, notes in stages.items()},
        "tokens_per_second": {
            name: notes["tokens"] / notes["seconds"] for name, notes in stages.items() if notes.get("tokens")
        },
        "energy_wh": {name: notes["energy_wh"] for name, notes in stages.items() if "energy_wh" in notes},
        "peak_memory_gib": max(notes["peak_memory_gib"] for notes in stages.values()),
        "utilization": {name: used for name, notes in stages.items() if (used := utilization(notes)) is not None},
        "engine": {name: notes["engine"] for name, notes in stages.items() if "engine" in notes},
        "cached": list(cached),
    }


def gated(spent: dict[str, Any], name: str) -> float:
    """The value that a `[gate.cost]` threshold is held against; NaN where this machine or run does not tell it."""
    if name == "peak_memory_gib":
        return float(spent[name])
    if name == "utilization":
        return min(spent["utilization"].values(), default=math.nan)
    speeds = spent["tokens_per_second"]
    tuned = [speed for stage, speed in speeds.items() if stage.startswith("tuned")]
    return min(tuned) / speeds["baseline"] if tuned and speeds.get("baseline") else math.nan
