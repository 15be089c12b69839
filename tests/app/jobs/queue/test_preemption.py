"""Who makes room for whom, as pure functions and as a simulation over made-up loads."""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from itertools import combinations
from typing import Any

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from app.jobs.queue.fair_share import EQUAL, Contender, ProjectShares, Usage, queue_time
from app.jobs.queue.preemption import Balance, Host, Stoppable, Waiting, jobs_to_stop
from app.jobs.queue.reservations import Machine, Running

START = datetime(2026, 1, 1, tzinfo=UTC)


def moment(hours: float) -> datetime:
    return START + timedelta(hours=hours)


def running(job_id: str, project: str = "a", *, devices: int = 1, priority: int = 0, hours: float = 0) -> Stoppable:
    place = (queue_time(moment(hours), priority), job_id)
    return Stoppable(job_id, 1, project, {"w": devices}, priority, place)


def gang(job_id: str, *names: str, devices: int = 1, **options: Any) -> Stoppable:
    """A running gang, with so many devices on each of these workers."""
    return replace(running(job_id, **options), on=dict.fromkeys(names, devices))


def waiting(
    project: str = "a", *, devices: int = 1, priority: int = 0, hours: float = 0, over: int = 0, machines: int = 1
) -> Waiting:
    place = (queue_time(moment(hours), priority), "new")
    return Waiting("new", project, devices, priority, place, over, machines)


def host(
    *jobs: Stoppable, free: int = 0, name: str = "w", left: float | None = None, others: int = 0, code: str = ""
) -> Host:
    """A worker whose jobs may all be stopped, besides so many devices of others."""
    here = [job if len(job.on) > 1 else replace(job, on={name: job.devices}) for job in jobs]
    busy = [*(Running(job.on[name], left) for job in here), Running(others, left)]
    return Host(Machine(name, free + sum(each.devices for each in busy), free, busy), here, (code, "cpu"))


def stopped(new: Waiting, *hosts: Host, shares: ProjectShares = EQUAL, **usages: int) -> list[str]:
    devices = sum(each.machine.capacity for each in hosts)
    have = {project: Usage(count) for project, count in usages.items()}
    return [job.id for job in jobs_to_stop(new, hosts, Balance(shares, have, devices))]


@pytest.mark.parametrize(
    ("priority", "hours", "expected"),
    [(0, 0.5, []), (2, 0.5, ["one"]), (2, 3, []), (-1, -5, [])],
    ids=["equal priority", "higher", "higher, but the other one is older", "older, but lower"],
)
def test_inside_a_project(priority: int, hours: float, expected: list[str]) -> None:
    """Priority must be higher, and the queue's order, in which waiting counts, must agree."""
    assert stopped(waiting(priority=priority, hours=hours), host(running("one")), a=1) == expected


@pytest.mark.parametrize(
    ("theirs", "ours", "weights", "expected"),
    [(4, 0, {}, ["3"]), (3, 1, {}, ["2"]), (2, 2, {}, []), (2, 2, {"b": 3.0}, ["1"]), (4, 0, {"b": 0.3}, [])],
    ids=["all", "one more than its share", "its share", "its share by weight", "less than a device"],
)
def test_between_projects(theirs: int, ours: int, weights: dict[str, float], expected: list[str]) -> None:
    """From a project that keeps its share, for one that stays within its own; the job that goes last is stopped."""
    jobs = [running(str(number), "a", hours=number) for number in range(theirs)]
    new, here = waiting("b", hours=9), host(*jobs, others=ours)
    assert stopped(new, here, shares=ProjectShares(weights), a=theirs, b=ours) == expected


def test_what_was_used_before_does_not_stop_jobs_but_may_keep_them() -> None:
    """A project that had more of late waits for its turn, even where it has less at this moment."""
    jobs = [running(str(number), "a") for number in range(4)]
    have = {"a": Usage(4, 1.0), "b": Usage(0, 2.0)}
    assert jobs_to_stop(waiting("b"), [host(*jobs)], Balance(EQUAL, have, 4)) == []


def test_only_as_many_as_are_needed() -> None:
    """Free devices count, and a small job goes on where a larger one frees enough."""
    small, large = running("small", hours=2), running("large", devices=3, hours=1)
    new = waiting(devices=4, priority=9)
    assert stopped(new, host(small, large, free=1), a=4) == ["large"]
    assert stopped(new, host(small, large), a=4) == ["small", "large"]
    assert stopped(replace(new, devices=5), host(small, large), a=4) == []


