"""A worker that ends after one job, as a process."""

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from tests.conftest import Deployment
from tests.patience import PATIENCE
from tests.worker.processes import QUICK, STUB_WORKER
from tests.worker.supervisor import stub_trainer
from tests.worker.supervisor.jobs import eventually, job_of, submit

pytestmark = pytest.mark.slow


@contextmanager
def once(deployment: Deployment, *, wait: float = 0.0) -> Iterator[subprocess.Popen[bytes]]:
    environment = {name: value for name, value in os.environ.items() if not name.startswith("PERMAFROST_")}
    environment |= QUICK | deployment.environment
    process = subprocess.Popen([sys.executable, "-m", STUB_WORKER, "--once", str(wait)], env=environment)
    try:
        yield process
    finally:
        process.kill()
        process.wait()


def test_it_runs_the_best_job_and_ends(deployment: Deployment) -> None:
    """The other one is left to the next worker, whatever this one has free."""
    later, first = submit(deployment), submit(deployment, priority=9)
    with once(deployment) as process:
        assert process.wait(PATIENCE) == 0
    assert job_of(deployment.db, first).status == "succeeded"
    assert job_of(deployment.db, later).status == "queued"


def test_it_waits_for_a_job_as_long_as_it_may(deployment: Deployment) -> None:
    """Without one it ends, too: an autoscaler pays for the machine."""
    with once(deployment, wait=0.0) as process:
        assert process.wait(PATIENCE) == 0
    with once(deployment, wait=PATIENCE) as process:
        job_id = submit(deployment)
        assert process.wait(PATIENCE) == 0
    assert job_of(deployment.db, job_id).status == "succeeded"


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT], ids=["SIGTERM", "SIGINT"])
def test_a_machine_that_is_taken_away(deployment: Deployment, number: signal.Signals) -> None:
    """The trainer saves its state and the job goes back into the queue, as with any worker."""
    job_id = submit(deployment, seed=stub_trainer.STOPPABLE)
    with once(deployment) as process:
        eventually(lambda: (job_of(deployment.db, job_id).progress or {}).get("step") == 1)
        process.send_signal(number)
        assert process.wait(PATIENCE) == 0
    job = job_of(deployment.db, job_id)
    assert (job.status, job.crashes, job.lease_owner) == ("queued", 0, None)
