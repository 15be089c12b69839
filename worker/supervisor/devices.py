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
    """`name` is what the trainer is told; `environment` hides every other device from it."""

    name: str
    environment: tuple[tuple[str, str], ...] = ()
    members: tuple["Device", ...] = ()  # of several that one job has together

    @property
    def count(self) -> int:
        return max(1, len(self.members))


class Slots:
    """The devices that no job uses now."""

    def __init__(self, devices: list[Device]) -> None:
        self.devices = tuple(devices)
        self._withdrawn: list[Device] = []
        self._free = list(devices)
        #: Held while somebody finds out how many he needs, so that what is free stays so.
        self.choosing = threading.Lock()

    @property
    def free(self) -> int:
        return len(self._free)

    @property
    def most(self) -> int:
        """That one job could ever have."""
        return len(self.devices) - len(self._withdrawn)

    @property
    def none_left(self) -> bool:
        return len(self._withdrawn) == len(self.devices)

    def withdraw(self, device: Device) -> None:
        """No job gets this device any more, or any of several; whoever has it now does not give it back."""
        self._withdrawn += device.members or (device,)

    def take(self, count: int = 1) -> Device | None:
        """So many free devices as one, until they are given back; None when fewer are free."""
        if count > len(self._free):
            return None
        taken = [self._free.pop(0) for _ in range(count)]
        return taken[0] if count == 1 else _together(taken)

    def give_back(self, device: Device) -> None:
        lost = {id(each) for each in self._withdrawn}
        self._free += [each for each in device.members or (device,) if id(each) not in lost]


def _together(devices: list[Device]) -> Device:
    """Its trainers see all of them, and each takes the one of its own number."""
    visible = ",".join(value for each in devices for _, value in each.environment if value)
    return Device(devices[0].name, (("CUDA_VISIBLE_DEVICES", visible),), tuple(devices))


def find_devices(asked: str, *, environment: Mapping[str, str] | None = None) -> list[Device]:
    """`auto`, `cpu`, `cpu:4` (four jobs side by side), `cuda` or `cuda:0,2`."""
    visible = _visible(os.environ if environment is None else environment)
    if asked == "auto":
        return [_cuda(each) for each in visible] or [Device("cpu")]
    if match := re.fullmatch(r"cpu(?::(\d+))?", asked):
        return [_cpu() for _ in range(max(1, int(match[1] or 1)))]
    if match := re.fullmatch(r"cuda(?::(\d+(?:,\d+)*))?", asked):
        wanted = match[1].split(",") if match[1] else visible
        absent = [each for each in wanted if each not in visible]
        if absent or not wanted:
            there = ", ".join(visible) or "none"
            raise InvalidRequest(f"PERMAFROST_DEVICES={asked}: CUDA device not found; there are: {there}")
        return [_cuda(each) for each in wanted]
    raise InvalidRequest(f"PERMAFROST_DEVICES={asked}: write auto, cpu, cpu:4, cuda or cuda:0,2")


def _cpu() -> Device:
    # A job on the CPU must not grab a device that another slot owns.
    return Device("cpu", (("CUDA_VISIBLE_DEVICES", ""),))


def _cuda(identifier: str) -> Device:
    return Device("cuda", (("CUDA_VISIBLE_DEVICES", identifier),))


def _visible(environment: Mapping[str, str]) -> list[str]:
    """Identifiers of the CUDA devices that this process may use: the variable's, else those with a device file."""
    if "CUDA_VISIBLE_DEVICES" in environment:
        return [each for each in environment["CUDA_VISIBLE_DEVICES"].split(",") if each and each != "-1"]
    numbers = [each.name.removeprefix("nvidia") for each in DEV.glob("nvidia[0-9]*")]
    return sorted((each for each in numbers if each.isdigit()), key=int)
