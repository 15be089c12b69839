"""The story of one job in a worker: claim, workspace, base, training, evidence, one transaction at the end."""

import itertools
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import partial
from typing import Final, TypeVar

import structlog

from app.db import Database
from app.errors import OutOfSpace, PermafrostError, StorageUnavailable
from app.evidence.format.rotation import signers
from app.freeze.policy import Policy
from app.jobs.queue import lifecycle
from app.jobs.queue.attempt import Lease, LeaseLost, Outcome
from app.jobs.queue.states import TERMINAL
from app.jobs.queue.tables import Job
from app.models.catalog import is_hub_spec
from app.settings import Settings
from app.specs.data import DataSpec
from app.specs.evidence import EvidenceSpec
from app.specs.hyperparameters import Hyperparameters
from app.specs.models import read_model
from app.storage.blobs import Storage
from worker.protocol import Stage, WorkOrder, Workspace
from worker.supervisor import attempt_folder, bases, results
from worker.supervisor.checkpoints import Publisher
from worker.supervisor.devices import Device, Slots
from worker.supervisor.lease import AWAY, LeaseKeeper
from worker.supervisor.log_shipping import LogShipper
from worker.supervisor.outcomes import DeviceLost, DiskFull, TrainerCrashed, TrainerStopped, explain, problem_of
from worker.supervisor.process.child import Child, Forkserver
from worker.supervisor.reports import ReportReader
from worker.supervisor.staging import Staging

log = structlog.get_logger(__name__)
T = TypeVar("T")

DISK_FULL: Final = "the worker's disk is full; make room, then resume the job: it goes on from its last checkpoint"

#: Seconds between looks at a trainer's reports.
LOOK_SECONDS: Final = 0.02
#: Seconds that a trainer may take to end whose work nobody wants any more.
CANCEL_SECONDS: Final = 5.0
#: Seconds between tries while the database is away.
RETRY_SECONDS: Final = 0.5


