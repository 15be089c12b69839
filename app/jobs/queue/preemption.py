"""Which running jobs save their state and make room for a waiting one: pure functions. See docs/decisions/0196.

Inside a project, a job may be stopped for one of higher priority that goes before it in the queue. Between projects, a
job may be stopped where its project has more than its share even without it, and the waiting one's project has no more
than its share even with it. So the exchange leaves nobody a reason to exchange back, and the devices that become free
go to the job for which they were freed.

A running gang is stopped as a whole, and frees devices on each of its workers. For a gang that waits, jobs on several
workers are stopped together, or none: only where they suffice for every place of it.
"""

from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
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
    """The first job of the queue, which needs `devices` in all, as many on each of its machines.

    `over`: devices of its own project that must become free first, by its limit.
    """

    id: str
    project: str
    devices: int
    priority: int
    place: Place  # queue_time and id: the order inside its project
    over: int = 0
    machines: int = 1

    @property
    def on_each(self) -> int:
        return self.devices // self.machines


@dataclass(frozen=True, slots=True)
class Stoppable:
    """A running job that has got further since it started, and that had to make room less often than is allowed."""

    id: str
    attempt: int
    project: str
    on: Mapping[str, int]  # its devices by worker: of a gang, of several
    priority: int
    place: Place

    @property
    def devices(self) -> int:
        return sum(self.on.values())


@dataclass(frozen=True, slots=True)
class Host:
    """A worker that could run the waiting job or a part of it, and which of its jobs may be stopped.

    Workers of one `kind` could be in one gang. As a gang counts, more may be in use than it could have: what is free is
    less than nothing then.
    """

    machine: Machine
    jobs: Sequence[Stoppable] = ()
    kind: tuple[str, str] = ("", "")

    def room(self, stopped: Iterable[Stoppable]) -> int:
        """Devices that are free once these jobs have stopped."""
        return self.machine.free + sum(job.on.get(self.machine.name, 0) for job in stopped)


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
    """The jobs that make room for the waiting one; none where room comes soon, or may not be made for all of it.

    They are those of one worker, or for a gang of as many as it needs: where the least work is interrupted, which is
    the fewest devices, then the fewest jobs.
    """
    groups = [[host] for host in hosts] if waiting.machines == 1 else _alike(hosts)
    if not waiting.over and any(_soon(group, waiting) for group in groups):
        return []
    found = [jobs for group in groups if (jobs := _of_group(group, waiting, balance))]
    return min(found, key=_interrupted, default=[])


def _alike(hosts: Sequence[Host]) -> list[list[Host]]:
    kinds = dict.fromkeys(host.kind for host in hosts)
    return [[host for host in hosts if host.kind == kind] for kind in kinds]


def _soon(group: Sequence[Host], waiting: Waiting) -> bool:
    """Whether enough workers have room by themselves in a moment."""
    rooms = [host.machine.room_in(waiting.on_each) for host in group if host.machine.capacity >= waiting.on_each]
    return sum(seconds is not None and seconds <= SOON for seconds in rooms) >= waiting.machines


def _interrupted(jobs: Sequence[Stoppable]) -> tuple[int, int, str]:
    return sum(job.devices for job in jobs), len(jobs), jobs[0].id if jobs else ""


def _of_group(group: Sequence[Host], waiting: Waiting, balance: Balance) -> list[Stoppable]:
    """The jobs of a group of workers that make room together; none where these do not suffice.

    One worker after the other, each time the one on which least is interrupted beside what is chosen already.
    """
    chosen: list[Stoppable] = []
    left = {host.machine.name: host for host in group if host.machine.capacity >= waiting.on_each}
    for _ in range(waiting.machines):
        each = {name: _on(host, waiting, balance, chosen) for name, host in left.items()}
        found = {name: jobs for name, jobs in each.items() if jobs is not None}
        if not found:
            return []
        least = min(found, key=lambda name: (_interrupted(found[name]), name))
        chosen += found[least]
        del left[least]

    below_limit = _of_its_own(group, waiting, balance, chosen)
    return [] if below_limit is None else _without_spare([*chosen, *below_limit], group, waiting)


def _on(host: Host, waiting: Waiting, balance: Balance, chosen: Sequence[Stoppable]) -> list[Stoppable] | None:
    """The jobs of this worker that make room on it; None where these do not suffice."""
    return _last_ones(host.jobs, waiting, balance, chosen, lambda stopped: host.room(stopped) >= waiting.on_each)


def _of_its_own(
    group: Sequence[Host], waiting: Waiting, balance: Balance, chosen: Sequence[Stoppable]
) -> list[Stoppable] | None:
    """The jobs of the waiting one's project that bring it below its limit; None where these do not suffice."""
    own = {job.id: job for host in group for job in host.jobs if job.project == waiting.project}
    return _last_ones(own.values(), waiting, balance, chosen, lambda stopped: _below_limit(waiting, stopped))


def _last_ones(
    jobs: Iterable[Stoppable],
    waiting: Waiting,
    balance: Balance,
    chosen: Sequence[Stoppable],
    enough: Callable[[Sequence[Stoppable]], bool],
) -> list[Stoppable] | None:
    """The jobs that go last, as many as are `enough` beside the chosen ones; None where all do not suffice."""
    stopped = [*chosen]
    for job in sorted(jobs, key=balance.last_first, reverse=True):
        if enough(stopped):
            break
        if job not in stopped and balance.may_stop(job, waiting, stopped):
            stopped.append(job)
    return stopped[len(chosen) :] if enough(stopped) else None


def _without_spare(chosen: list[Stoppable], group: Sequence[Host], waiting: Waiting) -> list[Stoppable]:
    """Without jobs that need not stop: a small one goes on where a larger one that was added later frees enough."""
    for job in chosen[::-1]:
        others = [each for each in chosen if each is not job]
        places = sum(host.room(others) >= waiting.on_each for host in group)
        if places >= waiting.machines and _below_limit(waiting, others):
            chosen = others
    return chosen


def _below_limit(waiting: Waiting, stopped: Iterable[Stoppable]) -> bool:
    return sum(job.devices for job in stopped if job.project == waiting.project) >= waiting.over
