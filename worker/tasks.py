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

from app import tracing
from app.broker.celery import DESCRIBE_MODEL, RUN_JOB, make_celery, wake, wake_model
from app.db import Database
from app.errors import PermafrostError
from app.evidence.format.keys import KeyFileError, load_or_create
from app.settings import Settings
from app.storage.blobs import Storage
from app.webhooks.courier import Courier
from worker.supervisor.describe import Describer
from worker.supervisor.devices import Device, Slots, find_devices, idle_gpu
from worker.supervisor.exports.exporter import Exporter
from worker.supervisor.gang.address import find_address
from worker.supervisor.gang.door import Door
from worker.supervisor.identity import identity
from worker.supervisor.installation import read_installation
from worker.supervisor.maintenance import Maintenance
from worker.supervisor.process.child import Forkserver
from worker.supervisor.runner import Runner

log = structlog.get_logger(__name__)

#: The worker ends when Celery has given up more often than this in a row, each time within STEADY_SECONDS.
FAILURES: Final = 20
STEADY_SECONDS: Final = 30.0
PAUSE_SECONDS: Final = 1.0
PASS_ON_SECONDS: Final = 0.2


@dataclass(frozen=True, slots=True)
class WorkerProcess:
    """One worker process: its Celery application, and what its tasks work with."""

    celery: Celery
    runner: Runner
    maintenance: Maintenance
    courier: Courier
    exporter: Exporter
    door: Door | None = None

    def serve(self) -> None:
        """Work until SIGTERM or SIGINT; then trainers save their state and their jobs go back into the queue."""
        for event, handler in ((worker_ready, self._ready), (worker_shutting_down, self._drain)):
            event.connect(handler, weak=False)
        # Celery warns root of pickled messages; ours are JSON, and containers often run as root.
        warnings.filterwarnings("ignore", category=SecurityWarning)
        # Before Celery is ready: it waits for the broker, and jobs must not.
        self.maintenance.start()
        self.courier.start()
        self.exporter.start()
        if self.door is not None:
            self.door.open()
        try:
            self._listen()
        finally:
            self.runner.stopping.set()
            if self.door is not None:
                self.door.close()
            self.courier.close()
            self.exporter.close()
            self.maintenance.close()
            self.runner.forkserver.close()
            self.runner.db.close()
            tracing.close()

    def _listen(self) -> None:
        """Start Celery again when it gives up, as it does at a malformed message: writing one must not end a worker."""
        failures = 0
        while not self.runner.stopping.is_set():
            began = time.monotonic()
            self._service().start()
            failures = 0 if time.monotonic() - began > STEADY_SECONDS else failures + 1
            if failures > FAILURES:
                raise SystemExit(
                    f"Celery stopped {failures} times in a row, each within {STEADY_SECONDS:.0f} seconds of its start; "
                    "see the log above, and PERMAFROST_BROKER_URL"
                )
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
            # The output of this process is the ready line and structured logs.
            redirect_stdouts=False,
            quiet=True,
        )

    def _ready(self, **_: Any) -> None:
        devices = ", ".join(device.name for device in self.runner.slots.devices)
        print(f"permafrost worker ready on {devices}", flush=True)

    def _drain(self, **_: Any) -> None:
        self.runner.stopping.set()


def make_worker(settings: Settings, *, starts_jobs: bool = True) -> WorkerProcess:
    """A worker that is ready to serve. Without `starts_jobs` its maintenance leaves waiting jobs to the caller."""
    celery = make_celery(settings)
    tracing.configure("permafrost-worker")
    _check_signer(settings)
    read_installation()
    runner = Runner(
        settings=settings,
        db=Database(settings.database),
        storage=Storage(settings.storage),
        forkserver=Forkserver(home=settings.work / "home", hidden=owned(settings)),
        slots=Slots(_devices(settings)),
        worker=identity(),
        wake_workers=lambda job_id: wake(celery, job_id),
        wake_model=lambda model_id: wake_model(celery, model_id),
        # As the operator would; the process that started this worker starts another, which looks for devices again.
        shut_down=lambda: os.kill(os.getpid(), signal.SIGTERM),
        gang_address=find_address(settings.gang_address),
    )
    maintenance = Maintenance(runner, starts_jobs=starts_jobs)
    _add_tasks(celery, runner)
    exporter = Exporter(runner.db, runner.storage, settings)
    door = _door(runner, maintenance) if runner.gang_address and starts_jobs else None
    return WorkerProcess(celery, runner, maintenance, Courier(runner.db, settings), exporter, door)


def _door(runner: Runner, maintenance: Maintenance) -> Door:
    free = lambda: runner.slots.free > 0 and not runner.stopping.is_set()  # noqa: E731 - with this runner
    return Door(runner.db, runner.worker, free=free, start=maintenance.start_waiting)


def _devices(settings: Settings) -> list[Device]:
    """The devices that the settings name; a GPU that stays idle is reported once, with the reason."""
    devices = find_devices(settings.devices)
    reason = idle_gpu(settings.devices)
    if reason is not None:
        log.warning("jobs train on the CPU, and this machine has a GPU", reason=reason)
    return devices


def _check_signer(settings: Settings) -> None:
    """Make the key on first use. A command that signs is asked once: better now than at the end of a job."""
    try:
        key = load_or_create(settings.signing_key_path, command=settings.signer)
        if settings.signer:
            key.sign(b"permafrost: does this command sign?")
    except (KeyFileError, PermafrostError) as error:
        raise SystemExit(f"no evidence can be signed: {error}") from None


def owned(settings: Settings) -> list[Path]:
    """Paths of the service: data, keys, blobs. Trainers can read none of them but what is staged for their job."""
    keys = [settings.signing_key_path, settings.webhook_key_path, settings.log_key_path]
    paths = [settings.home, settings.prefix_cache, *keys]
    if settings.storage.startswith("file://"):
        paths.append(Path(settings.storage.removeprefix("file://")))
    url = make_url(settings.database)
    if url.get_backend_name() == "sqlite" and url.database:
        paths.append(Path(url.database).absolute())
    return paths


def _add_tasks(celery: Celery, runner: Runner) -> None:
    """Signatures take what later versions may add; which job a message names does not matter."""
    describer = Describer(runner)

    def run_job(job_id: str = "", v: int = 1, **_: Any) -> None:
        if runner.stopping.is_set():
            # Celery goes on listening for a moment; the message is for a worker that goes on.
            time.sleep(PASS_ON_SECONDS)
            runner.wake_workers(job_id)
            return
        runner.run_waiting()

    def describe_model(model_id: str, v: int = 1, **_: Any) -> None:
        describer.describe(model_id)

    celery.task(run_job, name=RUN_JOB)
    celery.task(describe_model, name=DESCRIBE_MODEL)
