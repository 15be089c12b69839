"""Checkpoints as rows with models: stored once for each step, dropped unless something needs them."""

from datetime import timedelta

import pytest
from sqlalchemy import select

from app.db import Database, now
from app.jobs.queue import checkpoints, lifecycle
from app.jobs.queue.attempt import AttemptUpdates, Lease, Outcome
from app.jobs.queue.checkpoints import NewCheckpoint
from app.jobs.queue.tables import Checkpoint
from app.models.tables import Model
from tests.app.jobs.jobs import claim, new_job


@pytest.fixture
def lease(db: Database) -> Lease:
    """Of a job that has saved its steps 1 to 3."""
    lifecycle.submit(db, new_job(id="ftjob-trains"))
    lease = claim(db)
    lifecycle.beat(db, lease, AttemptUpdates(checkpoints=[saved(step) for step in (1, 2, 3)]))
    return lease


def saved(step: int) -> NewCheckpoint:
    model = Model(id=f"ft:x:ckpt-step-{step}", project="default", owned_by="default", kind="checkpoint")
    model.status, model.spec, model.job_id, model.files = "ready", {}, "ftjob-trains", []
    model.tensors = [{"name": "w", "blob": f"{step}" * 64, "own": True}, {"name": "b", "blob": "f" * 64}]
    return NewCheckpoint(step, {"train_loss": 1 / step}, model)


def steps(db: Database) -> list[int]:
    with db.read() as session:
        rows = session.scalars(checkpoints.available("ftjob-trains").order_by(Checkpoint.step))
        return [row.step for row in rows]


def test_a_step_that_is_repeated_replaces_its_row(db: Database, lease: Lease) -> None:
    """A later attempt comes through the same steps again: no step is listed twice."""
    lifecycle.beat(db, lease, AttemptUpdates(checkpoints=[NewCheckpoint(2, {"train_loss": 0.25})]))
    assert steps(db) == [1, 2, 3]
    with db.read() as session:
        row = session.scalars(select(Checkpoint).where(Checkpoint.step == 2)).one()
    assert row.metrics == {"train_loss": 0.25}


def test_what_the_run_does_not_keep_is_dropped_and_its_blobs_are_free(db: Database, lease: Lease) -> None:
    """Of the dropped ones only the blobs of their own; the row of the model says why it is empty."""
    assert lifecycle.drop_checkpoints(db, lease, kept=[3]) == ["1" * 64, "2" * 64]
    assert steps(db) == [3]
    with db.read() as session:
        model = session.get_one(Model, "ft:x:ckpt-step-1")
        assert (model.status, model.tensors) == (checkpoints.DROPPED, [])
        assert "keep_checkpoints" in (model.error or "")


def test_a_checkpoint_that_another_job_starts_from_stays(db: Database, lease: Lease) -> None:
    """Until that job has ended."""
    user, _ = lifecycle.submit(db, new_job(base_model="ft:x:ckpt-step-1"))
    assert lifecycle.drop_checkpoints(db, lease, kept=[3]) == ["2" * 64]
    assert steps(db) == [1, 3]
    with db.read() as session:
        assert list(checkpoints.users(session, session.get_one(Model, "ft:x:ckpt-step-1"))) == [user.id]
    lifecycle.cancel(db, "default", user.id)
    assert lifecycle.drop_checkpoints(db, lease, kept=[3]) == ["1" * 64]


def test_a_checkpoint_that_a_model_is_made_of_stays(db: Database, lease: Lease) -> None:
    """Its tensors are read through it when the model is downloaded."""
    with db.write() as session:
        model = Model(
            id="made of it", project="default", created_at=now(session), owned_by="default", kind="fine_tuned"
        )
        model.status, model.spec, model.files, model.tensors = "ready", {}, [], []
        model.base_id = "ft:x:ckpt-step-2"
        session.add(model)
    assert lifecycle.drop_checkpoints(db, lease, kept=[3]) == ["1" * 64]
    assert steps(db) == [2, 3]


def test_checkpoints_of_old_jobs_are_dropped_unless_they_are_used(db: Database, lease: Lease) -> None:
    """By how long ago their job ended; one that another model or a waiting job starts from stays."""
    age = timedelta(days=7)

    def dropped(days: float) -> tuple[int, list[str]]:
        with db.write() as session:
            return checkpoints.drop_of_ended(session, now(session) - timedelta(days=days), age=age, most=9)

    lifecycle.submit(db, new_job(model="ft:x:ckpt-step-1"))
    assert dropped(-1) == (0, [])  # the job still runs
    lifecycle.finish(db, lease, Outcome("failed"))
    with db.write() as session:
        session.get_one(Model, "ft:x:ckpt-step-3").base_id = "ft:x:ckpt-step-2"
    assert dropped(1) == (0, [])
    assert dropped(-1) == (1, ["3" * 64])
    assert steps(db) == [1, 2]
    assert dropped(-1) == (1, ["2" * 64])  # nothing is made of it any more
    with db.read() as session:
        error = session.get_one(Model, "ft:x:ckpt-step-3").error
    assert error == "checkpoints are kept for 7 days after the end of their job"
