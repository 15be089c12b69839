"""A member's side of a gang: it takes its place, stages what the leader's plan names, and runs its ranks.

It changes nothing of the job but its own place. When that is gone, because the attempt has ended in whatever way, its
trainer ends too.
"""

import errno
import threading
import time
from contextlib import suppress
from dataclasses import dataclass, field
from types import TracebackType
from typing import Final, Self

import structlog

from app.db import Database
from app.errors import PermafrostError
from app.evidence.format.digest import sha256_file
from app.jobs.queue import gang_rows
from app.jobs.queue.attempt import Lease
from app.jobs.queue.gang_rows import GangPlace, PlaceLost
from app.jobs.queue.states import TERMINAL
from app.jobs.queue.tables import Job
from app.models.papers import without_papers
from app.models.tables import Model
from app.settings import Settings
from app.storage.blobs import Storage
from worker.protocol import EXIT_NO_ROOM, EXIT_STOPPED, WorkOrder, Workspace, read_reports
from worker.supervisor import attempt_folder
from worker.supervisor.devices import Device
from worker.supervisor.gang import travelling
from worker.supervisor.gang.address import GangAddress
from worker.supervisor.gang.plan import GangPlan, MemberOutcome
from worker.supervisor.installation import code_digest
from worker.supervisor.lease import AWAY, MARGIN
from worker.supervisor.log_shipping import LogShipper
from worker.supervisor.orders import order_of
from worker.supervisor.outcomes import TrainerStopped
from worker.supervisor.process.child import Child, Forkserver
from worker.supervisor.staging import Staging

log = structlog.get_logger(__name__)

#: Seconds between looks: at the place, at the plan, at the trainer, at what it prints.
LOOK_SECONDS: Final = 0.25
CHILD_SECONDS: Final = 0.02
CARRY_SECONDS: Final = 1.0
#: Seconds that a trainer may take to end once the attempt is over.
CANCEL_SECONDS: Final = 5.0


class PlaceKeeper:
    """Keeps one place in a thread. `plan` is the leader's once there is one; `lost` once the attempt has ended."""

    def __init__(self, db: Database, place: GangPlace, *, seconds: float, heartbeat: float) -> None:
        self.plan: GangPlan | None = None
        self._db, self._place, self._seconds, self._heartbeat = db, place, seconds, heartbeat
        self._until = self._beaten = time.monotonic()
        self._gone = False
        self._closed = threading.Event()
        self._thread = threading.Thread(target=self._keep, name=f"place-{place.job_id}", daemon=True)

    @property
    def until(self) -> float:
        """When the place is lost if no further beat comes through, by the monotonic clock."""
        return self._until

    @property
    def lost(self) -> bool:
        return self._gone or time.monotonic() > self._until - MARGIN * self._seconds

    def beat(self, state: str | None = None) -> None:
        """Extend the lease now. Raises PlaceLost."""
        at = time.monotonic()
        plan = gang_rows.beat(self._db, self._place, seconds=self._seconds, state=state)
        self._until = self._beaten = at
        self._until += self._seconds
        if plan is not None and self.plan is None:
            self.plan = GangPlan.from_json(plan)

    def __enter__(self) -> Self:
        self.beat()
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._closed.set()
        self._thread.join()

    def _keep(self) -> None:
        while not self._gone and not self._closed.wait(LOOK_SECONDS):
            try:
                if self.plan is None or time.monotonic() - self._beaten >= self._heartbeat:
                    self.beat()
                elif gang_rows.gone(self._db, self._place):
                    self._gone = True
            except PlaceLost:
                self._gone = True
            except AWAY as error:
                log.warning("the database did not answer a heartbeat", job=self._place.job_id, error=str(error))


