"""The story of one job in a worker: claim, workspace, base, training, evidence, one transaction at the end."""

import itertools
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Final, TypeVar

import structlog
from structlog.contextvars import bound_contextvars

from app.db import Database
from app.errors import OutOfSpace, PermafrostError, SignerUnavailable, SourceUnavailable, StorageUnavailable
from app.evidence.format.rotation import signers
from app.evidence.transparency.journal import Journal
from app.jobs.queue import claims, gang_rows, lifecycle
from app.jobs.queue.attempt import Lease, LeaseLost, Outcome
from app.jobs.queue.fair_share import ProjectShares
from app.jobs.queue.gang_rows import GangPlace
from app.jobs.queue.offers import Offer
from app.jobs.queue.states import TERMINAL
from app.jobs.queue.tables import Job
from app.models.tables import Model
from app.settings import Settings
from app.specs.models import ModelSpec, TransformersSpec
from app.storage.blobs import Storage
from app.vault import VaultClosed
from worker.protocol import EXIT_DEVICE_LOST, Workspace
from worker.supervisor import attempt_folder, bases, results
from worker.supervisor.artifacts import read_made
from worker.supervisor.attempt_run import AttemptRun
from worker.supervisor.attempt_trace import AttemptTrace
from worker.supervisor.checkpoints import Publisher
from worker.supervisor.devices import Device, Slots
from worker.supervisor.gang import travelling
from worker.supervisor.gang.address import GangAddress
from worker.supervisor.gang.leader import Leader, MemberDeviceLost, MemberLost, NotFormed
from worker.supervisor.gang.member import Member
from worker.supervisor.initial_bases import InitialBases
from worker.supervisor.lease import AWAY, RETRY_SECONDS, LeaseKeeper
from worker.supervisor.log_entries import open_journal
from worker.supervisor.log_shipping import LogShipper
from worker.supervisor.orders import order_of
from worker.supervisor.outcomes import DeviceLost, DiskFull, TrainerCrashed, TrainerStopped, problem_of
from worker.supervisor.prefix_folder import PrefixFolders
from worker.supervisor.process.child import Forkserver
from worker.supervisor.recipes import Seen
from worker.supervisor.reports import ReportReader
from worker.supervisor.staging import Staging
from worker.supervisor.timestamps import Authority

log = structlog.get_logger(__name__)
T = TypeVar("T")

#: Exceptions of the supervisor that depend on the job and its files, and how many attempts may meet one.
RECURRING: Final = (ArithmeticError, AssertionError, AttributeError, LookupError, TypeError, ValueError)
RECURRING_ATTEMPTS: Final = 2