@dataclass(slots=True)
class Runner:
    """What every job of this worker shares. `stopping` is set once, when the worker drains."""

    settings: Settings
    db: Database
    storage: Storage
    forkserver: Forkserver
    slots: Slots
    worker: str
    #: Tells other workers of a job that this one gives back.
    wake_workers: Callable[[str], None] = lambda _: None
    #: Ends this worker process, which has no device left to work with.
    retire: Callable[[], None] = lambda: None
    stopping: threading.Event = field(default_factory=threading.Event)
    _wakes: Iterator[int] = field(default_factory=lambda: itertools.count(1))
    _woken: int = 0
    _claims: Iterator[int] = field(default_factory=lambda: itertools.count(1))

    def wake(self) -> None:
        """Runs waiting jobs, best first, until there are none or every slot is in use."""
        self._woken = next(self._wakes)
        while True:
            seen = self._woken
            # A wake that finds every slot in use leaves; whoever gives a slot back looks for it here.
            if not self.run_next() and self._woken == seen:
                return

    def run_next(self) -> bool:
        """Runs the best waiting job to its end, or as far as it gets; False when none waits or too few slots are free.

        A job that needs several slots keeps its place: those behind it do not take what it waits for.
        """
        with self.slots.choosing:
            since = time.monotonic()
            lease = self._claim(since) if self.slots.free and not self.stopping.is_set() else None
            device = self.slots.take(lease.devices) if lease else None
        if lease is None or device is None:
            return False
        try:
            with LeaseKeeper(self.db, lease, heartbeat=self.settings.heartbeat_seconds, since=since) as keeper:
                self._attempt(keeper, device)
        finally:
            self.slots.give_back(device)
        return True

    def path_aliases(self, workspace: Workspace) -> dict[str, str]:
        """What a trainer's log calls the folders of this machine."""
        return {
            str(workspace.root): "<job>",
            str(self.settings.home): "<data>",
            str(self.settings.models): "<models>",
        }

    def _claim(self, since: float) -> Lease | None:
        """Asked once. Where the database did it and its answer was lost, the claim's own name finds the job again."""
        name, seconds = f"{self.worker}/{next(self._claims)}", self.settings.lease_seconds
        try:
            free, most = self.slots.free, self.slots.most
            return lifecycle.claim(self.db, worker=name, seconds=seconds, free=free, most=most)
        except AWAY as error:
            log.warning("no answer to a claim", error=str(error))
        while time.monotonic() < since + seconds:
            try:
                return lifecycle.claimed(self.db, worker=name, seconds=seconds)
            except AWAY:
                time.sleep(RETRY_SECONDS)
        return None

    def _attempt(self, keeper: LeaseKeeper, device: Device) -> None:
        """Whatever happens, the attempt ends with at most one move of the job, and leaves nothing behind."""
        lease = keeper.lease
        workspace = attempt_folder.locate(self.settings.work, lease.job_id, lease.attempt)
        keeper.log_shipper = LogShipper(self.db, lease, workspace.log, aliases=self.path_aliases(workspace))
        try:
            status = self._to_the_end(workspace, keeper, device)
        except LeaseLost as lost:
            status = lost.status
        except Exception as error:  # a bug here must not leave a job running for ever
            if not isinstance(error, TrainerCrashed):
                log.exception("an attempt failed in the supervisor", job=lease.job_id)
            status = self._book_crash(keeper, workspace, error)
        keeper.ship_log(ended=True)  # what the database did not take when the trainer ended
        log.info("attempt ended", job=lease.job_id, attempt=lease.attempt, status=status)
        attempt_folder.discard(workspace, ended=status in TERMINAL)

    def _to_the_end(self, workspace: Workspace, keeper: LeaseKeeper, device: Device) -> str:
        """The attempt's work, and the one move of the job that it ends with. Returns the new status."""
        lease = keeper.lease
        try:
            outcome = self._work(workspace, keeper, device)
        except TrainerStopped:
            return self._give_back(keeper, partial(lifecycle.release, self.db, lease))
        except DiskFull:
            return self._firmly(keeper, lambda: lifecycle.pause_attempt(self.db, lease, DISK_FULL))
        except DeviceLost:
            return self._lose(device, keeper)
        self._firmly(keeper, lambda: lifecycle.finish(self.db, lease, outcome))
        return outcome.status

    def _work(self, workspace: Workspace, keeper: LeaseKeeper, device: Device) -> Outcome:
        job = self._firmly(keeper, lambda: self._job(keeper.lease.job_id))
        attempt_folder.create(workspace)
        reports = ReportReader(workspace.reports)

        def initialise() -> None:
            self._run(self._order(job, keeper, device, "initialise"), workspace, keeper, device, reports)

        try:
            staging = Staging(self.settings, self.db, self.storage, job, workspace)
            base = staging.base(initialise=initialise, unwanted=lambda: self._stop_asked(keeper))
            if job.base_model != base.id:
                if is_hub_spec(job.model_spec):
                    job.model_spec = {**job.model_spec, "revision": base.spec["revision"]}
                bases.remember(self.db, keeper.lease, base.id, job.model_spec)
            order = self._order(job, keeper, device, "train", data=staging.data())
            with Publisher(self.db, self.storage, job, base, workspace, keeper) as publisher:
                reports.on_checkpoint = publisher.offer
                self._run(order, workspace, keeper, device, reports)
            self._firmly(keeper, keeper.flush)  # and the last checkpoints
            signer = results.Signer(self.db, self.storage, signers(self.settings.signing_key_path))
            return results.conclude(signer, job, base, workspace, reports)
        except (OutOfSpace, StorageUnavailable) as error:
            raise TrainerCrashed(error.message) from error  # not the job's fault, and perhaps over soon
        except PermafrostError as refused:
            self._firmly(keeper, keeper.flush)  # what the trainer said before it gave up
            return Outcome("failed", error=problem_of(refused), evidence=results.violated(job, reports))

    # ---- the trainer

    def _order(
        self, job: Job, keeper: LeaseKeeper, device: Device, stage: Stage, *, data: DataSpec | None = None
    ) -> WorkOrder:
        return WorkOrder(
            job_id=job.id,
            attempt=keeper.lease.attempt,
            stage=stage,
            model=read_model(job.model_spec),
            task=job.task,
            data=data or DataSpec.from_json(job.data),
            hyperparameters=Hyperparameters.from_json(job.hyperparameters),
            policy=Policy.from_json(job.freeze_policy),
            evidence=EvidenceSpec.from_json(job.evidence_options),
            seed=job.seed,
            device=device.name,
            devices=device.count if stage == "train" else 1,
            strategy=job.strategy,
        )

    def _run(
        self, order: WorkOrder, workspace: Workspace, keeper: LeaseKeeper, device: Device, reports: ReportReader
    ) -> None:
        """One trainer process from start to end. Returns when it is done; raises what else became of it."""
        order.save(workspace.root)
        reports.heard_at = time.monotonic()
        try:
            code = self._wait_for(workspace, keeper, device, reports)
        finally:
            keeper.ship_log(ended=True)
        self._listen(reports, keeper)
        if not keeper.expired:
            self._firmly(keeper, keeper.flush)  # its last words, before the job is no longer ours
        explain(code, reports, asked=self._stop_asked(keeper), keeper=keeper)

    def _wait_for(self, workspace: Workspace, keeper: LeaseKeeper, device: Device, reports: ReportReader) -> int:
        environment, together = dict(device.environment), device.count > 1
        with self.forkserver.start(workspace.root, environment=environment, together=together) as child:
            child.keep(keeper.until)
            while (code := child.wait(LOOK_SECONDS)) is None:
                child.keep(keeper.until)
                self._listen(reports, keeper)
                if self._stop_asked(keeper):
                    code = self._stop(child, reports, keeper)
                    break
                if time.monotonic() - reports.heard_at > self.settings.stall_seconds:
                    child.kill()
                    raise TrainerCrashed(f"the trainer reported nothing for {self.settings.stall_seconds:.0f} seconds")
        return code

    def _stop_asked(self, keeper: LeaseKeeper) -> bool:
        """By whoever wishes something else of the job, or by this worker's end."""
        return keeper.stop_requested or self.stopping.is_set()

    def _listen(self, reports: ReportReader, keeper: LeaseKeeper) -> None:
        stepped = reports.stepped
        news = reports.read()
        # Somebody is waiting for the first step; the others can wait for each other.
        keeper.post(news, urgent=reports.stepped and not stepped)

    def _stop(self, child: Child, reports: ReportReader, keeper: LeaseKeeper) -> int:
        """Asks for a checkpoint and waits for it; a job that is no longer ours gets less time."""
        child.terminate()
        asked = time.monotonic()
        while (code := child.wait(LOOK_SECONDS)) is None:
            child.keep(keeper.until)
            self._listen(reports, keeper)
            grace = CANCEL_SECONDS if keeper.expired else self.settings.grace_seconds
            if time.monotonic() - asked > min(grace, self.settings.grace_seconds):
                child.kill()
                code = child.wait()
                break
        assert code is not None
        return code

    # ---- endings

    def _give_back(self, keeper: LeaseKeeper, move: Callable[[], str]) -> str:
        """A job that is queued again need not wait for another worker's sweep."""
        status = self._firmly(keeper, move)
        if status == "queued":
            try:
                self.wake_workers(keeper.lease.job_id)
            except Exception as error:  # whatever the broker's client raises: the sweep finds the job all the same
                log.warning("the broker did not take a message", job=keeper.lease.job_id, error=str(error))
        return status

    def _lose(self, device: Device, keeper: LeaseKeeper) -> str:
        """The job goes to another device, and this one gets no other job."""
        log.error("a device is lost; it gets no jobs any more", device=device.name, job=keeper.lease.job_id)
        self.slots.withdraw(device)
        lose = partial(lifecycle.lose, self.db, keeper.lease, limit=self.settings.max_crashes)
        status = self._give_back(keeper, lose)
        if self.slots.none_left:
            self.retire()
        return status

    def _book_crash(self, keeper: LeaseKeeper, workspace: Workspace, error: Exception) -> str:
        reason = (
            str(error) if isinstance(error, TrainerCrashed) else f"the worker failed: {type(error).__name__}: {error}"
        )
        lines, limit = attempt_folder.log_tail(workspace, self.path_aliases(workspace)), self.settings.max_crashes
        try:
            return self._firmly(
                keeper,
                lambda: lifecycle.crash(self.db, keeper.lease, reason[:2000], log_tail=lines, limit=limit),
            )
        except LeaseLost as lost:
            return lost.status  # whoever has the job now books it

    def _firmly(self, keeper: LeaseKeeper, write: Callable[[], T]) -> T:
        """Repeats a guarded write while the database is away, for as long as the lease can still be held."""
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
