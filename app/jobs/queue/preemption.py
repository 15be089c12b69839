"""Which running jobs save their state and make room for a waiting one: pure functions. See docs/decisions/0196.

Inside a project, a job may be stopped for one of higher priority that goes before it in the queue. Between projects, a
job may be stopped where its project has more than its share even without it, and the waiting one's project has no more
than its share even with it. So the exchange leaves nobody a reason to exchange back, and the devices that become free
go to the job for which they were freed.
"""

from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Final

from app.jobs.queue.fair_share import ProjectShares, Usage
from app.jobs.queue.reservations import Machine

#: No job is stopped for devices that become free by themselves within so many seconds: stopping takes about as long.
SOON: Final = 60.0

Place = tuple[datetime, str]


@dataclass(frozen=True, slots=True)
class Waiting:
    """The first job of the queue. `over`: devices of its own project that must become free first, by its limit."""

    id: str
    project: str
    devices: int
    priority: int
    place: Place  # queue_time and id: the order inside its project
    over: int = 0


@dataclass(frozen=True, slots=True)
class Stoppable:
    """A running job that has got further since it started, and that had to make room less often than is allowed."""

    id: str
    attempt: int
    project: str
    devices: int
    priority: int
    place: Place


@dataclass(frozen=True, slots=True)
class Host:
    """A worker that could run the waiting job, and which of its jobs may be stopped."""

    machine: Machine
    jobs: Sequence[Stoppable] = ()


@dataclass(frozen=True, slots=True)
class Balance:
    """What projects have, and what they should have of all devices: by weight, among those that run or wait."""

    shares: ProjectShares
    usages: Mapping[str, Usage]
    devices: int

    def due(self, project: str) -> float:
        """The project's share, as a number of devices."""
        return self.devices * self.shares.weight(project) / sum(self.shares.weight(each) for each in self.usages)

    def may_stop(self, job: Stoppable, waiting: Waiting, stopped: Collection[Stoppable] = ()) -> bool:
        """Whether the job may be stopped for the waiting one, after those that are `stopped` already."""
        if job.project == waiting.project:
            return job.priority < waiting.priority and waiting.place < job.place

        lost = job.devices + sum(each.devices for each in stopped if each.project == job.project)
        before, after = self.usages[job.project], self.usages.get(waiting.project, Usage())
        return (
            before.running - lost >= self.due(job.project)
            and after.running + waiting.devices <= self.due(waiting.project)
            and self.shares.level(waiting.project, after) < self.shares.level(job.project, before, started=-lost)
        )

    def last_first(self, job: Stoppable) -> tuple[float, Place]:
        """The order of the queue, if all these jobs waited."""
        return self.shares.level(job.project, self.usages[job.project]), job.place


def jobs_to_stop(waiting: Waiting, hosts: Sequence[Host], balance: Balance) -> list[Stoppable]:
    """The jobs of one worker that make room for the waiting one; none where room comes soon, or may not be made.

    Of the workers, the one on which the least work is interrupted: the fewest devices, then the fewest jobs.
    """
    if not waiting.over and any(_soon(host.machine, waiting.devices) for host in hosts):
        return []
    found = [jobs for host in hosts if (jobs := _on(host, waiting, balance))]
    return min(found, key=lambda jobs: (sum(job.devices for job in jobs), len(jobs), jobs[0].id), default=[])


def _soon(machine: Machine, devices: int) -> bool:
    seconds = machine.room_in(devices)
    return machine.capacity >= devices and seconds is not None and seconds <= SOON


def _on(host: Host, waiting: Waiting, balance: Balance) -> list[Stoppable]:
    """The jobs of this worker that go last, as many as are needed; none where these do not suffice."""
    chosen: list[Stoppable] = []
    for job in sorted(host.jobs, key=balance.last_first, reverse=True):
        if _enough(host, waiting, chosen):
            break
        if balance.may_stop(job, waiting, chosen):
            chosen.append(job)

    if not _enough(host, waiting, chosen):
        return []
    for job in chosen[::-1]:  # a small job goes on where a larger one that was added later frees enough
        others = [each for each in chosen if each is not job]
        if _enough(host, waiting, others):
            chosen = others
    return chosen


def _enough(host: Host, waiting: Waiting, stopped: Sequence[Stoppable]) -> bool:
    freed = Counter[str]()
    for job in stopped:
        freed[job.project] += job.devices
    room = host.machine.free + freed.total() >= waiting.devices
    return room and host.machine.capacity >= waiting.devices and freed[waiting.project] >= waiting.over
