"""A broker is anybody's: what it brings is read as JSON or not at all, and a worker outlives it."""

from pathlib import Path
from typing import Any

from app.broker.celery import RUN_JOB, make_celery
from tests.conftest import Deployment
from tests.worker.processes import worker
from tests.worker.supervisor.jobs import submit, succeeded


class Boom:
    """Makes a file when it is unpickled."""

    def __init__(self, place: Path) -> None:
        self.place = place

    def __reduce__(self) -> Any:
        return Path.touch, (self.place,)


def test_pickled_and_unknown_messages_are_dropped(deployment: Deployment, tmp_path: Path) -> None:
    """A pickle is not opened, an unknown task and strange arguments are passed over, and the next job runs."""
    mine = tmp_path / "boom"
    celery = make_celery(deployment.settings)
    with celery, worker(deployment):
        celery.send_task(RUN_JOB, args=[Boom(mine)], serializer="pickle")
        celery.send_task("os.system", args=["touch /tmp/never"])
        celery.send_task(RUN_JOB, kwargs={"job_id": {"$ne": None}, "v": 99, "unknown": [1]})
        job_id = submit(deployment)
        succeeded(deployment, job_id)
    assert not mine.exists()
