"""Device slots of this worker: a job runs on one of them, or on several together. Found without importing torch."""

import os
import re
import threading
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from app.errors import InvalidRequest
from app.jobs.queue.offers import CPU, Offer, matches
from worker.supervisor import cuda
from worker.supervisor.cuda import CudaDevice

#: Ordinals count devices in the order of the PCI bus: CUDA's own order is by speed.
PCI_ORDER: Final = ("CUDA_DEVICE_ORDER", "PCI_BUS_ID")


@dataclass(frozen=True, slots=True)
class Device:
    """A device that a trainer may use: its name in PyTorch, and the variables that hide every other device."""

    name: str
    environment: tuple[tuple[str, str], ...] = ()
    members: tuple["Device", ...] = ()  # the devices of a group that one job uses
    product: str = CPU
    partition: bool = False  # a MIG instance, which no group can have beside another

    @property
    def count(self) -> int:
        return max(1, len(self.members))


class Slots:
    """The devices of this worker, and which of them no job uses at the moment."""

    def __init__(self, devices: list[Device]) -> None:
        self.devices = tuple(devices)
        self._withdrawn: list[Device] = []
        self._free = list(devices)
        #: Taken while a job is claimed, so that the slots counted as free stay free.
        self.choosing = threading.Lock()

    @property
    def free(self) -> int:
        return len(self._free)

    @property
    def most(self) -> int:
        """How many devices one job could have at most."""
        return self.offer().most(None)

    @property
    def none_left(self) -> bool:
        return len(self._withdrawn) == len(self.devices)

    def offer(self, *, gangs: bool = False) -> Offer:
        """What a job can have of this worker, and what is free of it now; `gangs`: also together with other workers."""
        withdrawn = {id(device) for device in self._withdrawn}
        left = [device for device in self.devices if id(device) not in withdrawn]
        partitions = frozenset(device.product for device in left if device.partition)
        return Offer(_count(left), _count(self._free), partitions, gangs)

    def memory(self) -> dict[str, tuple[int, int]]:
        """Bytes in use and in all of each CUDA device whose driver says it."""
        names = [dict(device.environment).get("CUDA_VISIBLE_DEVICES", "") for device in self.devices]
        return cuda.memory([name for name in names if name])

    def withdraw(self, device: Device) -> None:
        """Give this device, or any of this group, to no further job; the job that has it now does not give it back."""
        self._withdrawn += device.members or (device,)

    def take(self, count: int = 1, product: str | None = None) -> Device | None:
        """Take `count` free devices as one, until they are given back; None when fewer are free.

        `product` is what a job requested, a part of a product's name. A group has devices of one product.
        """
        for group in self._groups(count, product):
            if len(group) >= count:
                taken = group[:count]
                self._free = [device for device in self._free if not any(device is one for one in taken)]
                return taken[0] if count == 1 else _grouped(taken)
        return None

    def give_back(self, device: Device) -> None:
        lost = {id(each) for each in self._withdrawn}
        self._free += [each for each in device.members or (device,) if id(each) not in lost]

    def _groups(self, count: int, product: str | None) -> list[list[Device]]:
        """Free devices from which `count` may be taken together: one at a time any, several of one product."""
        fitting = [device for device in self._free if matches(product, device.product)]
        if count == 1:
            return [fitting]
        whole = [device for device in fitting if not device.partition]
        return [[device for device in whole if device.product == name] for name in _count(whole)]


def _count(devices: Sequence[Device]) -> dict[str, int]:
    return dict(Counter(device.product for device in devices))


def _grouped(devices: list[Device]) -> Device:
    """Several devices as one. The job's ranks see all of them, and each takes the one of its rank."""
    visible = ",".join(value for each in devices for name, value in each.environment if name != PCI_ORDER[0] and value)
    order = tuple(pair for pair in devices[0].environment if pair == PCI_ORDER)
    environment = (("CUDA_VISIBLE_DEVICES", visible), *order)
    return Device(devices[0].name, environment, tuple(devices), devices[0].product)


def find_devices(setting: str, *, environment: Mapping[str, str] | None = None) -> list[Device]:
    """The devices that PERMAFROST_DEVICES names: `auto`, `cpu`, `cpu:4` (four jobs at a time), `cuda` or `cuda:0,2`.

    The numbers of `cuda:0,2` count the devices that this worker may use, in the order of the PCI bus, or are ordinals
    of its CUDA_VISIBLE_DEVICES. Raises InvalidRequest.
    """
    if match := re.fullmatch(r"cpu(?::(\d+))?", setting):
        return [_cpu() for _ in range(max(1, int(match[1] or 1)))]

    variables = os.environ if environment is None else environment
    visible = cuda.visible_devices(variables)
    if setting == "auto":
        usable = visible if cuda.cpu_build() is None else []
        return [_cuda(device, variables) for device in usable] or [Device("cpu")]
    if match := re.fullmatch(r"cuda(?::(\d+(?:,\d+)*))?", setting):
        reason = _no_cuda(visible)
        if reason is not None:
            raise InvalidRequest(f"PERMAFROST_DEVICES={setting}: {reason}")
        return [_cuda(device, variables) for device in _chosen(setting, match[1], visible)]
    raise InvalidRequest(f"PERMAFROST_DEVICES={setting}: write auto, cpu, cpu:4, cuda or cuda:0,2")


def idle_gpu(setting: str, *, environment: Mapping[str, str] | None = None) -> str | None:
    """Why `auto` trains on the CPU although this machine has a GPU; None where it has none, or where it is used."""
    variables = os.environ if environment is None else environment
    if setting != "auto" or "CUDA_VISIBLE_DEVICES" in variables:
        return None
    return cuda.cpu_build() if cuda.visible_devices(variables) else cuda.unusable_gpu()


def _no_cuda(visible: list[CudaDevice]) -> str | None:
    if not visible:
        return "; ".join(filter(None, ["this worker has no CUDA device", cuda.unusable_gpu()]))
    return cuda.cpu_build()


def _chosen(setting: str, numbers: str | None, visible: list[CudaDevice]) -> list[CudaDevice]:
    if numbers is None:
        return visible

    # Ordinals of CUDA_VISIBLE_DEVICES are names of devices; UUIDs are counted.
    ordinals = all(device.identifier.isdigit() for device in visible)
    by_number = {device.identifier if ordinals else str(index): device for index, device in enumerate(visible)}
    missing = [number for number in numbers.split(",") if number not in by_number]
    if missing:
        there = ", ".join(by_number)
        message = f"there is no CUDA device {', '.join(missing)}; this worker has {there}"
        raise InvalidRequest(f"PERMAFROST_DEVICES={setting}: {message}")
    return [by_number[number] for number in numbers.split(",")]


def _cpu() -> Device:
    # A job on the CPU must not take a device that another slot owns.
    return Device("cpu", (("CUDA_VISIBLE_DEVICES", ""),))


def _cuda(device: CudaDevice, environment: Mapping[str, str]) -> Device:
    # Ordinals of the operator's own variable keep the order that the operator's environment gives them.
    ours = device.identifier.isdigit() and "CUDA_VISIBLE_DEVICES" not in environment
    visible = (("CUDA_VISIBLE_DEVICES", device.identifier), *([PCI_ORDER] if ours else []))
    return Device("cuda", visible, product=device.product, partition=device.partition)
