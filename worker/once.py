"""One job, then the end: a worker for autoscalers, which start a machine for each job that waits."""

import signal
import time
from typing import Final

import structlog

from app import tracing
from worker.tasks import WorkerProcess

log = structlog.get_logger(__name__)

#: Seconds between two looks at the queue.
LOOK_SECONDS: Final = 1.0


def run_one(worker: WorkerProcess, *, wait: float) -> bool:
    """Run the best job that this worker could run; False if none came within `wait` seconds.

    SIGTERM and SIGINT end it as they end any worker: the trainer saves its state, and the job goes back into the queue.
    The broker is not listened to: the jobs' rows are what counts.
    """
    runner = worker.runner
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: runner.stopping.set())

    worker.maintenance.start()
    worker.courier.start()
    try:
        return _next_job(worker, until=time.monotonic() + wait)
    finally:
        runner.stopping.set()
        worker.courier.close()
        worker.maintenance.close()
        runner.forkserver.close()
        runner.db.close()
        tracing.close()


def _next_job(worker: WorkerProcess, *, until: float) -> bool:
    runner = worker.runner
    while not runner.stopping.is_set():
        if runner.run_next():
            return True
        if time.monotonic() >= until:
            log.info("no job waits for this worker; it ends")
            return False
        runner.stopping.wait(LOOK_SECONDS)
    return False
