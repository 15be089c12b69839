"""Checkpoints of jobs as models: each is listed, can be downloaded and started from, until the run drops it."""

from collections.abc import Collection, Iterator
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final

from sqlalchemy import Select, and_, or_, select
from sqlalchemy.orm import Session

from app.db import new_id
from app.jobs.queue.states import TERMINAL
from app.jobs.queue.tables import Checkpoint, Job
from app.models.tables import Model

DROPPED: Final = "dropped"


@dataclass(slots=True)
class NewCheckpoint:
    """A checkpoint before it has a row: its step, the metrics at that step, and the model that was made of it."""

    step: int
    metrics: dict[str, Any]
    model: Model | None = None
    model_id: str | None = None  # of a model that has a row already


def store(session: Session, job_id: str, attempt: int, saved: NewCheckpoint, at: datetime) -> None:
    """A later attempt that comes through the same step again makes the same state, and replaces the row's details."""
    there = session.scalar(select(Checkpoint).where(Checkpoint.job_id == job_id, Checkpoint.step == saved.step))
    row = there or Checkpoint(id=new_id("ftckpt"), job_id=job_id, created_at=at, step=saved.step)
    row.attempt, row.metrics, row.model = attempt, saved.metrics, saved.model_id
    if saved.model is not None:
        saved.model.created_at = at
        row.model = session.merge(saved.model).id
    session.add(row)


def listed(job_id: str) -> Select[Checkpoint]:
    """The job's checkpoints that are still there."""
    there = or_(Checkpoint.model.is_(None), Model.status == "ready")
    joined = select(Checkpoint).outerjoin(Model, and_(Model.id == Checkpoint.model))
    return joined.where(Checkpoint.job_id == job_id, there)


def drop(session: Session, job_id: str, *, kept: Collection[int]) -> list[str]:
    """Clears the models of all checkpoints but the `kept` steps'; those in use stay. The blobs that are then free."""
    ours = select(Model, Checkpoint.step).join(Checkpoint, Checkpoint.model == Model.id)
    there = ours.where(Model.job_id == job_id, Model.kind == "checkpoint", Model.status == "ready")
    rows = session.execute(there.with_for_update(of=Model))  # a job that is just being stored may hold one
    blobs: list[str] = []
    for model, step in rows.all():
        if step not in kept and next(users(session, model), None) is None:
            blobs += clear(model, f"the run kept newer checkpoints (keep_checkpoints) than that of step {step}")
    return blobs


def clear(model: Model, reason: str) -> list[str]:
    """What is left says why the checkpoint is gone. Returns its blobs of weights: no other model has the same."""
    own = {each["blob"] for each in model.tensors if each.get("own")}
    model.status, model.error, model.base_id = DROPPED, reason, None
    model.files, model.tensors, model.manifest, model.stored_bytes = [], [], None, 0
    return sorted(own)


def users(session: Session, model: Model) -> Iterator[str]:
    """Models that are made of this one, and jobs under way that start from it."""
    yield from session.scalars(select(Model.id).where(Model.base_id == model.id).order_by(Model.id))
    # A job that trains an adapter on has the adapter as its model, and as its base what that stands on.
    waiting = (or_(Job.base_model == model.id, Job.model == model.id), Job.status.not_in(TERMINAL))
    yield from session.scalars(select(Job.id).where(*waiting).order_by(Job.id))
