"""Celery's side of a worker: messages wake the runner, a shutdown drains it. The only file here that knows Celery."""

import logging
import os
import signal
import time
import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import structlog
from celery import Celery
from celery.exceptions import SecurityWarning
from celery.signals import worker_ready, worker_shutting_down
from sqlalchemy import make_url

from app.broker.celery import DESCRIBE_MODEL, RUN_JOB, make_celery, wake, wake_model
from app.db import Database
from app.evidence.format.keys import load_or_create
from app.settings import Settings
from app.storage.blobs import Storage
from app.webhooks.courier import Courier
from worker.supervisor.describe import Describer
from worker.supervisor.devices import Slots, find_devices
from worker.supervisor.identity import identity
from worker.supervisor.process.child import Forkserver
from worker.supervisor.runner import Runner
from worker.supervisor.sweep import Sweeper

log = structlog.get_logger(__name__)

#: Celery that gives up so often, each time sooner than this after its start, will not do better the next time.
FAILURES: Final = 20
STEADY_SECONDS: Final = 30.0
PAUSE_SECONDS: Final = 1.0
PASS_ON_SECONDS: Final = 0.2


@dataclass(frozen=True, slots=True)
class WorkerProcess:
    """One worker process: its Celery application, and what its tasks work with."""

    celery: Celery
    runner: Runner
    sweeper: Sweeper
    courier: Courier

    def serve(self) -> None:
        """Works until SIGTERM or SIGINT; then trainers save their state and their jobs go back into the queue."""
        for event, handler in ((worker_ready, self._ready), (worker_shutting_down, self._drain)):
            event.connect(handler, weak=False)
        # Celery warns root of pickled messages; ours are JSON, and containers often run as root.
        warnings.filterwarnings("ignore", category=SecurityWarning)
        # Not when Celery is ready: it waits for the broker, and jobs do not.
        self.sweeper.start()
        self.courier.start()
        try:
            self._listen()
        finally:
            self.runner.stopping.set()
            self.courier.close()
            self.sweeper.close()
            self.runner.forkserver.close()
            self.runner.db.close()

    def _listen(self) -> None:
        """Celery gives up at a message that is none; whoever wrote it into the broker must not end this worker."""
        failures = 0
        while not self.runner.stopping.is_set():
            began = time.monotonic()
            self._service().start()
            failures = 0 if time.monotonic() - began > STEADY_SECONDS else failures + 1
            if failures > FAILURES:
                raise SystemExit(f"the broker cannot be listened to; {failures} tries have failed")
            if not self.runner.stopping.wait(PAUSE_SECONDS):
                log.error("Celery has stopped listening to the broker; it is started again")

    def _service(self) -> Any:
        return self.celery.Worker(
            hostname=f"permafrost@{self.runner.worker}",
            pool="threads",
            # A thread for each slot, and one for what needs no device.
            concurrency=len(self.runner.slots.devices) + 1,
            without_gossip=True,
            without_mingle=True,
            without_heartbeat=True,
            loglevel=logging.WARNING,
            # This process's output is its operator's: the ready line, and structured logs.
            redirect_stdouts=False,
            quiet=True,
        )

    def _ready(self, **_: Any) -> None:
        devices = ", ".join(device.name for device in self.runner.slots.devices)
        print(f"permafrost worker ready on {devices}", flush=True)

    def _drain(self, **_: Any) -> None:
        self.runner.stopping.set()


def make_worker(settings: Settings) -> WorkerProcess:
    celery = make_celery(settings)
    load_or_create(settings.signing_key_path)  # read again for every signature, since keys are rotated meanwhile
    runner = Runner(
        settings=settings,
        db=Database(settings.database),
        storage=Storage(settings.storage),
        forkserver=Forkserver(home=settings.work / "home", hidden=owned(settings)),
        slots=Slots(find_devices(settings.devices)),
        worker=identity(),
        wake_workers=lambda job_id: wake(celery, job_id),
        # Celery's own way out; whoever started this worker looks for devices again.
        retire=lambda: os.kill(os.getpid(), signal.SIGTERM),
    )
    sweeper = Sweeper(runner, wake_model=lambda model_id: wake_model(celery, model_id))
    _add_tasks(celery, runner)
    return WorkerProcess(celery, runner, sweeper, Courier(runner.db, settings))


def owned(settings: Settings) -> list[Path]:
    """What belongs to the service: data, keys, blobs. Trainers see nothing of it but what is staged for them."""
    places = [settings.home, settings.signing_key_path, settings.webhook_key_path]
    if settings.storage.startswith("file://"):
        places.append(Path(settings.storage.removeprefix("file://")))
    url = make_url(settings.database)
    if url.get_backend_name() == "sqlite" and url.database:
        places.append(Path(url.database).absolute())
    return places


def _add_tasks(celery: Celery, runner: Runner) -> None:
    """Signatures take what later versions may add; which job a message names does not matter."""
    describer = Describer(runner)

    def run_job(job_id: str = "", v: int = 1, **_: Any) -> None:
        if runner.stopping.is_set():
            # Celery goes on listening for a moment; the message is for somebody who stays.
            time.sleep(PASS_ON_SECONDS)
            runner.wake_workers(job_id)
            return
        runner.wake()

    def describe_model(model_id: str, v: int = 1, **_: Any) -> None:
        describer.describe(model_id)

    celery.task(run_job, name=RUN_JOB)
    celery.task(describe_model, name=DESCRIBE_MODEL)
