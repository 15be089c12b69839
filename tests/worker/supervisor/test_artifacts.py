"""Files that a trainer left, read again: links, nonsense, and a base that is no longer the registered one."""

from pathlib import Path

import pytest

from app.models.tables import Model
from tests.conftest import Deployment
from tests.worker.supervisor import stub_trainer
from tests.worker.supervisor.jobs import job_of, submit
from worker.supervisor.runner import Runner


def test_link_out_of_the_workspace_is_refused(deployment: Deployment, runner: Runner) -> None:
    """A result file that is a link would make the supervisor publish a file that only it can read."""
    job_id = submit(deployment, seed=stub_trainer.LINK)
    runner.run_next()
    job = job_of(deployment.db, job_id)
    assert job.status == "failed"
    assert job.error is not None
    assert (job.error["code"], "notes.txt" in job.error["message"]) == ("invalid_result", True)


@pytest.mark.parametrize("habit", [stub_trainer.BABBLE, stub_trainer.STRAY])
def test_result_that_cannot_be_read_is_not_tried_again(deployment: Deployment, runner: Runner, habit: int) -> None:
    """Observations or a result map without sense fail the job at once, with the name of the file."""
    job_id = submit(deployment, seed=habit)
    runner.run_next()
    job = job_of(deployment.db, job_id)
    assert (job.status, job.crashes) == ("failed", 0)
    assert job.error is not None
    assert job.error["code"] == "invalid_result"
    assert ".json" in job.error["message"]


def test_base_that_changed_in_the_storage_is_noticed(deployment: Deployment, runner: Runner) -> None:
    """Evidence is about the base that was registered, and not about whatever lies under its name now."""
    first = submit(deployment)
    runner.run_next()
    with deployment.db.read() as session:
        model = session.get_one(Model, f"init:{first}")
        blob = Path(str(runner.storage.root)) / model.files[0]["blob"]
    content = bytearray(blob.read_bytes())
    content[-1] ^= 1
    blob.chmod(0o644)
    blob.write_bytes(content)
    second = submit(deployment, base_model=f"init:{first}")
    runner.run_next()
    job = job_of(deployment.db, second)
    assert job.status == "failed"
    assert job.error is not None
    assert "not the ones that were registered" in job.error["message"]
