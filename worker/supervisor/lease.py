"""Keeps one job's lease alive in a thread: writes news to the database, reads what users want of the job."""

import threading
import time
from collections.abc import Callable
from contextvars import copy_context
from functools import partial
from types import TracebackType
from typing import Final, Self, TypeVar

import structlog
from sqlalchemy import select
from sqlalchemy.exc import InterfaceError, OperationalError, SQLAlchemyError
from sqlalchemy.exc import TimeoutError as PoolTimeout

from app.db import Database
from app.jobs.queue import lifecycle
from app.jobs.queue.attempt import AttemptUpdates, Lease, LeaseLost
from app.jobs.queue.making_room import wish
from app.jobs.queue.tables import Job
from worker.supervisor.log_shipping import LogShipper

log = structlog.get_logger(__name__)
T = TypeVar("T")

#: Seconds between tries while the database is away.
RETRY_SECONDS: Final = 0.5
#: Seconds between writes of news: at most four transactions a second for each job.
WRITE_SECONDS: Final = 0.25
#: Seconds between reads of whether the job is to be cancelled or paused.
LOOK_SECONDS: Final = 0.5
#: Seconds between reads of what the trainer has printed.
CARRY_SECONDS: Final = 1.0
#: Part of the lease that must be left for a trainer to be stopped in, when the database does not answer.
MARGIN: Final = 0.2
#: The database cannot be reached; the same statement may succeed later.
AWAY: Final = (OperationalError, InterfaceError, PoolTimeout)


class LeaseKeeper:
    """Beats for one lease. `desired` is run, pause, cancel or yield; `lost` is set once another worker has the job."""

    def __init__(self, db: Database, lease: Lease, *, heartbeat: float, since: float | None = None) -> None:
        """`since` is when the claim was sent, by the monotonic clock: the lease is never younger than that."""
        started = time.monotonic() if since is None else since
        self.lease = lease
        self.desired = "run"
        self.lost: LeaseLost | None = None
        self._db = db
        self._heartbeat = heartbeat
        self._until = started + lease.seconds
        self._wrote = float("-inf")
        self._beaten = started
        self._news = AttemptUpdates()
        self._lock = threading.Lock()
        self._wake = threading.Event()
        self._urgent = False
        self._closed = False
        self._carried = time.monotonic()
        #: What the trainer prints is stored about once a second, in the lease's own thread.
        self.log_shipper: LogShipper | None = None
        target = partial(copy_context().run, self._keep)  # its log lines name the job and the attempt, too
        self._thread = threading.Thread(target=target, name=f"lease-{lease.job_id}", daemon=True)

    @property
    def until(self) -> float:
        """When the lease ends if no further beat comes through, by the monotonic clock."""
        return self._until

    @property
    def expired(self) -> bool:
        """No beat has come through for so long that another worker may soon own the job: stop the trainer."""
        return self.lost is not None or time.monotonic() > self._until - MARGIN * self.lease.seconds

    @property
    def stop_requested(self) -> bool:
        return self.desired != "run" or self.expired

    def post(self, news: AttemptUpdates, *, urgent: bool = False) -> None:
        """Queue news to be written within WRITE_SECONDS, or at once if `urgent`."""
        if not news:
            return
        with self._lock:
            _join(self._news, news)
            self._urgent |= urgent
        if urgent:
            self._wake.set()

    def flush(self) -> None:
        """Write queued news now, in the caller's thread. Raises LeaseLost."""
        self._beat()

    def until_stored(self, write: Callable[[], T]) -> T:
        """Repeat a guarded write while the database is away, for as long as the lease lasts. Raises LeaseLost."""
        while True:
            try:
                return write()
            except AWAY as error:
                if self.expired:
                    raise LeaseLost(self.lease, "unknown, the database does not answer") from error
                log.warning("the database is away", job=self.lease.job_id, error=str(error))
                time.sleep(RETRY_SECONDS)

    def ship_log(self, *, ended: bool = False) -> None:
        """Store what the trainer has printed since the last call; if that fails, the next call stores it."""
        try:
            if self.log_shipper is not None:
                self.log_shipper.ship(ended=ended)
        except (SQLAlchemyError, OSError) as error:
            log.warning("a trainer's log could not be stored", job=self.lease.job_id, error=str(error))

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._closed = True
        self._wake.set()
        self._thread.join()

    def _keep(self) -> None:
        while not self._closed and self.lost is None:
            try:
                self._once()
                if time.monotonic() - self._carried >= CARRY_SECONDS:
                    self._carried = time.monotonic()
                    self.ship_log()
            except LeaseLost as lost:
                self.lost = lost
            except AWAY as error:
                log.warning("the database did not answer a heartbeat", job=self.lease.job_id, error=str(error))
            self._wake.wait(WRITE_SECONDS if self._news else LOOK_SECONDS)
            self._wake.clear()

    def _once(self) -> None:
        at = time.monotonic()
        news_due = bool(self._news) and (self._urgent or at - self._wrote >= WRITE_SECONDS)
        if news_due or at - self._beaten >= self._heartbeat or self._changed():
            self._beat()

    def _changed(self) -> bool:
        """Whether the job is to be stopped or no longer ours, read without a lock; a beat then confirms it."""
        with self._db.read() as session:
            columns = (Job.attempt, Job.status, Job.desired, Job.preempted_for)
            row = session.execute(select(*columns).where(Job.id == self.lease.job_id)).one()
        ours = row.attempt == self.lease.attempt and row.status in ("running", "pausing")
        return not ours or wish(row.desired, row.preempted_for) != self.desired

    def _beat(self) -> None:
        with self._lock:
            news, self._news, self._urgent = self._news, AttemptUpdates(), False
        at = time.monotonic()
        try:
            self.desired = lifecycle.beat(self._db, self.lease, news)
        except AWAY:
            with self._lock:
                self._news = _join(news, self._news)
            raise
        except SQLAlchemyError:
            # Some of these news cannot be stored. The job goes on without them.
            log.exception("the database refused news of a job; they are dropped", job=self.lease.job_id)
            self.desired = lifecycle.beat(self._db, self.lease)
        # The lease runs from before the beat was sent: the database's own clock may have started later, never earlier.
        self._until, self._beaten = at + self.lease.seconds, at
        if news:
            self._wrote = at


def _join(news: AttemptUpdates, later: AttemptUpdates) -> AttemptUpdates:
    """Adds `later` to `news`, in place."""
    news.progress = later.progress or news.progress
    news.freeze_plan = later.freeze_plan or news.freeze_plan
    news.hyperparameters = later.hyperparameters or news.hyperparameters
    news.formed_in = news.formed_in if later.formed_in is None else later.formed_in
    news.events += later.events
    news.metrics += later.metrics
    news.checkpoints += later.checkpoints
    return news
