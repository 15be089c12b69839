"""How CUDA devices are named: by NVML's UUIDs, MIG instances among them, or by ordinals in the order of the bus."""

import importlib.machinery
import importlib.util
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from worker.supervisor import cuda
from worker.supervisor.cuda import CudaDevice, cpu_build, unusable_gpu, visible_devices


class NvmlError(Exception):
    """The error of the stand-in for NVML's bindings."""


class NotFoundError(NvmlError):
    """An index without an instance."""


class NotSupportedError(NvmlError):
    """A device without MIG."""


def nvml(devices: list[dict[str, Any]], *, starts: bool = True) -> Any:
    """NVML's bindings over made-up devices, with the functions and errors that are used of them."""

    def init() -> None:
        if not starts:
            raise NvmlError("Driver Not Loaded")

    def mig_mode(device: dict[str, Any]) -> list[int]:
        if "instances" not in device:
            raise NotSupportedError
        return [int(device["mig"]), int(device["mig"])]

    def instance(device: dict[str, Any], index: int) -> Any:
        if device["instances"][index] is None:
            raise NotFoundError
        return device["instances"][index]

    def by_uuid(uuid: str) -> dict[str, Any]:
        for device in devices:
            if device["uuid"] == uuid:
                return device
        raise NotFoundError

    return SimpleNamespace(
        NVMLError=NvmlError,
        NVMLError_NotFound=NotFoundError,
        NVMLError_NotSupported=NotSupportedError,
        NVML_DEVICE_MIG_ENABLE=1,
        nvmlInit=init,
        nvmlShutdown=lambda: None,
        nvmlDeviceGetCount=lambda: len(devices),
        nvmlDeviceGetHandleByIndex=devices.__getitem__,
        nvmlDeviceGetPciInfo=lambda device: SimpleNamespace(busId=device["bus"]),
        nvmlDeviceGetName=lambda device: device["name"],
        nvmlDeviceGetUUID=lambda device: device["uuid"],
        nvmlDeviceGetMigMode=mig_mode,
        nvmlDeviceGetMaxMigDeviceCount=lambda device: len(device["instances"]),
        nvmlDeviceGetMigDeviceHandleByIndex=instance,
        nvmlDeviceGetHandleByUUID=by_uuid,
        nvmlDeviceGetMemoryInfo=lambda device: SimpleNamespace(used=device["used"], total=80),
    )


H100 = {"uuid": "GPU-aaaa-1", "name": "NVIDIA H100 80GB HBM3", "bus": b"00000000:1B:00.0"}
A10 = {"uuid": "GPU-bbbb-2", "name": b"NVIDIA A10", "bus": b"00000000:0A:00.0"}


@pytest.fixture(autouse=True)
def machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A machine of this test's own: /dev, the PCI bus, and no NVML."""
    (tmp_path / "dev").mkdir()
    monkeypatch.setattr(cuda, "DEV", tmp_path / "dev")
    monkeypatch.setattr(cuda, "PCI", tmp_path / "pci")
    monkeypatch.setitem(sys.modules, "pynvml", None)
    return tmp_path


def with_nvml(monkeypatch: pytest.MonkeyPatch, *devices: dict[str, Any], starts: bool = True) -> None:
    monkeypatch.setitem(sys.modules, "pynvml", nvml(list(devices), starts=starts))


def test_nvml_names_devices_along_the_bus(monkeypatch: pytest.MonkeyPatch) -> None:
    """By UUIDs, which mean the same device in every process, whatever its number there."""
    with_nvml(monkeypatch, H100, A10)
    assert visible_devices({}) == [
        CudaDevice("GPU-bbbb-2", "NVIDIA A10"),
        CudaDevice("GPU-aaaa-1", "NVIDIA H100 80GB HBM3"),
    ]


def test_the_memory_of_devices_by_their_uuid(monkeypatch: pytest.MonkeyPatch) -> None:
    """What NVML does not know, and ordinals, of which nobody knows the device, are left out."""
    assert cuda.memory(["GPU-aaaa-1"]) == {}
    with_nvml(monkeypatch, {**H100, "used": 20})
    assert cuda.memory(["GPU-aaaa-1", "GPU-none", "0"]) == {"GPU-aaaa-1": (20, 80)}
    with_nvml(monkeypatch, starts=False)
    assert cuda.memory(["GPU-aaaa-1"]) == {}


