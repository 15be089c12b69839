"""Points of curves: ranges of steps, thinned out."""

from starlette.testclient import TestClient

from app.db import Database
from app.jobs.queue import lifecycle
from app.jobs.queue.attempt import AttemptUpdates
from tests.app.conftest import Create
from tests.app.jobs.jobs import claim


def test_a_long_curve_is_thinned_out(api: TestClient, create: Create, db: Database) -> None:
    """Both ends stay; a range narrows; a short curve comes whole."""
    job = create()
    curve = [(step, "train", {"loss": 1.0 / step}) for step in range(1, 101)]
    lifecycle.beat(db, claim(db), AttemptUpdates(metrics=[*curve, (100, "valid", {"loss": 0.5})]))
    path = f"fine_tuning/jobs/{job['id']}/metrics"
    whole = api.get(path).json()
    assert (len(whole["data"]), whole["sampled"]) == (101, False)
    few = api.get(path, params={"limit": 10, "split": "train"}).json()
    steps = [point["step"] for point in few["data"]]
    assert (len(steps), steps[0], steps[-1], few["sampled"]) == (10, 1, 100, True)
    assert steps == sorted(set(steps))
    some = api.get(path, params={"from_step": 10, "to_step": 12}).json()["data"]
    assert [point["values"]["loss"] for point in some] == [1 / 10, 1 / 11, 1 / 12]
