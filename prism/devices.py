"""Queries the CUDA driver for devices without importing torch, so that a worker can still be pinned to a GPU."""

from __future__ import annotations

import contextlib
import ctypes
import os
from collections.abc import Sequence
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from typing import Any

NO_DEVICE = 100  # CUDA_ERROR_NO_DEVICE: the driver works and finds no GPU


@cache
def _driver() -> tuple[Any, int]:
    """The CUDA driver library and the return code of cuInit (0 is success); (None, 0) without a driver."""
    try:
        driver = ctypes.CDLL("libcuda.so.1")
    except OSError:
        return None, 0
    return driver, driver.cuInit(0)


_elsewhere: list[tuple[str, float]] = []


def use_elsewhere(gpus: Sequence[tuple[str, float]]) -> None:
    """Let a machine without a GPU count these, name and GiB: those of the cluster that computes for it."""
    _elsewhere[:] = gpus
    cuda_devices.cache_clear()
    cuda_memory.cache_clear()


@cache
def cuda_devices() -> int:
    """The number of CUDA devices that the driver reports; 0 without a working driver."""
    if _elsewhere:
        return len(_elsewhere)
    driver, error = _driver()
    count = ctypes.c_int(0)
    if driver is None or error or cuda_fault() or driver.cuDeviceGetCount(ctypes.byref(count)) != 0:
        return 0
    return count.value


@cache
def cuda_fault() -> str:
    """Why PRISM cannot use CUDA although an NVIDIA driver is installed; empty if it can, or without a driver."""
    driver, error = _driver()
    if driver is None:
        return ""
    supported, required = ctypes.c_int(0), _torch_cuda()
    driver.cuDriverGetVersion(ctypes.byref(supported))
    if required and supported.value // 1000 < required:
        highest = f"{supported.value // 1000}.{supported.value % 1000 // 10}"
        return f"the NVIDIA driver is too old: it runs CUDA up to {highest}, torch needs {required}; update the driver"
    return f"the NVIDIA driver does not start (error {error}); reinstall it" if error not in (0, NO_DEVICE) else ""


def _torch_cuda() -> int:
    """The major CUDA version that the installed torch was built for; 0 if its CUDA runtime package is not installed."""
    for package in ("nvidia-cuda-runtime", "nvidia-cuda-runtime-cu12"):
        with contextlib.suppress(PackageNotFoundError):
            return int(version(package).partition(".")[0])
    return 0


@cache
def cuda_memory() -> list[tuple[str, float]]:
    """The name and memory in GiB of each CUDA device."""
    if _elsewhere:
        return list(_elsewhere)
    devices = []
    for n in range(cuda_devices()):
        driver, _ = _driver()
        device, name, size = ctypes.c_int(0), ctypes.create_string_buffer(96), ctypes.c_size_t(0)
        driver.cuDeviceGet(ctypes.byref(device), n)
        driver.cuDeviceGetName(name, 96, device)
        driver.cuDeviceTotalMem_v2(ctypes.byref(size), device)
        devices.append((name.value.decode(), size.value / 2**30))
    return devices


def use_one_gpu() -> None:
    """Hide all GPUs but the first from this process: transformers' trainer would split each batch among all of them."""
    os.environ.setdefault("PRISM_GPUS", os.environ.get("CUDA_VISIBLE_DEVICES", ""))  # for [launch] processes
    os.environ["CUDA_VISIBLE_DEVICES"] = os.environ.get("CUDA_VISIBLE_DEVICES", "0").partition(",")[0]
