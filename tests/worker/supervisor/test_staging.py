"""What an attempt starts from: files and bases that are there, changed, or gone."""

from pathlib import Path

import pytest

from app.files.tables import File
from tests.conftest import Deployment
from tests.worker.supervisor.jobs import CSV, HEADER, job_of, submit, upload
from worker.supervisor.runner import Runner


@pytest.mark.parametrize("column", ["training_file", "validation_file"])
def test_file_that_is_gone_is_named(deployment: Deployment, runner: Runner, column: str) -> None:
    """By the parameter that named it; another attempt would not find it either."""
    job_id = submit(deployment, validation_file=upload(deployment, HEADER + CSV, filename="held.csv"))
    with deployment.db.write() as session:
        session.delete(session.get_one(File, getattr(job_of(deployment.db, job_id), column)))
    runner.run_next()
    job = job_of(deployment.db, job_id)
    assert job.error is not None
    assert (job.status, job.attempt, job.error["param"]) == ("failed", 1, column)
    assert "it was deleted" in job.error["message"]


@pytest.mark.parametrize("column", ["training_file", "validation_file"])
def test_only_what_was_uploaded_is_trained_on(deployment: Deployment, runner: Runner, column: str) -> None:
    """Bytes that changed in the storage are refused by the parameter."""
    held = upload(deployment, HEADER + CSV + b"1,2,3,4,5,6,7,8,9,10,11\n", filename="held.csv")
    job_id = submit(deployment, validation_file=held)
    with deployment.db.read() as session:
        key = session.get_one(File, getattr(job_of(deployment.db, job_id), column)).blob
    blob = Path(str(runner.storage.root)) / key
    blob.chmod(0o644)
    blob.write_bytes(HEADER)
    runner.run_next()
    job = job_of(deployment.db, job_id)
    assert job.error is not None
    assert (job.status, job.attempt) == ("failed", 1)
    assert (job.error["code"], job.error["param"]) == ("data_changed", column)