def test_mig_instances_are_devices(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where MIG is on, CUDA has the instances that were made and not the whole device."""
    first = {"uuid": "MIG-1", "name": "NVIDIA H100 80GB HBM3 MIG 1g.10gb"}
    cut = {**H100, "mig": True, "instances": [first, None, {"uuid": "MIG-2", "name": ""}]}
    with_nvml(monkeypatch, cut, {**A10, "mig": False, "instances": []})
    assert visible_devices({}) == [
        CudaDevice("GPU-bbbb-2", "NVIDIA A10"),
        CudaDevice("MIG-1", "NVIDIA H100 80GB HBM3 MIG 1g.10gb", partition=True),
        CudaDevice("MIG-2", "NVIDIA H100 80GB HBM3", partition=True),
    ]


@pytest.mark.parametrize("starts", [False, True], ids=["no driver", "no device"])
def test_device_files_are_counted_without_nvml(monkeypatch: pytest.MonkeyPatch, machine: Path, starts: bool) -> None:
    """A container that got /dev/nvidia3 alone has CUDA's device 0."""
    for name in ("nvidia3", "nvidiactl", "nvidia-uvm"):
        (machine / "dev" / name).touch()
    if not starts:
        with_nvml(monkeypatch, starts=False)
    assert visible_devices({}) == [CudaDevice("0")]


@pytest.mark.parametrize(
    ("setting", "found"),
    [
        ("GPU-aaaa", [CudaDevice("GPU-aaaa", "NVIDIA H100 80GB HBM3")]),
        ("1, 0", [CudaDevice("1"), CudaDevice("0")]),
        ("MIG-7", [CudaDevice("MIG-7", partition=True)]),
        ("-1", []),
        ("", []),
    ],
)
def test_the_operators_own_variable_is_kept(
    monkeypatch: pytest.MonkeyPatch, setting: str, found: list[CudaDevice]
) -> None:
    """Its entries go on to trainers as they are; a product is named only where there is no doubt about it."""
    with_nvml(monkeypatch, H100, A10)
    assert visible_devices({"CUDA_VISIBLE_DEVICES": setting}) == found


def test_ordinals_name_a_product_where_all_are_of_one(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever the order, it is the same product."""
    with_nvml(monkeypatch, A10, {**A10, "uuid": "GPU-cccc"})
    assert visible_devices({"CUDA_VISIBLE_DEVICES": "1"}) == [CudaDevice("1", "NVIDIA A10")]


def test_gpus_that_cannot_be_used_are_found(machine: Path) -> None:
    """An NVIDIA card without its driver, WSL, and ROCm; a sound card of NVIDIA's is not one."""
    card = machine / "pci" / "0000:01:00.0"
    card.mkdir(parents=True)
    (card / "vendor").write_text("0x10de\n")
    (card / "class").write_text("0x040300\n")
    assert unusable_gpu() is None
    (card / "class").write_text("0x030200\n")
    assert "an NVIDIA GPU and no device file" in str(unusable_gpu())
    (machine / "dev" / "dxg").touch()
    assert "this is WSL with a GPU" in str(unusable_gpu())
    (machine / "dev" / "kfd").touch()
    assert "an AMD GPU" in str(unusable_gpu())


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        ("cuda: Optional[str] = None", "the installed torch is built for the CPU only"),
        ("cuda: Optional[str] = '13.0'", None),
    ],
)
def test_the_build_of_torch_is_read_from_its_files(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, line: str, reason: str | None
) -> None:
    """Importing torch would take seconds in a process that does not train."""
    (tmp_path / "version.py").write_text(f"__version__ = '2'\n{line}\nhip: Optional[str] = None\n")
    spec = importlib.machinery.ModuleSpec("torch", None, origin=str(tmp_path / "__init__.py"))
    monkeypatch.setattr(importlib.util, "find_spec", lambda _: spec)
    found = cpu_build()
    assert (found or "").startswith(reason or "") and (found is None) == (reason is None)


def test_the_file_of_the_installed_torch_is_understood() -> None:
    """The real one says what torch itself says."""
    import torch

    assert (cpu_build() is not None) == (torch.version.cuda is None)
