"""Energy by NVML's counters: of the GPUs that the process used, and only where NVML is."""

import sys
from types import SimpleNamespace

import pytest

from prism.errors import ResourceError
from prism.models import cost


class Nvml:
    """Two GPUs whose counters, in millijoules, rise by 36 kJ and 72 kJ from one reading to the next."""

    class NVMLError(Exception):
        pass

    def __init__(self, broken=False):
        self.broken, self.read = broken, 0

    def nvmlInit(self):
        if self.broken:
            raise self.NVMLError("no driver")

    def nvmlDeviceGetCount(self):
        self.read += 1
        return 2

    def nvmlDeviceGetHandleByIndex(self, index):
        return index

    def nvmlDeviceGetUUID(self, gpu):
        return f"GPU-{gpu}"

    def nvmlDeviceGetTotalEnergyConsumption(self, gpu):
        return 5_000_000_000 + self.read * 36_000_000 * (gpu + 1)


def torch(held):
    cuda = SimpleNamespace(
        is_available=lambda: True,
        device_count=lambda: 2,
        max_memory_allocated=lambda gpu=0: held[gpu],
        mem_get_info=lambda: (2**30, 2**31),
        reset_peak_memory_stats=lambda gpu: None,
        get_device_name=lambda: "a GPU",
        get_device_properties=lambda gpu: SimpleNamespace(uuid=gpu),
    )
    return SimpleNamespace(cuda=cuda)


@pytest.mark.parametrize(("held", "spent"), [([1, 0], 10), ([0, 1], 20), ([1, 1], 30)])
def test_energy_is_of_the_gpus_that_were_used(monkeypatch, held, spent):
    monkeypatch.setitem(sys.modules, "pynvml", Nvml())
    monkeypatch.setitem(sys.modules, "torch", torch(held))
    with cost.stage() as notes:
        pass
    assert notes["energy_wh"] == pytest.approx(spent)
    assert notes["peak_memory_gib"] == 1 / 2**30  # of the fullest GPU, wherever it is
    stages = {"baseline": notes, "tuned": {"seconds": 1.0, "peak_memory_gib": 1.0}}
    assert cost.summary(stages, [])["energy_wh"] == {"baseline": notes["energy_wh"]}


@pytest.mark.parametrize("said", ["CUDA error: out of memory", "CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling"])
def test_a_full_gpu_is_told_in_whichever_words_it_comes(said):
    with (
        pytest.raises(ResourceError, match=r"^spec: loading: the GPU's memory is full .*; lower the model$"),
        cost.stage("spec: loading", "the model"),
    ):
        raise RuntimeError(said)
    with pytest.raises(RuntimeError, match="another"), cost.stage("spec: loading", "the model"):
        raise RuntimeError("another error")


def test_the_peak_of_processes_of_its_own_counts(monkeypatch):
    monkeypatch.setitem(sys.modules, "torch", torch([1, 1]))
    with cost.stage() as notes:
        notes["peak_memory_gib"] = 2.0
    assert notes["peak_memory_gib"] == 2.0


@pytest.mark.parametrize("nvml", [None, Nvml(broken=True)], ids=["not installed", "no driver"])
def test_without_nvml_there_is_no_energy(monkeypatch, nvml):
    monkeypatch.setitem(sys.modules, "pynvml", nvml)
    monkeypatch.setitem(sys.modules, "torch", torch([1, 1]))
    with cost.stage() as notes:
        pass
    assert "energy_wh" not in notes
    assert notes["peak_memory_gib"] == 1 / 2**30
