"""The leader's side of a gang: it calls the members up, tells them the plan, watches them, and explains their end."""

import threading
import time
from contextlib import suppress
from dataclasses import dataclass, field, replace
from typing import Final

from app.db import Database
from app.jobs.queue import gang_rows
from app.jobs.queue.attempt import AttemptUpdates, Lease
from app.jobs.queue.event_log import NewEvent
from app.jobs.queue.gang_rows import JOIN_SECONDS, MemberState
from app.models.tables import Model
from app.storage.blobs import Storage
from worker.protocol import (
    EXIT_DEVICE_LOST,
    EXIT_DONE,
    EXIT_NO_ROOM,
    EXIT_SIGNALLED,
    EXIT_STOPPED,
    WorkOrder,
    Workspace,
)
from worker.supervisor.gang import travelling
from worker.supervisor.gang.address import GangAddress
from worker.supervisor.gang.plan import GangPlan, MemberOutcome
from worker.supervisor.installation import code_digest
from worker.supervisor.lease import AWAY, LeaseKeeper
from worker.supervisor.outcomes import DeviceLost, DiskFull, TrainerCrashed, TrainerRefused, TrainerStopped
from worker.supervisor.reports import ReportReader

#: Seconds between looks at the members.
LOOK_SECONDS: Final = 0.25
#: Seconds in which a member says how its trainer ended, once the leader's has ended badly.
WORD_SECONDS: Final = 5.0


class NotFormed(Exception):
    """No gang came together; the job goes back into the queue, and no retry is spent."""


class MemberDeviceLost(DeviceLost):
    """A device of a member failed. The job resumes on another gang."""


class MemberLost(TrainerCrashed):
    """A member is not heard of any more: its machine is gone, or the network to it."""


@dataclass(slots=True)
class Leader:
    """Leads the gang of one attempt; `stopping` is set when this worker shuts down."""

    db: Database
    storage: Storage
    address: GangAddress
    keeper: LeaseKeeper
    stopping: threading.Event
    _looked_at: float = float("-inf")
    _broken: bool = False
    _seen: list[MemberState] = field(default_factory=list)

    @property
    def lease(self) -> Lease:
        return self.keeper.lease

    def should_stop(self) -> bool:
        """Whether the job is to be given back."""
        return self.keeper.stop_requested or self.stopping.is_set()

    def call_up(self) -> None:
        """Wait until every invited worker has taken its place. Raises NotFormed."""
        began = time.monotonic()
        deadline = began + JOIN_SECONDS + LOOK_SECONDS
        while missing := [each for each in self._look() if each.state == "invited"]:
            if time.monotonic() > deadline:
                self._forget(missing)
                raise NotFormed(f"{_names(missing)} did not answer")
            self._pause()
        names = [self.lease.worker.rpartition("/")[0], *(each.worker for each in self._seen)]
        event = NewEvent(f"Gang of {self.lease.machines} machines formed", data={"workers": names})
        self.keeper.post(AttemptUpdates(events=[event], formed_in=time.monotonic() - began), urgent=True)

    def meet(self, base: Model, workspace: Workspace, order: WorkOrder) -> WorkOrder:
        """Tell the plan, wait until every member has staged its files, and return the leader's own order.

        Raises TrainerCrashed where a member cannot take part.
        """
        checkpoint = self.keeper.until_stored(lambda: travelling.newest(self.db, order.job_id))
        travelling.bring(self.storage, workspace, checkpoint)
        endpoint = f"{self.address.address}:{self.address.free_port()}"
        plan = GangPlan(endpoint, code_digest(), base.id, base.root, checkpoint)
        self.keeper.until_stored(lambda: gang_rows.publish(self.db, self.lease, plan.to_json()))

        while any(each.state != "ready" for each in self._look()):
            if self.broken() or any(each.outcome is not None for each in self._seen):
                raise self._explained() or TrainerCrashed("a member of the gang ended before training")
            self._pause()
        return replace(
            order, machines=self.lease.machines, machine=0, meeting=endpoint, interface=self.address.interface
        )

    def broken(self) -> bool:
        """Whether a member has ended badly, or is not heard of any more; looked up a few times a second."""
        if not self._broken and time.monotonic() - self._looked_at >= LOOK_SECONDS:
            self._broken = any(_bad(each) for each in self._look())
        return self._broken

    def explain(self, code: int, reports: ReportReader) -> None:
        """Raise what the members say about a trainer of the leader that ended badly; nothing where they know no more.

        The leader's own ranks only see that a connection broke, so a member gets some seconds to say what happened.
        """
        own_word = reports.failed is not None or self.should_stop() or not 0 < code < EXIT_SIGNALLED
        if not self._broken and (own_word or code in (EXIT_STOPPED, EXIT_NO_ROOM, EXIT_DEVICE_LOST)):
            return
        deadline = time.monotonic() + WORD_SECONDS
        while any(each.outcome is None and each.alive for each in self._look()) and time.monotonic() < deadline:
            if self.keeper.expired or _reasons(self._seen):
                break
            time.sleep(LOOK_SECONDS)
        explained = self._explained()
        if explained is not None:
            raise explained

    def _explained(self) -> Exception | None:
        """The first word of a member that is a reason; of one that gave no word, that it did not answer."""
        if reasons := _reasons(self._seen):
            return reasons[0]
        silent = [each for each in self._seen if each.outcome is None]
        if silent:
            self._forget(silent)
            return MemberLost(f"{_names(silent)} of the gang stopped answering")
        codes = [(each.worker, MemberOutcome.from_json(each.outcome or {}).code) for each in self._seen]
        if any(code == EXIT_STOPPED for _, code in codes):
            return TrainerStopped()
        bad = [f"{worker} with code {code}" for worker, code in codes if code]
        return TrainerCrashed(f"the trainer ended on {', '.join(bad)}") if bad else None

    def _forget(self, members: list[MemberState]) -> None:
        with suppress(*AWAY):  # they are taken to be gone after a minute all the same
            gang_rows.forget_workers(self.db, [each.worker for each in members])

    def _look(self) -> list[MemberState]:
        """The members as they are; as they were where the database is away."""
        self._looked_at = time.monotonic()
        try:
            self._seen = gang_rows.members(self.db, self.lease) or self._seen
        except AWAY:
            if self.keeper.expired:
                raise
        return self._seen

    def _pause(self) -> None:
        if self.keeper.lost is not None:
            raise self.keeper.lost
        if self.should_stop():
            raise TrainerStopped
        time.sleep(LOOK_SECONDS)


def _reasons(members: list[MemberState]) -> list[Exception]:
    """What members say that is a reason by itself: a report, a full disk, a lost device, a fault before training."""
    reasons: list[Exception] = []
    for member in members:
        outcome = MemberOutcome.from_json(member.outcome or {})
        if outcome.failed is not None:
            reasons.append(TrainerRefused(outcome.failed))
        elif outcome.code == EXIT_NO_ROOM:
            reasons.append(DiskFull(member.worker))
        elif outcome.code == EXIT_DEVICE_LOST:
            reasons.append(MemberDeviceLost())
        elif outcome.error is not None:
            reasons.append(TrainerCrashed(f"{member.worker}: {outcome.error}"))
    return reasons


def _bad(member: MemberState) -> bool:
    if member.outcome is None:
        return not member.alive
    return MemberOutcome.from_json(member.outcome).code not in (EXIT_DONE, EXIT_STOPPED)


def _names(members: list[MemberState]) -> str:
    return ", ".join(each.worker for each in members)
