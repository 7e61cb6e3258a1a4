"""Measures the cost of a stage: wall time, tokens, peak memory, energy. The artifact's manifest stores it."""

from __future__ import annotations

import gc
import math
import os
import platform
import re
import resource
import sys
import time
import traceback
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from typing import Any

from prism.errors import ResourceError
from prism.spec import Spec
from prism.store.provenance import processor

COSTS = {  # costs that [gate.cost] may limit, and which direction is better
    "peak_memory_gib": "lower",
    "utilization": "higher",  # model flops utilization of the GPU in training
    "generation_ratio": "higher",  # tuned answers' tokens/s over the baseline's
}
# Dense bfloat16 TFLOP/s from the vendors' data sheets, by the driver's GPU name; variants come before the base name.
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
NOT_VARIANT = r"(?! Laptop| D\b| Ti\b)"  # excludes variants with the same name and another rate
MEMORY_SHARE = 0.8  # largest share of the free GPU memory for what is estimated
OUT_OF_MEMORY = ("CUDA error: out of memory", "CUBLAS_STATUS_ALLOC_FAILED")  # messages of the driver and of cuBLAS
IMPORTS = "importing the libraries"


class Clock:
    """The wall seconds of one spec in this run, by what they went to: a part within a part is taken out of the outer one."""

    def __init__(self, spec: str) -> None:
        self.spec = spec  # its id, for messages
        self.began = self._since = time.perf_counter()
        self.parts: dict[str, float] = {}
        self._open: list[str] = []

    def __call__(self, part: str) -> AbstractContextManager[None]:
        return self._measured(part)

    @contextmanager
    def _measured(self, part: str) -> Iterator[None]:
        self._settle()
        self._open.append(part)
        try:
            yield
        finally:
            self._settle()
            self._open.pop()

    @contextmanager
    def stage(self, part: str, lower: str) -> Iterator[dict[str, Any]]:
        """A part whose cost an artifact keeps: `cost.stage` of the same name."""
        with self(part), stage(f"{self.spec}: {part}", lower) as notes:
            yield notes

    def _settle(self) -> None:
        """Count the seconds since the last change for the innermost open part; outside all parts they are nobody's."""
        now = time.perf_counter()
        if self._open:
            self.parts[self._open[-1]] = self.parts.get(self._open[-1], 0.0) + now - self._since
        self._since = now

    def read(self) -> dict[str, float]:
        """The seconds by part, and in `total` all since the clock was made. What is between them is not measured work."""
        self._settle()
        return {**self.parts, "total": self._since - self.began}


@contextmanager
def stage(what: str = "", lower: str = "") -> Iterator[dict[str, Any]]:
    """Time a stage; the dict gets `seconds`, and `peak_memory_gib`: the stage's on a GPU, else this process's so far.

    It gets `machine`: the host, its GPU or processor, and the threads that PyTorch computes with.
    It gets `energy_wh` if NVML is installed and the stage used a GPU. Raises ResourceError if the GPU runs out of
    memory, naming the stage and the spec key to `lower`.
    """
    notes: dict[str, Any] = {}
    cuda, out_of_memory, free = _cuda(), False, 0.0
    start, energy_before = time.perf_counter(), _energy_joules()
    try:
        if cuda:  # these calls may fail too: a CUDA context needs memory
            free = cuda.mem_get_info()[0] / 2**30
            for gpu in range(cuda.device_count()):
                cuda.reset_peak_memory_stats(gpu)
        yield notes
    except RuntimeError as error:
        if not (type(error).__name__ == "OutOfMemoryError" or any(text in str(error) for text in OUT_OF_MEMORY)):
            raise
        out_of_memory = True
        traceback.clear_frames(error.__traceback__)  # the frames reference the tensors that filled the memory
    if out_of_memory:
        _empty_cache()
        raise ResourceError(f"{what}: the GPU's memory is full ({free:.1f} GiB were free at the start); lower {lower}")
    notes["seconds"] = notes.get("seconds", time.perf_counter() - start)
    notes["peak_memory_gib"] = max(peak_memory_gib(), notes.get("peak_memory_gib", 0))  # of processes of its own, too
    notes["device"] = gpu_name()
    notes["machine"] = f"{platform.node()}: {notes['device'] or processor()}, {_threads()}"
    gpus = _used_gpus() & energy_before.keys()
    if gpus:
        energy_after = _energy_joules()
        notes["energy_wh"] = sum(energy_after[gpu] - energy_before[gpu] for gpu in gpus) / 3600


def named(stage: str, seed: int, spec: Spec) -> str:
    """The name of an adapter's stage in the table of costs. A finished adapter was not trained here: no seed is known."""
    if spec.adapter:
        return "loading the adapter" if stage == "training" else stage
    return f"{stage}, seed {seed}"


def _energy_joules() -> dict[str, float]:
    """The joules that each GPU used since its driver was loaded, by all processes; empty without pynvml."""
    try:
        import pynvml
    except ImportError:
        return {}
    try:
        pynvml.nvmlInit()
        gpus = [pynvml.nvmlDeviceGetHandleByIndex(i) for i in range(pynvml.nvmlDeviceGetCount())]
        return {pynvml.nvmlDeviceGetUUID(gpu): pynvml.nvmlDeviceGetTotalEnergyConsumption(gpu) / 1000 for gpu in gpus}
    except pynvml.NVMLError:  # no driver, or a GPU without an energy counter
        return {}