@dataclass(slots=True)
class Member:
    """One worker's part in one attempt, on the devices that it has taken for it."""

    settings: Settings
    db: Database
    storage: Storage
    forkserver: Forkserver
    address: GangAddress
    worker: str
    stopping: threading.Event
    place: GangPlace
    device: Device
    _carried: float = field(default=0.0)

    @property
    def workspace(self) -> Workspace:
        """Beside the leader's, which may be in the same folder, with checkpoints of its own."""
        folder = self.settings.work / self.place.job_id / f"rank-{self.place.rank}"
        return Workspace(folder / f"a{self.place.attempt}")

    def run(self, aliases: dict[str, str]) -> MemberOutcome | None:
        """Take part until the attempt ends, and tell the leader how it went; None where it ended without us."""
        place, workspace = self.place, self.workspace
        lease = Lease(place.job_id, place.attempt, self.worker, self.settings.lease_seconds)
        label = f"[machine {place.rank}] "
        shipper = LogShipper(self.db, lease, workspace.log, aliases=aliases, label=label)
        outcome = None
        try:
            keeping = PlaceKeeper(
                self.db, place, seconds=self.settings.lease_seconds, heartbeat=self.settings.heartbeat_seconds
            )
            with keeping as keeper:
                outcome = self._outcome(keeper, shipper)
                self._tell(keeper, outcome)
        except PlaceLost:
            log.info("the attempt ended before this worker took part", job=place.job_id)
        with suppress(*AWAY, OSError):
            shipper.ship(ended=True)
        attempt_folder.discard(workspace, ended=self._status() in TERMINAL)
        return outcome

    def _outcome(self, keeper: PlaceKeeper, shipper: LogShipper) -> MemberOutcome:
        try:
            order = self._staged(keeper)
            keeper.beat("ready")
            code = self._train(order, keeper, shipper)
        except TrainerStopped:
            return MemberOutcome(code=EXIT_STOPPED)
        except PlaceLost:
            raise
        except PermafrostError as error:
            return MemberOutcome(error=error.message)
        except OSError as error:
            if error.errno in (errno.ENOSPC, errno.EDQUOT):
                return MemberOutcome(code=EXIT_NO_ROOM)
            return MemberOutcome(error=f"{type(error).__name__}: {error}")
        except Exception as error:  # a bug here must not leave the leader waiting
            log.exception("a member of a gang failed", job=self.place.job_id)
            return MemberOutcome(error=f"{type(error).__name__}: {error}")
        return MemberOutcome(code, self._failure())

    def _staged(self, keeper: PlaceKeeper) -> WorkOrder:
        """Bring base, data and checkpoint into the workspace, and compare them with the leader's. Returns the order."""

        def should_stop() -> bool:
            if keeper.lost:
                raise PlaceLost
            return self.stopping.is_set()

        while (plan := keeper.plan) is None:
            if should_stop():
                raise TrainerStopped
            time.sleep(LOOK_SECONDS)
        if plan.code != code_digest():
            raise GangMismatch("this worker runs another version than the leader of its gang; run one version on all")

        with self.db.read() as session:
            job = session.get_one(Job, self.place.job_id)
        attempt_folder.create(self.workspace)
        staging = Staging(self.settings, self.db, self.storage, job, self.workspace)
        base = staging.base(initialise=_refuse_to_initialise, should_stop=should_stop)
        refuse_other_base(self.workspace, base, plan)
        data = staging.data(should_stop=should_stop)
        travelling.bring(self.storage, self.workspace, plan.checkpoint)
        if should_stop():
            raise TrainerStopped
        return order_of(
            job,
            self.place.attempt,
            self.device,
            "train",
            data=data,
            machines=self.place.machines,
            machine=self.place.rank,
            meeting=plan.endpoint,
            interface=self.address.interface,
        )

    def _train(self, order: WorkOrder, keeper: PlaceKeeper, shipper: LogShipper) -> int:
        """Run this machine's ranks to their end, and return their exit code."""
        order.save(self.workspace.root)
        environment = dict(self.device.environment)
        with self.forkserver.start(self.workspace.root, environment=environment, several=True) as child:
            while (code := child.wait(CHILD_SECONDS)) is None:
                child.extend_lease(keeper.until)
                self._carry(shipper)
                if keeper.lost:
                    child.stop(CANCEL_SECONDS)
                    raise PlaceLost
                if self.stopping.is_set():
                    return self._stop(child, keeper, shipper)
        return code

    def _stop(self, child: Child, keeper: PlaceKeeper, shipper: LogShipper) -> int:
        """Ask the ranks to stop; those of all machines do so together, after one step and a checkpoint."""
        child.terminate()
        deadline = time.monotonic() + self.settings.grace_seconds
        while (code := child.wait(CHILD_SECONDS)) is None:
            child.extend_lease(keeper.until)
            self._carry(shipper)
            if keeper.lost or time.monotonic() > deadline:
                child.kill()
                child.wait()
                return EXIT_STOPPED
        return code

    def _carry(self, shipper: LogShipper) -> None:
        """Store what the ranks here have printed, about once a second."""
        if time.monotonic() - self._carried < CARRY_SECONDS:
            return
        self._carried = time.monotonic()
        with suppress(*AWAY, OSError):
            shipper.ship()

    def _failure(self) -> dict[str, object] | None:
        """What a rank here has reported to be wrong with the job."""
        reports, _ = read_reports(self.workspace.reports)
        return next((report for report in reports if report["type"] == "failed"), None)

    def _tell(self, keeper: PlaceKeeper, outcome: MemberOutcome) -> None:
        """Tell the leader, for as long as the place lasts."""
        while not keeper.lost:
            try:
                gang_rows.end(self.db, self.place, outcome.to_json())
                return
            except AWAY:
                time.sleep(LOOK_SECONDS)

    def _status(self) -> str:
        try:
            with self.db.read() as session:
                job = session.get(Job, self.place.job_id)
                return job.status if job is not None else "gone"
        except AWAY:
            return "unknown"


class GangMismatch(PermafrostError):
    """A member of a gang has something else than its leader. The job's error is the crash that this is for it."""


def refuse_other_base(workspace: Workspace, base: Model, plan: GangPlan) -> None:
    """GangMismatch where the staged base is not the leader's, to the byte."""
    if (base.id, base.root) != (plan.base, plan.base_root):
        raise GangMismatch(
            f"this worker has the base {base.id} ({base.root}), its leader {plan.base} ({plan.base_root})"
        )
    for file in without_papers(base.files):
        if sha256_file(workspace.base / file["name"]) != file["sha256"]:
            message = f"the bytes of {file['name']} that this worker has staged are not those of the base {base.id}"
            raise GangMismatch(message)


def _refuse_to_initialise() -> None:
    raise GangMismatch("the leader of this gang has not stored the base that it made")
