"""Does what a worker does besides jobs, in rounds: registers itself, requeues jobs of dead workers, starts waiting
jobs in free slots, describes new models, removes leftovers.
"""

import shutil
import threading
from datetime import timedelta
from typing import Final

import structlog
from sqlalchemy import func, select
from sqlalchemy.exc import SQLAlchemyError

from app.db import now
from app.files.usage import blob_in_use
from app.jobs.queue import lifecycle, making_room, workers
from app.jobs.queue.states import CLAIMABLE, TERMINAL, TO_RUN
from app.jobs.queue.tables import Job
from app.models.catalog import folders
from app.models.tables import Model
from app.ops.retention.rounds import enforce
from app.uploads.assembly import remove_leftovers
from worker.supervisor.installation import code_digest
from worker.supervisor.log_entries import catch_up
from worker.supervisor.runner import Runner
from worker.supervisor.timestamps import stamp_due

log = structlog.get_logger(__name__)

#: Seconds between rounds at least, however many jobs wait for the end of their back-off.
PAUSE_SECONDS: Final = 0.5


class Maintenance:
    """Runs a round of maintenance at once and then every `sweep_seconds`, in a thread of its own."""

    def __init__(self, runner: Runner, *, starts_jobs: bool = True) -> None:
        self._runner = runner
        self._starts_jobs = starts_jobs
        self._closed = threading.Event()
        self._thread = threading.Thread(target=self._loop, name="maintenance", daemon=True)
        self._woken: list[threading.Thread] = []

    def start(self) -> None:
        self._thread.start()

    def close(self) -> None:
        """Stop; returns once the jobs that were started here have been given back. The worker is gone then."""
        self._closed.set()
        self._thread.join()
        for each in self._woken:
            each.join()
        try:
            workers.remove(self._runner.db, self._runner.worker)
        except SQLAlchemyError as error:  # it is taken to be gone after a minute all the same
            log.warning("the end of this worker could not be recorded", error=f"{type(error).__name__}: {error}")

    def run_once(self) -> None:
        """Run one round. Any number of workers may do it at the same time."""
        self._register()
        waiting = lifecycle.recover(self._runner.db, limit=self._runner.settings.max_crashes)
        for _ in waiting[: self._runner.slots.free if self._starts_jobs else 0]:
            self.start_waiting()
        if most := self._runner.settings.preempt:
            making_room.make_room(self._runner.db, self._runner.shares, most=most)
        self._remove_leftovers()
        self._runner.storage.remove_abandoned()
        self._delete_unused()
        remove_leftovers(self._runner.db, self._runner.storage)
        self._delete_old()
        self._find_models()
        catch_up(self._runner.journal, self._runner.settings.log_witnesses)
        if authority := self._runner.authority:
            stamp_due(self._runner.db, authority)

    def _delete_unused(self) -> None:
        """Delete blobs whose deletion has waited for an hour, unless a row refers to them by now."""
        storage = self._runner.storage
        for key in storage.deletions_due():
            with self._runner.db.read() as session:
                used = blob_in_use(session, key)
            if used:
                storage.keep(key)
            else:
                storage.delete(key)

    def _delete_old(self) -> None:
        """Delete what is older than the settings keep it: for a few seconds, and the rest in later rounds."""
        runner = self._runner
        deleted = enforce(runner.db, runner.storage, runner.settings)
        if deleted:
            log.info("deleted what is older than it is kept", **deleted)
        if days := runner.settings.keep_prefixes_days:
            runner.prefix_folders.forget(days=days)

    def start_waiting(self) -> None:
        """Start waiting jobs in a thread of our own: the broker may be away, or its messages lost."""
        self._woken = [each for each in self._woken if each.is_alive()]
        thread = threading.Thread(target=self._work, name="started by maintenance", daemon=True)
        self._woken.append(thread)
        thread.start()

    def _work(self) -> None:
        try:
            self._runner.run_waiting()
        except Exception as error:  # noqa: BLE001 - the next round finds the jobs that still wait
            log.warning("waiting jobs could not be started", error=f"{type(error).__name__}: {error}")

    def _loop(self) -> None:
        while not self._closed.is_set():
            pause = self._runner.settings.sweep_seconds
            try:
                self.run_once()
                pause = self._until_due(pause)
            except Exception as error:  # noqa: BLE001 - a later round finds database and broker again
                log.warning("a round of maintenance failed", error=f"{type(error).__name__}: {error}")
            self._wait(pause)

    def _wait(self, seconds: float) -> None:
        """Wait for the next round. However rare rounds are, the worker keeps saying that it is alive."""
        while not self._closed.wait(min(seconds, workers.REGISTER_SECONDS)):
            seconds -= workers.REGISTER_SECONDS
            if seconds <= 0:
                return
            try:
                self._register()
            except SQLAlchemyError as error:
                log.warning("this worker could not say that it is alive", error=f"{type(error).__name__}: {error}")

    def _register(self) -> None:
        slots = self._runner.slots
        kind, products, memory = slots.devices[0].name, slots.offer().devices, slots.memory()
        address = self._runner.gang_address
        workers.register(
            self._runner.db,
            self._runner.worker,
            devices=slots.most,
            kind=kind,
            products=products,
            memory=memory,
            gang_address=address.address if address else None,
            code=code_digest() if address else None,
        )

    def _until_due(self, longest: float) -> float:
        """Seconds until the next job's back-off is over, so that a crashed job is retried on time."""
        with self._runner.db.read() as session:
            at = now(session)
            later = (Job.status.in_(CLAIMABLE), Job.desired.in_(TO_RUN), Job.not_before > at)
            due = session.scalar(select(func.min(Job.not_before)).where(*later))
            left = due - at if due is not None else timedelta(seconds=longest)
        return min(longest, max(PAUSE_SECONDS, left.total_seconds()))

    def _find_models(self) -> None:
        """Request a description of every folder without a row, and of every row that is still pending."""
        with self._runner.db.read() as session:
            known = {row.id: row.status for row in session.execute(select(Model.id, Model.status))}
        new = [folder.name for folder in folders(self._runner.settings) if folder.name not in known]
        pending = [model_id for model_id, status in known.items() if status == "pending"]
        for model_id in [*new, *pending]:
            self._runner.wake_model(model_id)

    def _remove_leftovers(self) -> None:
        """Work folders of jobs that have ended; a worker that was killed could not remove its own.

        Folders of jobs that the database does not know stay for the doctor: an older one may have been restored.
        """
        work = self._runner.settings.work
        if not work.is_dir():
            return
        there = [path.name for path in work.iterdir() if path.name.startswith("ftjob-")]
        with self._runner.db.read() as session:
            ended = session.scalars(select(Job.id).where(Job.id.in_(there), Job.status.in_(TERMINAL))).all()
        for name in ended:
            shutil.rmtree(work / name, ignore_errors=True)