def _cuda() -> Any:
    """torch.cuda if torch is already imported and has a GPU, else None; measuring a cost never imports torch."""
    torch = sys.modules.get("torch")
    return torch.cuda if torch is not None and torch.cuda.is_available() else None


def _used_gpus() -> set[str]:
    """NVML ids of the GPUs on which this process has allocated memory."""
    cuda = _cuda()
    if cuda is None:
        return set()
    used = [i for i in range(cuda.device_count()) if cuda.max_memory_allocated(i)]
    return {f"GPU-{cuda.get_device_properties(i).uuid}" for i in used}


def peak_memory_gib() -> float:
    """The peak memory of this process on a GPU, of several the fullest; its peak memory without a GPU."""
    cuda = _cuda()
    if cuda and (most := max(map(cuda.max_memory_allocated, range(cuda.device_count())))):
        return float(most / 2**30)
    unit = 1 if sys.platform == "darwin" else 1024  # macOS counts bytes, Linux KiB
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 2**30


def _empty_cache() -> None:
    gc.collect()
    if cuda := _cuda():
        cuda.empty_cache()


def gpu_name() -> str:
    """The driver's name of the GPU; empty without one."""
    cuda = _cuda()
    return str(cuda.get_device_name()) if cuda else ""


def _threads() -> str:
    """The threads of this process's computations, which change the last bits of sums on a CPU."""
    count = int(getattr(sys.modules.get("torch"), "get_num_threads", os.cpu_count)() or 1)
    return f"{count} thread{'s' * (count != 1)}"


def utilization(notes: Mapping[str, Any]) -> float | None:
    """Model flops utilization of a training: the minimal operations for its tokens over what the GPU could have done.

    A frozen weight takes two operations in the forward pass and two in the backward pass, but not the two for its own
    gradient; recomputation by checkpointing does not count. None if the GPU's rate is unknown.
    """
    device = notes.get("device", "")
    rate = next((rate for name, rate in BF16_TFLOPS.items() if re.search(rf"\b{name}\b{NOT_VARIANT}", device)), None)
    if not rate or not notes.get("tokens") or "parameters" not in notes:
        return None
    return 4 * notes["parameters"] * notes["tokens"] / notes["seconds"] / (rate * 1e12)


def free_memory() -> float:
    """Bytes of GPU memory that this process can still allocate: free memory and the unused part of its cache."""
    import torch

    cached = torch.cuda.memory_reserved() - torch.cuda.memory_allocated()
    return float(torch.cuda.mem_get_info()[0] + max(0, cached))


def available_memory(spec: Spec) -> float:
    """Bytes of GPU memory that a stage may plan with: MEMORY_SHARE of the free ones, and of [gate.cost].peak_memory_gib."""
    import torch

    limit = spec.gate.get("cost", {}).get("peak_memory_gib")
    ceiling = math.inf if limit is None or limit.ceiling is None else limit.ceiling
    return min(MEMORY_SHARE * free_memory(), MEMORY_SHARE * ceiling * 2**30 - torch.cuda.memory_allocated())


def resident_gib() -> float:
    """The GPU memory that this process has allocated, or its resident memory without a GPU."""
    if cuda := _cuda():
        return float(cuda.memory_allocated() / 2**30)
    import psutil

    return psutil.Process().memory_info().rss / 2**30


def summary(stages: Mapping[str, Mapping[str, Any]], cached: Sequence[str]) -> dict[str, Any]:
    """The cost of a spec from the notes of its stages. A cached artifact keeps the cost of when it was made."""
    return {
        "seconds": {name: notes["seconds"] for name, notes in stages.items()},
        "tokens_per_second": _rates(stages, "tokens"),
        "images_per_second": _rates(stages, "images"),
        "energy_wh": {name: notes["energy_wh"] for name, notes in stages.items() if "energy_wh" in notes},
        "peak_memory_gib": max(notes["peak_memory_gib"] for notes in stages.values()),
        "utilization": {name: used for name, notes in stages.items() if (used := utilization(notes)) is not None},
        "engine": {name: notes["engine"] for name, notes in stages.items() if "engine" in notes},
        "system": {name: notes["system"] for name, notes in stages.items() if "system" in notes},
        "machine": {name: notes["machine"] for name, notes in stages.items() if "machine" in notes},
        "cached": list(cached),
    }


def _rates(stages: Mapping[str, Mapping[str, Any]], what: str) -> dict[str, float]:
    return {name: notes[what] / notes["seconds"] for name, notes in stages.items() if notes.get(what)}


def gate_value(spent: dict[str, Any], name: str) -> float:
    """The value that a `[gate.cost]` threshold is compared with; NaN if this machine or run cannot measure it."""
    if name == "peak_memory_gib":
        return float(spent[name])
    if name == "utilization":
        return min(spent["utilization"].values(), default=math.nan)
    speeds = spent["tokens_per_second"]
    tuned = [speed for stage, speed in speeds.items() if stage.startswith("tuned")]
    return min(tuned) / speeds["baseline"] if tuned and speeds.get("baseline") else math.nan
