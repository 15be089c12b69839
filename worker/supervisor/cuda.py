"""CUDA devices of this machine, by the names under which CUDA enumerates them. Found without CUDA and without torch.

A device file's number is not CUDA's: where a container gets one device of several, its file is `/dev/nvidia3` and
CUDA's ordinal is 0. So devices are named by UUID, which NVML gives, or else by ordinals in the order of the PCI bus.
"""

import importlib.util
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

DEV: Final = Path("/dev")
PCI: Final = Path("/sys/bus/pci/devices")
#: The PCI identifier of NVIDIA, and the beginning of the class of graphics and 3D controllers.
NVIDIA: Final = "0x10de"
DISPLAY: Final = "0x03"
#: A product whose name cannot be found.
UNKNOWN: Final = "cuda"


@dataclass(frozen=True, slots=True)
class CudaDevice:
    """A device, or a MIG instance of one, that CUDA can be limited to.

    `identifier` is an entry of CUDA_VISIBLE_DEVICES; `product` is a name such as "NVIDIA H100 80GB HBM3".
    """

    identifier: str
    product: str = UNKNOWN
    partition: bool = False  # a MIG instance: CUDA shows one of them at most to a process


def visible_devices(environment: Mapping[str, str]) -> list[CudaDevice]:
    """The devices that this process may use: those of CUDA_VISIBLE_DEVICES, else all of the machine or container."""
    devices = _by_nvml()
    if devices is None:
        devices = [CudaDevice(str(ordinal)) for ordinal in range(len(_device_files()))]

    setting = environment.get("CUDA_VISIBLE_DEVICES")
    if setting is None:
        return devices
    names = [name.strip() for name in setting.split(",")]
    return [_named(name, devices) for name in names if name and name != "-1"]


def memory(identifiers: Sequence[str]) -> dict[str, tuple[int, int]]:
    """Bytes in use and in all of devices by their UUIDs; those of which NVML does not say it are left out."""
    named = [name for name in identifiers if not name.isdigit()]
    nvml = _nvml() if named else None
    if nvml is None:
        return {}

    found = {}
    try:
        for name in named:
            with suppress(nvml.NVMLError):
                info = nvml.nvmlDeviceGetMemoryInfo(nvml.nvmlDeviceGetHandleByUUID(name))
                found[name] = (int(info.used), int(info.total))
        return found
    finally:
        nvml.nvmlShutdown()


def unusable_gpu() -> str | None:
    """Why a GPU of this machine cannot be used, where there is one and CUDA has no device; None where there is none."""
    if (DEV / "kfd").exists():
        return "this machine has an AMD GPU (/dev/kfd), and trainers use CUDA devices or the CPU"
    if (DEV / "dxg").exists():
        return "this is WSL with a GPU (/dev/dxg), and NVML finds no NVIDIA device; install NVIDIA's driver for WSL"
    if not _device_files() and any(_nvidia_cards()):
        return (
            "this machine has an NVIDIA GPU and no device file /dev/nvidia0; install its driver or pass the device in"
        )
    return None


def cpu_build() -> str | None:
    """Why the installed torch cannot use a CUDA device; None where it can. Read from its files, not imported."""
    spec = importlib.util.find_spec("torch")
    version = Path(spec.origin).with_name("version.py") if spec is not None and spec.origin else None
    if version is None or not version.is_file():
        return None
    if re.search(r"^cuda\b.*= *None$", version.read_text(encoding="utf-8"), re.MULTILINE):
        return "the installed torch is built for the CPU only; install its CUDA build of the same version"
    return None


def _by_nvml() -> list[CudaDevice] | None:
    """Every device that NVML lists, in the order of the PCI bus; None where NVML is not there."""
    nvml = _nvml()
    if nvml is None:
        return None
    try:
        handles = [nvml.nvmlDeviceGetHandleByIndex(index) for index in range(nvml.nvmlDeviceGetCount())]
        handles.sort(key=lambda handle: _text(nvml.nvmlDeviceGetPciInfo(handle).busId).lower())
        return [device for handle in handles for device in _parts(nvml, handle)]
    except nvml.NVMLError:
        return None
    finally:
        nvml.nvmlShutdown()


def _nvml() -> Any:
    """NVML's bindings, started, to be shut down by the caller; None where it is not there."""
    try:
        import pynvml as nvml
    except ImportError:
        return None

    try:
        nvml.nvmlInit()
    except nvml.NVMLError:
        return None
    return nvml


def _parts(nvml: Any, handle: Any) -> Iterator[CudaDevice]:
    """The device itself, or its instances where MIG is on: CUDA does not enumerate the whole one then."""
    product = _text(nvml.nvmlDeviceGetName(handle))
    if not _mig(nvml, handle):
        yield CudaDevice(_text(nvml.nvmlDeviceGetUUID(handle)), product)
        return

    for index in range(nvml.nvmlDeviceGetMaxMigDeviceCount(handle)):
        try:
            instance = nvml.nvmlDeviceGetMigDeviceHandleByIndex(handle, index)
        except nvml.NVMLError_NotFound:
            continue  # indices of instances that were not made
        name = _text(nvml.nvmlDeviceGetName(instance))
        yield CudaDevice(_text(nvml.nvmlDeviceGetUUID(instance)), name or product, partition=True)


def _mig(nvml: Any, handle: Any) -> bool:
    try:
        current, _ = nvml.nvmlDeviceGetMigMode(handle)
    except nvml.NVMLError_NotSupported:
        return False
    return bool(current == nvml.NVML_DEVICE_MIG_ENABLE)


def _named(name: str, devices: list[CudaDevice]) -> CudaDevice:
    """The entry as it is, since trainers inherit its meaning, with the product where that is beyond doubt.

    A UUID may be cut short as in CUDA. Ordinals are CUDA's, fastest device first, so they name a product only where
    all are of one.
    """
    for device in devices:
        if not name.isdigit() and device.identifier.startswith(name):
            return CudaDevice(name, device.product, device.partition)

    products = {device.product for device in devices}
    return CudaDevice(name, products.pop() if len(products) == 1 else UNKNOWN, name.startswith("MIG-"))


def _device_files() -> list[Path]:
    return [path for path in DEV.glob("nvidia[0-9]*") if path.name.removeprefix("nvidia").isdigit()]


def _nvidia_cards() -> Iterator[Path]:
    for card in PCI.glob("*"):
        if _read(card / "vendor") == NVIDIA and _read(card / "class").startswith(DISPLAY):
            yield card


def _read(path: Path) -> str:
    try:
        return path.read_text(encoding="ascii", errors="replace").strip()
    except OSError:
        return ""


def _text(value: str | bytes) -> str:
    """Some versions of the bindings return bytes."""
    return value.decode() if isinstance(value, bytes) else value