def test_the_worker_on_which_least_is_interrupted() -> None:
    """Fewer devices first, then fewer jobs; a job never gets devices of two workers."""
    new = waiting(devices=2, priority=9)
    two, one = host(running("1"), running("2")), host(running("3", devices=2), name="x")
    half = host(running("4"), free=1, name="y")
    assert stopped(new, two, one, a=4) == ["3"]
    assert stopped(new, two, one, half, a=5) == ["4"]
    assert stopped(new, host(running("1")), host(running("2"), name="x"), a=2) == []


@pytest.mark.parametrize(("left", "expected"), [(60.0, []), (61.0, ["one"]), (None, ["one"])])
def test_devices_that_become_free_soon(left: float | None, expected: list[str]) -> None:
    """On any worker that could run the job."""
    new, here = waiting(priority=1), host(running("one"))
    assert stopped(new, here, host(left=left, others=1, name="x"), a=2) == expected


def test_a_project_at_its_limit() -> None:
    """Devices that are free elsewhere do not help it; only jobs of its own make room."""
    new = waiting(priority=1, over=1)
    assert stopped(new, host(running("one"), running("theirs", "b"), free=1), a=1, b=1) == ["one"]
    assert stopped(new, host(running("theirs", "b"), free=1), a=1, b=1) == []


# ---- gangs

PAIR = waiting(devices=2, machines=2, priority=9)


def test_room_for_a_gang_is_made_on_all_its_machines_or_on_none() -> None:
    """A job on each of two workers, where no other is free; nothing where a place would still be lacking."""
    one, two = host(running("1"), name="x"), host(running("2"), name="y")
    assert stopped(PAIR, one, two, a=2) == ["1", "2"]
    assert stopped(PAIR, one, host(others=1, name="y"), a=2) == []
    assert stopped(PAIR, one, host(running("urgent", priority=9), name="y"), a=2) == []
    assert stopped(PAIR, one, a=1) == []
    assert stopped(PAIR, one, host(free=1, name="y"), a=1) == ["1"]
    assert stopped(PAIR, one, host(name="y", left=60.0, others=1), host(name="z", free=1), a=2) == []


def test_room_for_a_gang_is_made_on_workers_of_one_kind() -> None:
    """Those of two versions, or on two products, form none together."""
    jobs = [running(str(number)) for number in range(4)]
    old = [host(jobs[0], name="v", code="old"), host(jobs[1], name="w", code="old")]
    new = [host(jobs[2], name="x", code="new"), host(jobs[3], running("more"), name="y", code="new")]
    assert stopped(PAIR, old[0], new[0], a=2) == []
    assert stopped(PAIR, *old, *new, a=5) == ["0", "1"]
    assert stopped(replace(PAIR, devices=4), *old, new[1], a=4) == []


def test_a_gang_is_stopped_as_a_whole() -> None:
    """For one job on any of its machines, and at once for another gang; where a smaller job suffices, it goes on."""
    both = gang("both", "x", "y")
    here = [host(both, name="x"), host(both, name="y")]
    assert stopped(waiting(priority=1), *here, a=2) == ["both"]
    assert stopped(PAIR, *here, a=2) == ["both"]
    assert stopped(waiting(priority=1), *here, host(running("one"), name="z"), a=3) == ["one"]
    assert stopped(PAIR, *here, host(running("one"), name="z"), a=3) == ["both"]
    assert stopped(replace(PAIR, devices=3, machines=3), *here, host(running("one"), name="z"), a=3) == ["one", "both"]
    assert stopped(waiting(devices=2, priority=1), *here, a=2) == []


def test_a_gang_counts_with_all_its_devices() -> None:
    """Its project keeps its share without all of them, and a limit of the waiting one's is kept with all of them."""
    both = gang("both", "x", "y")
    here = [host(both, others=1, name="x"), host(both, others=1, name="y")]
    assert stopped(waiting("b"), *here, a=4, b=0) == ["both"]
    assert stopped(waiting("b"), *here, a=3, b=1) == []
    own = [host(running("1"), free=1, name="x"), host(running("2"), free=1, name="y")]
    assert stopped(replace(PAIR, over=1), *own, a=2) == ["2"]
    assert stopped(replace(PAIR, over=3), *own, a=2) == []


# ---- simulation


@dataclass(slots=True)
class Work:
    """A job of the simulation, of so many devices on each of its machines. `reached`: its steps; `began`: those with
    which this attempt began.
    """

    id: str
    project: str
    on_each: int
    priority: int
    arrives: int
    steps: int
    machines: int = 1
    on: tuple[int, ...] = ()
    reached: int = 0
    began: int = 0
    stops: int = 0

    @property
    def devices(self) -> int:
        return self.on_each * self.machines

    @property
    def place(self) -> tuple[datetime, str]:
        return queue_time(moment(self.arrives), self.priority), self.id