@dataclass(slots=True)
class Runner:
    """Runs jobs in this worker process, one thread per job. `stopping` is set once, when the worker shuts down."""

    settings: Settings
    db: Database
    storage: Storage
    forkserver: Forkserver
    slots: Slots
    worker: str
    #: Tells other workers of a job that this one gives back.
    wake_workers: Callable[[str], None] = lambda _: None
    #: Has the tensors of a new base model read, by any worker.
    wake_model: Callable[[str], None] = lambda _: None
    #: Ends this worker process, when it has lost every device.
    shut_down: Callable[[], None] = lambda: None
    #: Where other workers meet this one to train a job together; None: it takes no such job.
    gang_address: GangAddress | None = None
    stopping: threading.Event = field(default_factory=threading.Event)
    shares: ProjectShares = field(init=False)
    prefix_folders: PrefixFolders = field(init=False)
    initial_bases: InitialBases = field(default_factory=InitialBases)
    _wakes: Iterator[int] = field(default_factory=lambda: itertools.count(1))
    _woken: int = 0
    _claims: Iterator[int] = field(default_factory=lambda: itertools.count(1))

    def __post_init__(self) -> None:
        self.shares = ProjectShares.of(self.settings)
        self.prefix_folders = PrefixFolders(self.settings, slots=len(self.slots.devices))

    def run_waiting(self) -> None:
        """Run waiting jobs, best first, until no job waits or every slot is in use."""
        self._woken = next(self._wakes)
        while True:
            seen = self._woken
            # A call that finds every slot in use returns; the thread that gives a slot back sees here that it came.
            if not self.run_next() and self._woken == seen:
                return

    def run_next(self) -> bool:
        """Run the best waiting job as far as it gets. False when no job waits or too few slots are free.

        A job that needs several slots keeps its position: jobs behind it do not take the slots that it waits for.
        """
        with self.slots.choosing:
            since = time.monotonic()
            found = self._next(since) if self.slots.free and not self.stopping.is_set() else None
            device = self.slots.take(found.devices, found.device) if found else None

        if found is None or device is None:
            return False
        try:
            with bound_contextvars(job=found.job_id, attempt=found.attempt):  # in every log line of this attempt
                if isinstance(found, GangPlace):
                    self._take_part(found, device)
                else:
                    self._lead(found, device, since)
        finally:
            self.slots.give_back(device)
        return True

    def path_aliases(self, workspace: Workspace) -> dict[str, str]:
        """Folders of this machine, and the names that replace them in a trainer's log."""
        return {
            str(workspace.root): "<job>",
            str(self.settings.home): "<data>",
            str(self.settings.models): "<models>",
        }

    @property
    def authority(self) -> Authority | None:
        """Who stamps signatures with the time, if anybody does."""
        return Authority(self.settings.tsa_url) if self.settings.tsa_url else None

    @property
    def journal(self) -> Journal | None:
        """The transparency log, if this worker can sign for it."""
        return open_journal(self.settings, self.db, self.storage)

    def _next(self, since: float) -> Lease | GangPlace | None:
        """A place in a gang that waits for this worker, or else the best job."""
        place = self._invitation() if self.gang_address else None
        return place or self._claim(since)

    def _invitation(self) -> GangPlace | None:
        try:
            return gang_rows.invitation(self.db, self.worker)
        except AWAY:
            return None

    def _offer(self) -> Offer:
        return self.slots.offer(gangs=self.gang_address is not None)

    def _lead(self, lease: Lease, device: Device, since: float) -> None:
        with LeaseKeeper(self.db, lease, heartbeat=self.settings.heartbeat_seconds, since=since) as keeper:
            self._attempt(keeper, device, AttemptTrace.of(self.db, lease, worker=self.worker))

    def _claim(self, since: float) -> Lease | None:
        """Claim a job, once. If the database did so and its answer was lost, the claim's name finds the job again."""
        name, seconds = f"{self.worker}/{next(self._claims)}", self.settings.lease_seconds
        try:
            return lifecycle.claim(self.db, worker=name, seconds=seconds, offer=self._offer(), shares=self.shares)
        except AWAY as error:
            log.warning("the database did not answer a claim", error=str(error))

        while time.monotonic() < since + seconds:
            try:
                return claims.claimed(self.db, worker=name, seconds=seconds)
            except AWAY:
                time.sleep(RETRY_SECONDS)
        return None

    def _take_part(self, place: GangPlace, device: Device) -> None:
        """Train a part of a job that another worker leads."""
        assert self.gang_address is not None
        if not gang_rows.join(self.db, place, seconds=self.settings.lease_seconds):
            return  # too late, or another thread has taken it
        member = Member(
            self.settings,
            self.db,
            self.storage,
            self.forkserver,
            self.gang_address,
            self.worker,
            self.stopping,
            place,
            device,
        )
        outcome = member.run(self.path_aliases(member.workspace))
        log.info("part in a gang ended", outcome=outcome)
        if outcome is not None and outcome.code == EXIT_DEVICE_LOST:
            self._withdraw(device, lambda: "")

    def _attempt(self, keeper: LeaseKeeper, device: Device, trace: AttemptTrace) -> None:
        """Run one attempt. Whatever happens, it changes the job's status at most once and leaves no files behind."""
        lease = keeper.lease
        workspace = attempt_folder.locate(self.settings.work, lease.job_id, lease.attempt)
        keeper.log_shipper = LogShipper(self.db, lease, workspace.log, aliases=self.path_aliases(workspace))
        reports, leader = ReportReader(workspace.reports), self._leader(keeper)
        run = AttemptRun(
            self.settings, self.forkserver, self.stopping, workspace, keeper, device, trace, reports, leader
        )

        try:
            status = self._settle(run)
        except LeaseLost as lost:
            status = lost.status
        except Exception as error:  # a bug here must not leave a job running for ever
            if not isinstance(error, TrainerCrashed):
                log.exception("an attempt failed in the supervisor", job=lease.job_id)
            status = self._record_crash(keeper, workspace, error)

        keeper.ship_log(ended=True)  # lines that the database did not take earlier
        log.info("attempt ended", status=status)
        trace.end(status)
        attempt_folder.discard(workspace, ended=status in TERMINAL)
        if lease.machines > 1 and status in TERMINAL:
            with suppress(*AWAY):  # the state goes with the job, then
                travelling.forget(self.db, self.storage, lease.job_id)
        self.prefix_folders.shrink()

    def _settle(self, run: AttemptRun) -> str:
        """Do the attempt's work and make the one change of status that follows from it. Returns the new status."""
        keeper, lease = run.keeper, run.keeper.lease
        try:
            outcome = self._run_stages(run)
        except TrainerStopped:
            return self._requeue(keeper, partial(lifecycle.release, self.db, lease))
        except NotFormed as missing:
            return self._requeue(keeper, partial(lifecycle.postpone, self.db, lease, str(missing)))
        except DiskFull as full:
            reason = str(full)
            return keeper.until_stored(lambda: lifecycle.pause_attempt(self.db, lease, reason))
        except DeviceLost as lost:
            own = None if isinstance(lost, MemberDeviceLost) else run.device
            lose = partial(lifecycle.lose, self.db, lease, limit=self.settings.max_crashes)
            return self._withdraw(own, lambda: self._requeue(keeper, lose))
        keeper.until_stored(lambda: lifecycle.finish(self.db, lease, outcome))
        return outcome.status

    def _run_stages(self, run: AttemptRun) -> Outcome:
        """Prepare base and data, train, then make evidence and a model of what the trainer left."""
        workspace, keeper, device, reports = run.workspace, run.keeper, run.device, run.reports
        job = keeper.until_stored(lambda: self._job(keeper.lease.job_id))
        attempt_folder.create(workspace)
        reports.on_stage = run.trace.stage
        if run.leader is not None:
            run.leader.call_up()

        def initialise() -> None:
            if not self.initial_bases.write(job, workspace.base):
                run.trainer(order_of(job, keeper.lease.attempt, device, "initialise"))
                self.initial_bases.keep(job, workspace.base)

        try:
            staging = Staging(self.settings, self.db, self.storage, job, workspace)
            with run.trace.part("staging"):
                base = staging.base(initialise=initialise, should_stop=run.should_stop)
                if base.status == "pending":
                    self._wake(self.wake_model, base.id)
                if job.base_model != base.id:
                    bases.remember(self.db, keeper.lease, base.id, _pinned(job, base))
                made = self._made_weights(job, run)
                data = staging.data(should_stop=run.should_stop)
                order = order_of(job, keeper.lease.attempt, device, "train", data=data)
                if run.leader is not None:
                    order = run.leader.meet(base, workspace, order)

            # Results of frozen layers are kept by one process alone.
            shared = self.prefix_folders.of_project(job.project) if run.leader is None else None
            if shared is not None:
                order = replace(order, prefix_room=shared.room)
                workspace.prefix_cache.symlink_to(shared.folder)
            publisher = Publisher(self.db, self.storage, job, base, workspace, keeper)
            with run.trace.part("training"), publisher:
                reports.on_checkpoint = publisher.offer
                run.trainer(order, writable=[shared.folder] if shared else [])

            keeper.until_stored(keeper.flush)  # and the last checkpoints
            keys = signers(self.settings.signing_key_path, command=self.settings.signer)
            signer = results.Signer(self.db, self.storage, keys, self.authority, self.journal)
            seen = Seen(
                handed=staging.handed,
                checkpoints=publisher.states,
                device=device.name,
                devices=device.count * order.machines,
                made=made,
            )
            with run.trace.part("evidence"):
                return results.conclude(signer, job, base, workspace, reports, seen)
        except (OutOfSpace, SignerUnavailable, SourceUnavailable, StorageUnavailable, VaultClosed) as error:
            raise TrainerCrashed(error.message) from error  # not the job's fault, and worth another try
        except PermafrostError as error:
            keeper.until_stored(keeper.flush)  # reports that the trainer wrote before it gave up
            return Outcome("failed", error=problem_of(error), evidence=results.violated(job, reports))

    def _leader(self, keeper: LeaseKeeper) -> Leader | None:
        """The leader's side of a gang; None for a job on one machine."""
        if keeper.lease.machines == 1:
            return None
        assert self.gang_address is not None  # without one, this worker claims no such job
        return Leader(self.db, self.storage, self.gang_address, keeper, self.stopping)

    def _made_weights(self, job: Job, run: AttemptRun) -> Mapping[str, str]:
        """Digests of what loading makes of stored tensors, from the base alone, before there is data; empty without."""
        if not bases.makes_weights(job.spec, run.workspace.base):
            return {}
        run.trainer(order_of(job, run.keeper.lease.attempt, run.device, "make"))
        return read_made(run.workspace)

    # ---- endings

    def _requeue(self, keeper: LeaseKeeper, move: Callable[[], str]) -> str:
        """Change the status, and wake other workers at once if the job is queued again."""
        status = keeper.until_stored(move)
        if status == "queued":
            self._wake(self.wake_workers, keeper.lease.job_id)
        return status

    @staticmethod
    def _wake(send: Callable[[str], None], object_id: str) -> None:
        """Send a message. Where the broker does not take it, a later round of maintenance does what it is for."""
        try:
            send(object_id)
        except Exception as error:  # noqa: BLE001 - any error of the broker's client; the row is stored
            log.warning("the broker did not take a message", object_id=object_id, error=str(error))

    def _withdraw(self, device: Device | None, requeue: Callable[[], str]) -> str:
        """Requeue the job for another device, and give this device no other job."""
        if device is not None:
            log.error("a device is lost and gets no more jobs", device=device.name)
            self.slots.withdraw(device)
        status = requeue()
        if self.slots.none_left:
            self.shut_down()
        return status

    def _record_crash(self, keeper: LeaseKeeper, workspace: Workspace, error: Exception) -> str:
        """Record a crash. The job is tried again, but less often where the same exception is to be expected."""
        reason = (
            str(error) if isinstance(error, TrainerCrashed) else f"the worker failed: {type(error).__name__}: {error}"
        )
        lines, limit = attempt_folder.log_tail(workspace, self.path_aliases(workspace)), self.settings.max_crashes
        if isinstance(error, RECURRING):
            limit = min(limit, RECURRING_ATTEMPTS)
        record = partial(lifecycle.crash, self.db, keeper.lease, reason[:2000], log_tail=lines, limit=limit)
        try:
            return keeper.until_stored(partial(record, member_lost=isinstance(error, MemberLost)))
        except LeaseLost as lost:
            return lost.status  # another worker has the job now and records it

    # ---- rows

    def _job(self, job_id: str) -> Job:
        with self.db.read() as session:
            return session.get_one(Job, job_id)


def _pinned(job: Job, base: Model) -> ModelSpec:
    """The job's spec with the commit of a hub's model that was fetched for it; the row at hand has it, too."""
    spec, fetched = job.spec, base.model_spec
    if isinstance(spec, TransformersSpec) and isinstance(fetched, TransformersSpec) and spec.of_hub:
        spec = replace(spec, revision=fetched.revision)
        job.model_spec = spec.to_json()
    return spec
