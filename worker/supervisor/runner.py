"""The story of one job in a worker: claim, workspace, base, training, evidence, one transaction at the end."""

import itertools
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Final, TypeVar

import structlog
from structlog.contextvars import bound_contextvars

from app.db import Database
from app.errors import OutOfSpace, PermafrostError, SignerUnavailable, SourceUnavailable, StorageUnavailable
from app.evidence.format.rotation import signers
from app.evidence.transparency.journal import Journal
from app.jobs.queue import claims, lifecycle
from app.jobs.queue.attempt import Lease, LeaseLost, Outcome
from app.jobs.queue.fair_share import ProjectShares
from app.jobs.queue.states import TERMINAL
from app.jobs.queue.tables import Job
from app.models.tables import Model
from app.secrets.vault import VaultClosed
from app.settings import Settings
from app.specs.data import DataSpec
from app.specs.models import ModelSpec, TransformersSpec
from app.storage.blobs import Storage
from worker.protocol import Stage, WorkOrder, Workspace
from worker.supervisor import attempt_folder, bases, results
from worker.supervisor.artifacts import read_quantised
from worker.supervisor.attempt_trace import AttemptTrace
from worker.supervisor.checkpoints import Publisher
from worker.supervisor.devices import Device, Slots
from worker.supervisor.lease import AWAY, LeaseKeeper
from worker.supervisor.log_entries import open_journal
from worker.supervisor.log_shipping import LogShipper
from worker.supervisor.outcomes import DeviceLost, DiskFull, TrainerCrashed, TrainerStopped, explain, problem_of
from worker.supervisor.prefix_folder import PrefixFolders
from worker.supervisor.process.child import Child, Forkserver
from worker.supervisor.recipes import Seen
from worker.supervisor.reports import ReportReader
from worker.supervisor.staging import Staging
from worker.supervisor.timestamps import Authority

log = structlog.get_logger(__name__)
T = TypeVar("T")

DISK_FULL: Final = "the worker's disk is full; make room, then resume the job: it goes on from its last checkpoint"

