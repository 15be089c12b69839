"""The trainer processes of one attempt, with a trainer that needs no torch."""

from collections.abc import Iterator

import pytest

from app.jobs.queue import lifecycle
from tests.conftest import Deployment
from tests.worker.supervisor.jobs import job_of, submit
from worker.supervisor import attempt_folder
from worker.supervisor.attempt_run import AttemptRun
from worker.supervisor.attempt_trace import AttemptTrace
from worker.supervisor.lease import LeaseKeeper
from worker.supervisor.orders import order_of
from worker.supervisor.outcomes import TrainerStopped
from worker.supervisor.reports import ReportReader
from worker.supervisor.runner import Runner


@pytest.fixture
def run(deployment: Deployment, runner: Runner) -> Iterator[AttemptRun]:
    submit(deployment)
    lease = lifecycle.claim(deployment.db, worker="w/1", seconds=60)
    assert lease is not None
    workspace = attempt_folder.locate(runner.settings.work, lease.job_id, lease.attempt)
    attempt_folder.create(workspace)
    trace = AttemptTrace.of(deployment.db, lease, worker="w")
    with LeaseKeeper(deployment.db, lease, heartbeat=10.0) as keeper:
        yield AttemptRun(
            runner.settings,
            runner.forkserver,
            runner.stopping,
            workspace,
            keeper,
            runner.slots.devices[0],
            trace,
            ReportReader(workspace.reports),
            None,
        )


def test_a_trainer_that_does_its_work(deployment: Deployment, run: AttemptRun) -> None:
    """Its last reports have been read when the call returns."""
    job = job_of(deployment.db, run.keeper.lease.job_id)
    run.trainer(order_of(job, 1, run.device, "initialise"))
    assert (run.workspace.base / "model.safetensors").is_file()


def test_a_worker_that_stops_has_its_trainer_stop(deployment: Deployment, run: AttemptRun) -> None:
    """The trainer is asked at once."""
    job = job_of(deployment.db, run.keeper.lease.job_id)
    run.stopping.set()
    assert run.should_stop()
    with pytest.raises(TrainerStopped):
        run.trainer(order_of(job, 1, run.device, "train"))
