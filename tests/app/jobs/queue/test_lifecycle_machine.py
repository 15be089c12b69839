"""The lifecycle under arbitrary interleavings: several workers, lost, doubled and reordered messages, stopped clocks.

Messages lie in a mailbox: each is delivered in any order, doubled, or lost, and what its reader then does is a claim. A
worker whose clock stands still does not know that its lease has run out, and finishes late; two workers' own clocks may
differ by any amount, since every rule here runs in one process whose `now` is taken from the database alone.
"""

from collections import Counter
from datetime import timedelta
from functools import partial
from typing import Any, ClassVar

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    Bundle,
    RuleBasedStateMachine,
    consumes,
    invariant,
    multiple,
    precondition,
    rule,
    run_state_machine_as_test,
)
from sqlalchemy import delete, select, update

from app.db import Database, now
from app.errors import Conflict
from app.jobs.queue import lifecycle, making_room, workers
from app.jobs.queue.attempt import AttemptUpdates, Lease, LeaseLost, Outcome
from app.jobs.queue.event_log import NewEvent
from app.jobs.queue.fair_share import EQUAL
from app.jobs.queue.offers import CPU, Offer
from app.jobs.queue.states import LEASED, TERMINAL
from app.jobs.queue.tables import Event, Job, ProjectUsage
from app.jobs.queue.usage import differences
from tests.app.jobs.jobs import new_job

pytestmark = pytest.mark.slow

CRASH_LIMIT = 3
LARGE = Offer({CPU: 3}, {CPU: 3})


