"""Which CUDA devices there are, asked of the driver itself: nothing here imports torch, so that a worker can still be pinned."""

from __future__ import annotations

import contextlib
import ctypes
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from typing import Any

NO_DEVICE = 100  # CUDA_ERROR_NO_DEVICE: a driver, and nothing that it drives


@cache
def _driver() -> tuple[Any, int]:
    """The CUDA driver's library and what its start returned, 0 where it is ready; (None, 0) without a driver."""
    try:
        driver = ctypes.CDLL("libcuda.so.1")
    except OSError:
        return None, 0
    return driver, driver.cuInit(0)


@cache
def cuda_devices() -> int:
    """How many CUDA devices the driver shows, asked without importing torch; 0 without a driver that works."""
    driver, fault = _driver()
    count = ctypes.c_int(0)
    if driver is None or fault or cuda_fault() or driver.cuDeviceGetCount(ctypes.byref(count)) != 0:
        return 0
    return count.value


@cache
def cuda_fault() -> str:
    """Why a machine with an NVIDIA driver has no CUDA device for us, in words; empty where that is not so."""
    driver, fault = _driver()
    if driver is None:
        return ""
    supported, wanted = ctypes.c_int(0), _torch_cuda()
    driver.cuDriverGetVersion(ctypes.byref(supported))
    if wanted and supported.value // 1000 < wanted:
        have = f"{supported.value // 1000}.{supported.value % 1000 // 10}"
        return f"the NVIDIA driver is too old: it runs CUDA up to {have}, torch needs {wanted}; update the driver"
    return f"the NVIDIA driver does not start (error {fault}); reinstall it" if fault not in (0, NO_DEVICE) else ""


def _torch_cuda() -> int:
    """The major version of CUDA that the installed torch was built for; 0 where its packages do not say."""
    for package in ("nvidia-cuda-runtime", "nvidia-cuda-runtime-cu12"):
        with contextlib.suppress(PackageNotFoundError):
            return int(version(package).partition(".")[0])
    return 0


@cache
def cuda_memory() -> list[tuple[str, float]]:
    """Name and GiB of memory of each CUDA device."""
    found = []
    for n in range(cuda_devices()):
        driver, _ = _driver()
        device, name, size = ctypes.c_int(0), ctypes.create_string_buffer(96), ctypes.c_size_t(0)
        driver.cuDeviceGet(ctypes.byref(device), n)
        driver.cuDeviceGetName(name, 96, device)
        driver.cuDeviceTotalMem_v2(ctypes.byref(size), device)
        found.append((name.value.decode(), size.value / 2**30))
    return found
