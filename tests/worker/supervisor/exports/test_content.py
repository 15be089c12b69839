"""What an export sends."""

import json
from pathlib import Path

import pytest

from app.errors import NotFound
from app.models.tables import Model
from app.storage.blobs import Storage
from tests.conftest import Deployment
from tests.worker.supervisor.exports.results import ATTESTATION, FILES, ended_job
from worker.supervisor.exports.content import ExportContent
from worker.supervisor.exports.tracked_job import TrackedJob


def test_the_result_with_its_attestation(deployment: Deployment, tmp_path: Path) -> None:
    """Every file of the result, as a download has it; options by dotted names, curves by step."""
    job = ended_job(deployment)
    storage = Storage(deployment.settings.storage)
    ExportContent.of(deployment.db, job).write(tmp_path / "a", storage, destination="s3://bucket/a")
    result = tmp_path / "a" / "result"
    assert {path.name: path.read_bytes() for path in result.iterdir()} == FILES | {"attestation.json": ATTESTATION}
    description = json.loads((tmp_path / "a" / "content.json").read_text())
    tracked = TrackedJob.from_json(description["job"])
    assert (description["destination"], tracked.id) == ("s3://bucket/a", job)
    assert (tracked.status, tracked.verdict) == ("succeeded", "verified")
    assert (tracked.params["optimizer.name"], tracked.params["n_epochs"]) == ("adamw", "2")
    assert tracked.metrics[-1] == {"step": 2, "split": "valid", "values": {"loss": 1.5}}


def test_a_job_without_a_result_and_one_whose_result_is_gone(deployment: Deployment, tmp_path: Path) -> None:
    """The first has curves; the second has nothing to send."""
    failed = ExportContent.of(deployment.db, ended_job(deployment, status="failed"))
    failed.write(tmp_path / "a", Storage(deployment.settings.storage), destination="mlflow://host/a")
    assert list((tmp_path / "a" / "result").iterdir()) == [] and len(failed.metrics) == 3
    job = ended_job(deployment)
    with deployment.db.write() as session:
        for row in session.query(Model).filter(Model.kind == "fine_tuned"):
            session.delete(row)
    with pytest.raises(NotFound, match="was deleted"):
        ExportContent.of(deployment.db, job)
    with pytest.raises(NotFound, match="was deleted"):
        ExportContent.of(deployment.db, "ftjob-none")
