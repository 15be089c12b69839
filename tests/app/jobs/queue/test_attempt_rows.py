"""What an attempt reports and leaves, as rows."""

from sqlalchemy import select

from app.db import Database
from app.jobs.queue import lifecycle
from app.jobs.queue.attempt import AttemptUpdates, Outcome
from app.jobs.queue.checkpoints import NewCheckpoint
from app.jobs.queue.tables import Checkpoint, Event, Metric
from tests.app.jobs.jobs import claim, new_job, result


def test_points_are_numbered_as_they_come(db: Database) -> None:
    """Across beats, and a step that is repeated gets a new number in place of its old one."""
    lifecycle.submit(db, new_job())
    lease = claim(db)
    lifecycle.beat(db, lease, AttemptUpdates(metrics=[(1, "train", {"loss": 1.0}), (2, "train", {"loss": 0.5})]))
    lifecycle.beat(db, lease, AttemptUpdates(metrics=[(2, "train", {"loss": 0.4}), (2, "valid", {"loss": 0.6})]))
    with db.read() as session:
        rows = session.scalars(select(Metric).order_by(Metric.seq)).all()
    assert [(row.seq, row.step, row.split, row.values["loss"]) for row in rows] == [
        (1, 1, "train", 1.0),
        (3, 2, "train", 0.4),
        (4, 2, "valid", 0.6),
    ]


def test_the_result_is_the_last_checkpoint(db: Database) -> None:
    """Under the id of the result's own model; the last event names it."""
    job, _ = lifecycle.submit(db, new_job())
    lease, model = claim(db), result(job.id)
    model.tensors = []
    lifecycle.finish(
        db, lease, Outcome("succeeded", model=model, last_checkpoint=NewCheckpoint(7, {"train_loss": 0.1}))
    )
    with db.read() as session:
        checkpoint = session.scalars(select(Checkpoint)).one()
        last = session.scalars(select(Event).order_by(Event.seq.desc()).limit(1)).one()
    assert (checkpoint.step, checkpoint.model) == (7, model.id)
    assert (last.message, last.data) == ("Job succeeded", {"model": model.id})