#: Seconds between reads of a trainer's reports.
LOOK_SECONDS: Final = 0.02
#: Seconds that the trainer of a job that is no longer ours may take to end.
CANCEL_SECONDS: Final = 5.0
#: Seconds between tries while the database is away.
RETRY_SECONDS: Final = 0.5
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
    stopping: threading.Event = field(default_factory=threading.Event)
    shares: ProjectShares = field(init=False)
    prefix_folders: PrefixFolders = field(init=False)
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
            lease = self._claim(since) if self.slots.free and not self.stopping.is_set() else None
            device = self.slots.take(lease.devices, lease.device) if lease else None

        if lease is None or device is None:
            return False
        heartbeat = self.settings.heartbeat_seconds
        try:
            with (
                bound_contextvars(job=lease.job_id, attempt=lease.attempt),  # in every log line of this attempt
                LeaseKeeper(self.db, lease, heartbeat=heartbeat, since=since) as keeper,
            ):
                self._attempt(keeper, device, AttemptTrace.of(self.db, lease, worker=self.worker))
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

    def _claim(self, since: float) -> Lease | None:
        """Claim a job, once. If the database did so and its answer was lost, the claim's name finds the job again."""
        name, seconds = f"{self.worker}/{next(self._claims)}", self.settings.lease_seconds
        try:
            return lifecycle.claim(self.db, worker=name, seconds=seconds, offer=self.slots.offer(), shares=self.shares)
        except AWAY as error:
            log.warning("the database did not answer a claim", error=str(error))

        while time.monotonic() < since + seconds:
            try:
                return claims.claimed(self.db, worker=name, seconds=seconds)
            except AWAY:
                time.sleep(RETRY_SECONDS)
        return None

    def _attempt(self, keeper: LeaseKeeper, device: Device, trace: AttemptTrace) -> None:
        """Run one attempt. Whatever happens, it changes the job's status at most once and leaves no files behind."""
        lease = keeper.lease
        workspace = attempt_folder.locate(self.settings.work, lease.job_id, lease.attempt)
        keeper.log_shipper = LogShipper(self.db, lease, workspace.log, aliases=self.path_aliases(workspace))

        try:
            status = self._settle(workspace, keeper, device, trace)
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
        self.prefix_folders.shrink()

    def _settle(self, workspace: Workspace, keeper: LeaseKeeper, device: Device, trace: AttemptTrace) -> str:
        """Do the attempt's work and make the one change of status that follows from it. Returns the new status."""
        lease = keeper.lease
        try:
            outcome = self._run_stages(workspace, keeper, device, trace)
        except TrainerStopped:
            return self._requeue(keeper, partial(lifecycle.release, self.db, lease))
        except DiskFull:
            return self._until_stored(keeper, lambda: lifecycle.pause_attempt(self.db, lease, DISK_FULL))
        except DeviceLost:
            return self._withdraw(device, keeper)
        self._until_stored(keeper, lambda: lifecycle.finish(self.db, lease, outcome))
        return outcome.status

    def _run_stages(self, workspace: Workspace, keeper: LeaseKeeper, device: Device, trace: AttemptTrace) -> Outcome:
        """Prepare base and data, train, then make evidence and a model of what the trainer left."""
        job = self._until_stored(keeper, lambda: self._job(keeper.lease.job_id))
        attempt_folder.create(workspace)
        reports = ReportReader(workspace.reports)
        reports.on_stage = trace.stage

        def initialise() -> None:
            self._run(self._order(job, keeper, device, "initialise"), workspace, keeper, device, reports)

        try:
            should_stop = partial(self._should_stop, keeper)
            staging = Staging(self.settings, self.db, self.storage, job, workspace)
            with trace.part("staging"):
                base = staging.base(initialise=initialise, should_stop=should_stop)
                if base.status == "pending":
                    self._wake(self.wake_model, base.id)
                if job.base_model != base.id:
                    bases.remember(self.db, keeper.lease, base.id, _pinned(job, base))
                quantised = self._quantise(job, workspace, keeper, device, reports)
                order = self._order(job, keeper, device, "train", data=staging.data(should_stop=should_stop))

            shared = self.prefix_folders.of_project(job.project)
            if shared is not None:
                order = replace(order, prefix_room=shared.room)
                workspace.prefix_cache.symlink_to(shared.folder)
            publisher = Publisher(self.db, self.storage, job, base, workspace, keeper)
            with trace.part("training"), publisher:
                reports.on_checkpoint = publisher.offer
                self._run(order, workspace, keeper, device, reports, writable=[shared.folder] if shared else [])

            self._until_stored(keeper, keeper.flush)  # and the last checkpoints
            keys = signers(self.settings.signing_key_path, command=self.settings.signer)
            signer = results.Signer(self.db, self.storage, keys, self.authority, self.journal)
            seen = Seen(
                handed=staging.handed,
                checkpoints=publisher.states,
                device=device.name,
                devices=device.count,
                quantised=quantised,
            )
            with trace.part("evidence"):
                return results.conclude(signer, job, base, workspace, reports, seen)
        except (OutOfSpace, SignerUnavailable, SourceUnavailable, StorageUnavailable, VaultClosed) as error:
            raise TrainerCrashed(error.message) from error  # not the job's fault, and worth another try
        except PermafrostError as error:
            self._until_stored(keeper, keeper.flush)  # reports that the trainer wrote before it gave up
            return Outcome("failed", error=problem_of(error), evidence=results.violated(job, reports))

    # ---- the trainer

    def _quantise(
        self, job: Job, workspace: Workspace, keeper: LeaseKeeper, device: Device, reports: ReportReader
    ) -> Mapping[str, str]:
        """Digests of the weights that loading quantises, from the base alone, before there is data; empty without."""
        if not isinstance(job.spec, TransformersSpec) or job.spec.quantize is None:
            return {}
        self._run(self._order(job, keeper, device, "quantise"), workspace, keeper, device, reports)
        return read_quantised(workspace)

    def _order(
        self, job: Job, keeper: LeaseKeeper, device: Device, stage: Stage, *, data: DataSpec | None = None
    ) -> WorkOrder:
        return WorkOrder(
            job_id=job.id,
            attempt=keeper.lease.attempt,
            stage=stage,
            model=job.spec,
            task=job.task,
            data=data or job.data_spec,
            hyperparameters=job.hyperparameter_spec,
            policy=job.policy,
            evidence=job.evidence_spec,
            seed=job.seed,
            device=device.name,
            devices=device.count if stage == "train" else 1,
            strategy=job.strategy,
        )

    def _run(
        self,
        order: WorkOrder,
        workspace: Workspace,
        keeper: LeaseKeeper,
        device: Device,
        reports: ReportReader,
        *,
        writable: Sequence[Path] = (),
    ) -> None:
        """Run one trainer process to its end. Returns when it did its work; raises what happened otherwise."""
        order.save(workspace.root)
        try:
            code = self._wait_for(workspace, keeper, device, reports, writable=writable)
        finally:
            keeper.ship_log(ended=True)
        self._forward(reports, keeper)
        if not keeper.expired:
            self._until_stored(keeper, keeper.flush)  # its last reports, while the job is still ours
        explain(code, reports, stop_requested=self._should_stop(keeper), keeper=keeper)

    def _wait_for(
        self,
        workspace: Workspace,
        keeper: LeaseKeeper,
        device: Device,
        reports: ReportReader,
        *,
        writable: Sequence[Path],
    ) -> int:
        start = partial(self.forkserver.start, environment=dict(device.environment), several=device.count > 1)
        with start(workspace.root, writable=writable) as child:
            child.extend_lease(keeper.until)
            reports.heard_at = time.monotonic()  # only now: a forkserver may have had to import torch before
            while (code := child.wait(LOOK_SECONDS)) is None:
                child.extend_lease(keeper.until)
                self._forward(reports, keeper)
                if self._should_stop(keeper):
                    code = self._stop(child, reports, keeper)
                    break
                if time.monotonic() - reports.heard_at > self.settings.stall_seconds:
                    child.kill()
                    raise TrainerCrashed(f"the trainer reported nothing for {self.settings.stall_seconds:.0f} seconds")
        return code

    def _should_stop(self, keeper: LeaseKeeper) -> bool:
        """Whether the job was cancelled or paused, is no longer ours, or this worker is shutting down."""
        return keeper.stop_requested or self.stopping.is_set()

    def _forward(self, reports: ReportReader, keeper: LeaseKeeper) -> None:
        """Pass new reports on to the database; the first step at once, since it is what users wait for."""
        stepped = reports.stepped
        news = reports.read()
        keeper.post(news, urgent=reports.stepped and not stepped)

    def _stop(self, child: Child, reports: ReportReader, keeper: LeaseKeeper) -> int:
        """Ask the trainer to save its state and stop, and wait for it; a job that is no longer ours gets less time."""
        child.terminate()
        asked_at = time.monotonic()
        while (code := child.wait(LOOK_SECONDS)) is None:
            child.extend_lease(keeper.until)
            self._forward(reports, keeper)
            grace = CANCEL_SECONDS if keeper.expired else self.settings.grace_seconds
            if time.monotonic() - asked_at > min(grace, self.settings.grace_seconds):
                child.kill()
                code = child.wait()
                break

        assert code is not None
        return code

    # ---- endings

    def _requeue(self, keeper: LeaseKeeper, move: Callable[[], str]) -> str:
        """Change the status, and wake other workers at once if the job is queued again."""
        status = self._until_stored(keeper, move)
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

    def _withdraw(self, device: Device, keeper: LeaseKeeper) -> str:
        """Requeue the job for another device, and give this device no other job."""
        log.error("a device is lost and gets no more jobs", device=device.name, job=keeper.lease.job_id)
        self.slots.withdraw(device)
        lose = partial(lifecycle.lose, self.db, keeper.lease, limit=self.settings.max_crashes)
        status = self._requeue(keeper, lose)
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
        try:
            return self._until_stored(
                keeper,
                lambda: lifecycle.crash(self.db, keeper.lease, reason[:2000], log_tail=lines, limit=limit),
            )
        except LeaseLost as lost:
            return lost.status  # another worker has the job now and records it

    def _until_stored(self, keeper: LeaseKeeper, write: Callable[[], T]) -> T:
        """Repeat a guarded write while the database is away, for as long as the lease lasts."""
        while True:
            try:
                return write()
            except AWAY as error:
                if keeper.expired:
                    raise LeaseLost(keeper.lease, "unknown, the database does not answer") from error
                log.warning("the database is away", job=keeper.lease.job_id, error=str(error))
                time.sleep(RETRY_SECONDS)

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
