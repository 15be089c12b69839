"""Device slots of this worker: one job runs on one slot at a time. Found without importing torch."""

import os
import queue
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from app.errors import InvalidRequest

DEV = Path("/dev")


@dataclass(frozen=True, slots=True)
class Device:
    """`name` is what the trainer is told; `environment` hides every other device from it."""

    name: str
    environment: tuple[tuple[str, str], ...] = ()


class Slots:
    """The devices that no job uses now."""

    def __init__(self, devices: list[Device]) -> None:
        self.devices = tuple(devices)
        self._withdrawn: list[Device] = []
        self._free: queue.SimpleQueue[Device] = queue.SimpleQueue()
        for device in devices:
            self._free.put(device)

    @property
    def free(self) -> int:
        return self._free.qsize()

    @property
    def none_left(self) -> bool:
        return len(self._withdrawn) == len(self.devices)

    def withdraw(self, device: Device) -> None:
        """No job gets this device any more; whoever has it now does not give it back."""
        self._withdrawn.append(device)

    @contextmanager
    def take(self) -> Iterator[Device | None]:
        """A free device for as long as the block lasts; None when all are in use."""
        try:
            device = self._free.get_nowait()
        except queue.Empty:
            yield None
            return
        try:
            yield device
        finally:
            if not any(each is device for each in self._withdrawn):
                self._free.put(device)


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