class Fleet:
    """Workers that take the first job of the queue that fits, and make room for it as the service does."""

    MOST = 3

    def __init__(self, sizes: list[int], jobs: list[Work], shares: ProjectShares) -> None:
        self.sizes, self.jobs, self.shares = sizes, jobs, shares
        self.usages = {job.project: Usage() for job in jobs}
        self.now = 0
        self.owed: str | None = None  # the job for which room was made

    def run(self) -> None:
        most = max(job.arrives for job in self.jobs) + sum(job.steps for job in self.jobs)
        while self.left():
            assert self.now <= most, "a job never ends"
            self.start()
            self.preempt()
            self.start()
            assert self.owed is None, "devices were freed for a job, and it did not start"
            self.step()
            self.now += 1

    def left(self) -> list[Work]:
        return [job for job in self.jobs if job.reached < job.steps]

    def queue(self) -> list[Work]:
        there = [job for job in self.left() if not job.on and job.arrives <= self.now]
        first = {job.project: job for job in sorted(there, key=lambda job: job.place, reverse=True)}
        contenders = [Contender(name, self.usages[name], moment(job.arrives)) for name, job in first.items()]
        return [first[each.project] for each in self.shares.in_order(contenders)]

    def free(self, worker: int) -> int:
        return self.sizes[worker] - sum(job.on_each for job in self.jobs if worker in job.on)

    def places(self, job: Work, room: list[int]) -> Iterator[tuple[int, ...]]:
        """The workers with so much room on which the job could run together."""
        able = [worker for worker, devices in enumerate(room) if devices >= job.on_each]
        return combinations(able, job.machines)

    def start(self) -> None:
        """Until the first job fits nowhere."""
        while queue := self.queue():
            first = queue[0]
            found = next(self.places(first, [self.free(worker) for worker in range(len(self.sizes))]), None)
            if found is None:
                return
            assert self.owed in (None, first.id), "another job got the devices"
            self.owed, first.on, first.began = None, found, first.reached
            self.change(first.project, first.devices)

    def preempt(self) -> None:
        queue = self.queue()
        if not queue:
            return
        first = queue[0]
        new = Waiting(first.id, first.project, first.devices, first.priority, first.place, machines=first.machines)
        active = {job.project for job in self.left() if job.on or job.arrives <= self.now}
        balance = Balance(self.shares, {name: self.usages[name] for name in active}, sum(self.sizes))
        chosen = {job.id for job in jobs_to_stop(new, [self.host(w) for w in range(len(self.sizes))], balance)}
        for job in self.jobs:
            if job.id in chosen:
                assert job.reached > job.began and job.stops < self.MOST
                job.on, job.stops, self.owed = (), job.stops + 1, first.id
                self.change(job.project, -job.devices)

    def host(self, worker: int) -> Host:
        here = [job for job in self.jobs if worker in job.on]
        may = [job for job in here if job.reached > job.began and job.stops < self.MOST]
        on = {job.id: {str(each): job.on_each for each in job.on} for job in may}
        jobs = [Stoppable(job.id, 1, job.project, on[job.id], job.priority, job.place) for job in may]
        busy = [Running(job.on_each, None) for job in here]
        return Host(Machine(str(worker), self.sizes[worker], self.free(worker), busy), jobs)

    def step(self) -> None:
        for job in self.jobs:
            if job.on:
                job.reached += 1
                if job.reached == job.steps:
                    job.on = ()
                    self.change(job.project, -job.devices)
        self.usages = {name: usage.later(3_600.0) for name, usage in self.usages.items()}

    def change(self, project: str, devices: int) -> None:
        usage = self.usages[project]
        self.usages[project] = Usage(usage.running + devices, usage.smoothed)


JOBS = st.tuples(
    st.sampled_from(["a", "b", "c"]),
    st.integers(1, 3),
    st.integers(-5, 5),
    st.integers(0, 12),
    st.integers(1, 9),
    st.sampled_from([1, 1, 1, 2, 3]),
)


@settings(max_examples=200)
@given(
    sizes=st.lists(st.integers(3, 5), min_size=1, max_size=3),
    jobs=st.lists(JOBS, min_size=1, max_size=14),
    weights=st.dictionaries(st.sampled_from(["a", "b", "c"]), st.sampled_from([0.5, 2.0, 3.0])),
)
def test_every_job_ends_and_devices_go_to_whom_they_were_freed_for(
    sizes: list[int], jobs: list[tuple[str, int, int, int, int, int]], weights: dict[str, float]
) -> None:
    """Whatever comes when: no job is stopped without progress or too often, and none that was stopped is stuck.

    A gang for which jobs were stopped starts in the same moment, on all its machines.
    """
    works = [Work(f"job-{n:02}", *job) for n, job in enumerate(jobs) if job[-1] <= len(sizes)]
    assume(works)
    Fleet(sizes, works, ProjectShares(weights)).run()
