"""Device slots of this worker: a job runs on one of them, or on several together. Found without importing torch."""

import os
import re
import threading
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from app.errors import InvalidRequest

DEV = Path("/dev")


@dataclass(frozen=True, slots=True)
class Device:
    """A device that a trainer may use: its name in PyTorch, and the variables that hide every other device."""

    name: str
    environment: tuple[tuple[str, str], ...] = ()
    members: tuple["Device", ...] = ()  # the devices of a group that one job uses

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
        return len(self.devices) - len(self._withdrawn)

    @property
    def none_left(self) -> bool:
        return len(self._withdrawn) == len(self.devices)

    def withdraw(self, device: Device) -> None:
        """Give this device, or any of this group, to no further job; the job that has it now does not give it back."""
        self._withdrawn += device.members or (device,)

    def take(self, count: int = 1) -> Device | None:
        """Take `count` free devices as one, until they are given back; None when fewer are free."""
        if count > len(self._free):
            return None
        taken = [self._free.pop(0) for _ in range(count)]
        return taken[0] if count == 1 else _grouped(taken)

    def give_back(self, device: Device) -> None:
        lost = {id(each) for each in self._withdrawn}
        self._free += [each for each in device.members or (device,) if id(each) not in lost]


def _grouped(devices: list[Device]) -> Device:
    """Several devices as one. The job's ranks see all of them, and each takes the one of its rank."""
    visible = ",".join(value for each in devices for _, value in each.environment if value)
    return Device(devices[0].name, (("CUDA_VISIBLE_DEVICES", visible),), tuple(devices))


def find_devices(setting: str, *, environment: Mapping[str, str] | None = None) -> list[Device]:
    """The devices that PERMAFROST_DEVICES names: `auto`, `cpu`, `cpu:4` (four jobs at a time), `cuda` or `cuda:0,2`."""
    visible = _visible(os.environ if environment is None else environment)
    if setting == "auto":
        return [_cuda(each) for each in visible] or [Device("cpu")]
    if match := re.fullmatch(r"cpu(?::(\d+))?", setting):
        return [_cpu() for _ in range(max(1, int(match[1] or 1)))]
    if match := re.fullmatch(r"cuda(?::(\d+(?:,\d+)*))?", setting):
        numbers = match[1].split(",") if match[1] else visible
        missing = [number for number in numbers if number not in visible]
        if not visible:
            raise InvalidRequest(f"PERMAFROST_DEVICES={setting}: this worker has no CUDA device")
        if missing:
            message = f"there is no CUDA device {', '.join(missing)}; this worker has {', '.join(visible)}"
            raise InvalidRequest(f"PERMAFROST_DEVICES={setting}: {message}")
        return [_cuda(number) for number in numbers]
    raise InvalidRequest(f"PERMAFROST_DEVICES={setting}: write auto, cpu, cpu:4, cuda or cuda:0,2")


def _cpu() -> Device:
    # A job on the CPU must not take a device that another slot owns.
    return Device("cpu", (("CUDA_VISIBLE_DEVICES", ""),))


def _cuda(identifier: str) -> Device:
    return Device("cuda", (("CUDA_VISIBLE_DEVICES", identifier),))


def _visible(environment: Mapping[str, str]) -> list[str]:
    """Identifiers of the CUDA devices that this process may use: the variable's, else those with a device file."""
    if "CUDA_VISIBLE_DEVICES" in environment:
        return [each for each in environment["CUDA_VISIBLE_DEVICES"].split(",") if each and each != "-1"]
    numbers = [each.name.removeprefix("nvidia") for each in DEV.glob("nvidia[0-9]*")]
    return sorted((each for each in numbers if each.isdigit()), key=int)
