"""What freezing saves, beside training everything."""

from fastapi import FastAPI
from starlette.testclient import TestClient

from app.jobs.requests.context import SubmissionContext
from app.jobs.requests.outlook import Compared, outlook
from app.jobs.requests.schemas import JobCreate
from tests.app.conftest import AFFINE, Upload, rows


def test_a_plan_is_held_against_training_everything(client: TestClient, embedded: FastAPI, upload: Upload) -> None:
    """Memory by what trains, time by operations; the rest is a dry run's."""
    backends = embedded.state.backends
    body = {"model": AFFINE, "training_file": upload(rows()), "freeze_policy": {"freeze": ["weight"]}}
    with backends.database.read() as session:
        context = SubmissionContext(session, backends.storage, backends.settings, "default")
        seen = outlook(context, JobCreate.model_validate(body))
    assert seen.plan is not None and len(seen.plan.plan.frozen) == 1
    assert seen.memory.here is not None and seen.memory.trained is not None
    assert seen.memory.here < seen.memory.trained and 0 < (seen.memory.saved or 0) < 1
    assert seen.dry_run.estimate.memory_bytes.total == seen.memory.here
    assert seen.seconds.here is not None and seen.seconds.trained is not None
    assert seen.seconds.here <= seen.seconds.trained


def test_what_is_not_known_is_not_compared() -> None:
    """Nor does a plan save less than nothing."""
    assert Compared(None, 5).saved is None and Compared(5, None).saved is None and Compared(5, 0).saved is None
    assert Compared(6, 5).saved == 0
