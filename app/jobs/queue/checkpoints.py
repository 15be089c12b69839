"""Checkpoints of jobs as models: each is listed, can be downloaded and started from, until the run drops it."""

from collections.abc import Collection, Iterator
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Final

from sqlalchemy import Select, and_, or_, select
from sqlalchemy.orm import Session, aliased

from app.db import new_id
from app.jobs.queue.states import TERMINAL
from app.jobs.queue.tables import Checkpoint, Job
from app.jsontypes import JsonDict
from app.models.tables import Model

DROPPED: Final = "dropped"


@dataclass(slots=True)
class NewCheckpoint:
    """A checkpoint that has no row yet: its step, the metrics at that step, and the model made of it."""

    step: int
    metrics: JsonDict
    model: Model | None = None
    model_id: str | None = None  # of a model that has a row already


def store(session: Session, job_id: str, attempt: int, checkpoint: NewCheckpoint, at: datetime) -> None:
    """Adds a checkpoint's row, or updates it: a later attempt that repeats a step makes the same state again."""
    stored = session.scalar(select(Checkpoint).where(Checkpoint.job_id == job_id, Checkpoint.step == checkpoint.step))
    row = stored or Checkpoint(id=new_id("ftckpt"), job_id=job_id, created_at=at, step=checkpoint.step)
    row.attempt, row.metrics, row.model = attempt, checkpoint.metrics, checkpoint.model_id
    if checkpoint.model is not None:
        checkpoint.model.created_at = at
        row.model = session.merge(checkpoint.model).id
    session.add(row)


def available(job_id: str) -> Select[Checkpoint]:
    """The job's checkpoints that have not been dropped."""
    present = or_(Checkpoint.model.is_(None), Model.status == "ready")
    joined = select(Checkpoint).outerjoin(Model, and_(Model.id == Checkpoint.model))
    return joined.where(Checkpoint.job_id == job_id, present)


def drop(session: Session, job_id: str, *, kept: Collection[int]) -> list[str]:
    """Clears the models of all checkpoints except those of the `kept` steps and those in use.

    Returns the blobs that nothing needs any more.
    """
    joined = select(Model, Checkpoint.step).join(Checkpoint, Checkpoint.model == Model.id)
    ready = joined.where(Model.job_id == job_id, Model.kind == "checkpoint", Model.status == "ready")
    rows = session.execute(ready.with_for_update(of=Model))  # a job that is being stored now may have locked one

    blobs: list[str] = []
    for model, step in rows.all():
        if step not in kept and next(users(session, model), None) is None:
            blobs += clear(model, f"the run kept newer checkpoints (keep_checkpoints) than that of step {step}")
    return blobs


def drop_of_ended(session: Session, before: datetime, *, age: timedelta, most: int) -> tuple[int, list[str]]:
    """Clears up to `most` models of checkpoints whose jobs ended before this time, except those in use.

    Returns how many, and the blobs that nothing needs any more.
    """
    other, user = aliased(Model), aliased(Job)
    needed = select(other.id).where(other.base_id == Model.id).exists()
    started = or_(user.base_model == Model.id, user.model == Model.id)
    wanted = select(user.id).where(started, user.status.not_in(TERMINAL)).exists()
    query = select(Model).join(Job, Job.id == Model.job_id).where(Model.kind == "checkpoint", Model.status == "ready")
    query = query.where(Job.finished_at < before, ~needed, ~wanted).order_by(Model.id).limit(most)

    blobs: list[str] = []
    models = session.scalars(query.with_for_update(of=Model, skip_locked=True)).all()
    for model in models:
        blobs += clear(model, f"checkpoints are kept for {age / timedelta(days=1):g} days after the end of their job")
    return len(models), blobs


def clear(model: Model, reason: str) -> list[str]:
    """Empties a checkpoint's model, whose row keeps the reason. Returns its own blobs: no other model has them."""
    blobs = {tensor["blob"] for tensor in model.tensors if tensor.get("own")}
    blobs |= {file["blob"] for file in model.state or ()}
    model.status, model.error, model.base_id = DROPPED, reason, None
    model.files, model.tensors, model.manifest, model.state, model.stored_bytes = [], [], None, None, 0
    return sorted(blobs)


def users(session: Session, model: Model) -> Iterator[str]:
    """Ids of the models that are made of this one, and of the jobs under way that start from it."""
    yield from session.scalars(select(Model.id).where(Model.base_id == model.id).order_by(Model.id))
    # A job that continues an adapter has the adapter as its model, and the adapter's base as its base.
    unfinished = (or_(Job.base_model == model.id, Job.model == model.id), Job.status.not_in(TERMINAL))
    yield from session.scalars(select(Job.id).where(*unfinished).order_by(Job.id))
