"""Jobs as the API returns them."""

from starlette.testclient import TestClient

from app.db import Database
from app.jobs.queue import lifecycle
from app.jobs.queue.attempt import AttemptUpdates
from tests.app.conftest import Create
from tests.app.jobs.jobs import claim, finish


def test_a_job_that_has_ended_has_nothing_left_to_do(api: TestClient, create: Create, db: Database) -> None:
    """Stopped early by its bound on time, with steps left: 100 percent and no seconds. A paused one does not know."""
    told = AttemptUpdates(progress={"step": 10, "total_steps": 1000, "percent": 1.0, "eta_seconds": 990.0})
    seen = []
    for end in ("succeeded", "paused"):
        path = f"fine_tuning/jobs/{create()['id']}"
        lease = claim(db)
        lifecycle.beat(db, lease, told)
        assert api.get(path).json()["progress"]["eta_seconds"] == 990.0
        if end == "succeeded":
            finish(db, lease)
        else:
            api.post(f"{path}/pause")
            lifecycle.release(db, lease)
        job = api.get(path).json()
        seen.append((job["status"], *(job["progress"][name] for name in ("step", "percent", "eta_seconds"))))
    assert seen == [("succeeded", 10, 100.0, 0.0), ("paused", 10, 1.0, None)]
