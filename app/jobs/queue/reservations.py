"""Devices that are kept for a large job, and the smaller jobs that may use them meanwhile: pure functions.

As in EASY backfilling: the first job of the queue that needs more devices than are free anywhere has a reservation on
one machine, the one that will have room first. There, a smaller job may start only where it ends before that moment, or
where devices stay over even then. Other machines go on with smaller jobs. Nothing of it is stored: it is computed from
the rows, and two workers that do so come to the same result.
"""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Running:
    """A job that runs on a machine: its devices, and in how many seconds they are free; None: nobody knows."""

    devices: int
    seconds_left: float | None


@dataclass(frozen=True, slots=True)
class Machine:
    """A worker as one large job sees it: how many devices of its kind it has, and how many of them are free now."""

    name: str
    capacity: int
    free: int
    running: Sequence[Running] = ()

    def free_in(self, seconds: float) -> int:
        """Devices that are free by then, if nothing else starts."""
        ended = (job.devices for job in self.running if job.seconds_left is not None and job.seconds_left <= seconds)
        return min(self.capacity, self.free + sum(ended))

    def room_in(self, devices: int) -> float | None:
        """Seconds until so many devices are free; None where the estimates do not say."""
        ends = sorted(job.seconds_left for job in self.running if job.seconds_left is not None)
        return next((seconds for seconds in [0.0, *ends] if self.free_in(seconds) >= devices), None)


@dataclass(frozen=True, slots=True)
class Reservation:
    """So many devices of a machine for one large job, from the moment at which they are all free.

    Of a job on several machines, on each of them: it waits for the one that has room last.
    """

    machine: Machine
    devices: int
    gang: tuple[Machine, ...] = ()  # all its machines, of a job on several

    @property
    def starts_in(self) -> float | None:
        """Seconds until there is room on every machine; None where the estimates do not say."""
        rooms = [machine.room_in(self.devices) for machine in self.gang or (self.machine,)]
        known = [seconds for seconds in rooms if seconds is not None]
        return max(known) if len(known) == len(rooms) else None

    def admits(self, devices: int, seconds: float | None) -> bool:
        """Whether a job of so many free devices, which takes `seconds` at most, delays the large one by nothing."""
        start = self.starts_in
        if start is None:
            return False
        in_time = seconds is not None and seconds <= start
        return in_time or self.machine.free_in(start) - devices >= self.devices


def reserve(machines: Iterable[Machine], devices: int) -> Reservation | None:
    """The reservation of a job of so many devices; None where they are free somewhere, or no machine has as many.

    Of machines about which nothing is known, the one with most free devices, then the first by name.
    """
    large = [machine for machine in machines if machine.capacity >= devices]
    if not large or any(machine.free >= devices for machine in large):
        return None

    def key(machine: Machine) -> tuple[float, int, str]:
        start = machine.room_in(devices)
        return math.inf if start is None else start, -machine.free, machine.name

    return Reservation(min(large, key=key), devices)