class Fleet(RuleBasedStateMachine):
    """Workers and requesters act in any order; `holder` is the model: which attempt may still write for a job."""

    db: ClassVar[Database]
    leases = Bundle("leases")
    jobs = Bundle("jobs")

    def __init__(self) -> None:
        super().__init__()
        with self.db.write() as session:
            session.execute(delete(Event))
            session.execute(delete(Job))
            session.execute(delete(ProjectUsage))
        self.holder: dict[str, int | None] = {}
        self.projects: dict[str, str] = {}
        self.mailbox: list[str] = []
        self.asleep: set[tuple[str, int]] = set()  # leases whose holders' clocks stand still
        self.crashes: Counter[str] = Counter()
        self.losses: Counter[str] = Counter()
        self.ended: dict[str, str] = {}
        self.steps: Counter[str] = Counter()
        for worker in ("a", "b", "c"):
            workers.register(self.db, worker, devices=3, kind=CPU)

    # ---- requesters

    @rule(
        target=jobs,
        priority=st.integers(0, 2),
        project=st.sampled_from(["default", "other"]),
        devices=st.integers(1, 3),
    )
    def submit(self, priority: int, project: str, devices: int) -> str:
        job, _ = lifecycle.submit(self.db, new_job(priority=priority, project=project, devices=devices))
        self.projects[job.id] = project
        self.holder[job.id] = None
        self.mailbox.append(job.id)
        return job.id

    @rule(job_id=jobs)
    def cancel(self, job_id: str) -> None:
        try:
            assert lifecycle.cancel(self.db, self.projects[job_id], job_id).status == "cancelled"
        except Conflict:
            assert self.ended[job_id] in {"succeeded", "failed"}
        else:
            assert self.ended.setdefault(job_id, "cancelled") == "cancelled"
            self.holder[job_id] = None

    @rule(job_id=jobs)
    def pause(self, job_id: str) -> None:
        try:
            assert lifecycle.pause(self.db, self.projects[job_id], job_id).status in {"pausing", "paused"}
        except Conflict:
            assert job_id in self.ended

    @rule(job_id=jobs)
    def resume(self, job_id: str) -> None:
        try:
            assert lifecycle.resume(self.db, self.projects[job_id], job_id).status in {"queued", "running"}
        except Conflict:
            assert job_id in self.ended

    # ---- workers

    @precondition(lambda self: self.mailbox)
    @rule(target=leases, worker=st.sampled_from(["a", "b", "c"]), at=st.integers(0, 1_000), doubled=st.booleans())
    def deliver(self, worker: str, at: int, doubled: bool):
        """Any message, in any order; a doubled one stays in the mailbox. Which job it names has no say."""
        message = self.mailbox[at % len(self.mailbox)]
        if not doubled:
            self.mailbox.remove(message)
        return self.claimed(worker)

    @precondition(lambda self: self.mailbox)
    @rule(at=st.integers(0, 1_000))
    def lose(self, at: int) -> None:
        del self.mailbox[at % len(self.mailbox)]

    @rule(target=leases, worker=st.sampled_from(["a", "b", "c"]))
    def look(self, worker: str):
        """What maintenance does without any message, and a message that names no job."""
        return self.claimed(worker)

    def claimed(self, worker: str):
        lease = lifecycle.claim(self.db, worker=worker, seconds=60, offer=LARGE)
        if lease is None:
            return multiple()
        assert self.holder[lease.job_id] is None, "two attempts of one job would both count"
        assert lease.job_id not in self.ended
        self.holder[lease.job_id] = lease.attempt
        return lease

    @rule(lease=leases)
    def beat(self, lease: Lease) -> None:
        self.steps[lease.job_id] += 1
        progress = {"step": self.steps[lease.job_id]}
        news = AttemptUpdates(progress=progress, events=[NewEvent("still here")])
        self.acts(lease, lambda: lifecycle.beat(self.db, lease, news))

    @rule()
    def make_room(self) -> None:
        """A job that is chosen is being run, and is so until its worker gives it back."""
        for job_id in making_room.make_room(self.db, EQUAL, most=2):
            assert self.holder[job_id] is not None

    @rule(lease=consumes(leases), status=st.sampled_from(["succeeded", "failed"]))
    def finish(self, lease: Lease, status: Any) -> None:
        if self.acts(lease, lambda: lifecycle.finish(self.db, lease, Outcome(status))):
            self.ended[lease.job_id] = status
            self.holder[lease.job_id] = None
            lifecycle.finish(self.db, lease, Outcome(status))  # its answer was lost: repeated, and still once

    @rule(lease=consumes(leases))
    def release(self, lease: Lease) -> None:
        if self.acts(lease, lambda: lifecycle.release(self.db, lease)):
            self.holder[lease.job_id] = None

    @rule(lease=consumes(leases), paused=st.booleans())
    def give_up(self, lease: Lease, paused: bool) -> None:
        """The device is lost, or the disk is full."""
        lost, full = partial(lifecycle.lose, limit=CRASH_LIMIT), partial(lifecycle.pause_attempt, reason="full")
        write = full if paused else lost
        if self.acts(lease, lambda: write(self.db, lease)):
            self.holder[lease.job_id] = None
            self.losses[lease.job_id] += not paused
            if self.losses[lease.job_id] == CRASH_LIMIT:
                self.ended[lease.job_id] = "failed"

    @rule(lease=leases)
    def crash(self, lease: Lease) -> None:
        if self.acts(lease, lambda: lifecycle.crash(self.db, lease, "killed", limit=CRASH_LIMIT)):
            self.crashed(lease.job_id)

    def acts(self, lease: Lease, write) -> bool:
        """A write counts exactly when this attempt holds the job and its lease has not run out, known or not."""
        held = self.holder[lease.job_id] == lease.attempt and (lease.job_id, lease.attempt) not in self.asleep
        try:
            write()
        except LeaseLost:
            assert not held, "the holder was refused"
            return False
        assert held, "a fenced-off worker wrote"
        return True

    # ---- time and maintenance

    @rule(lease=leases)
    def clock_stops(self, lease: Lease) -> None:
        """The holder sleeps; its lease runs out by the database's clock, and no maintenance has come by yet."""
        if self.holder[lease.job_id] == lease.attempt:
            with self.db.write() as session:
                past = now(session) - timedelta(seconds=1)
                session.execute(update(Job).where(Job.id == lease.job_id).values(lease_until=past))
            self.asleep.add((lease.job_id, lease.attempt))

    @rule()
    def recover(self) -> None:
        self.mailbox += lifecycle.recover(self.db, limit=CRASH_LIMIT)
        for job_id, attempt in self.asleep:
            if self.holder[job_id] == attempt:
                self.crashed(job_id)
        self.asleep.clear()

    @rule()
    def back_off_ends(self) -> None:
        with self.db.write() as session:
            session.execute(update(Job).values(not_before=None))

    def crashed(self, job_id: str) -> None:
        self.holder[job_id] = None
        self.crashes[job_id] += 1
        if self.crashes[job_id] >= CRASH_LIMIT:
            self.ended[job_id] = "failed"

    # ---- what must always be true

    @invariant()
    def the_books_balance(self) -> None:
        with self.db.read() as session:
            rows = session.scalars(select(Job)).all()
            numbers = Counter(session.scalars(select(Event.job_id)))
            unbalanced = differences(session)
        assert unbalanced == [], "a lease began or ended, and its project's usage did not"
        assert {row.id for row in rows} == set(self.holder), "a job was lost"
        for row in rows:
            assert (row.status in TERMINAL) == (row.id in self.ended)
            assert self.ended.get(row.id, row.status) == row.status
            assert (row.lease_owner is not None) == (row.status in LEASED) == (self.holder[row.id] is not None)
            assert numbers[row.id] == row.events_count, "a gap or a double in the events"
            assert row.preempted_for is None or row.status in LEASED, "a request outlived its attempt"
            assert row.preemptions <= 2

    def teardown(self) -> None:
        """Whatever happened: one honest worker ends every job that is not paused, so none is stuck."""
        for job_id in self.holder:
            if job_id not in self.ended:
                lifecycle.resume(self.db, self.projects[job_id], job_id)
        with self.db.write() as session:
            past = now(session) - timedelta(seconds=1)
            session.execute(update(Job).values(lease_until=past, not_before=None))
        lifecycle.recover(self.db, limit=CRASH_LIMIT)
        with self.db.write() as session:
            session.execute(update(Job).values(not_before=None))
        while lease := lifecycle.claim(self.db, worker="last", seconds=60, offer=LARGE):
            lifecycle.finish(self.db, lease, Outcome("succeeded"))
        with self.db.read() as session:
            assert set(session.scalars(select(Job.status))) <= TERMINAL, "a job is stuck"


@pytest.mark.timeout(280)
def test_any_interleaving(db):
    """No interleaving makes two attempts count, loses a job, or leaves one stuck."""
    machine = type("FleetOnDatabase", (Fleet,), {"db": db})
    bounds = settings(max_examples=40, stateful_step_count=40, deadline=None, suppress_health_check=list(HealthCheck))
    run_state_machine_as_test(machine, settings=bounds)
