"""Stores what an attempt has reported, and what it leaves behind when it ends, in the lifecycle's transactions."""

from datetime import datetime

from sqlalchemy.orm import Session

from app.jobs.queue import checkpoints, event_log
from app.jobs.queue.attempt import AttemptUpdates, Lease, Outcome
from app.jobs.queue.tables import Metric


def store_updates(session: Session, lease: Lease, updates: AttemptUpdates, *, last_point: int, at: datetime) -> None:
    """Adds events, points of curves and checkpoints; `last_point` is the number of the newest of these points."""
    event_log.append(session, lease.job_id, updates.events)

    for seq, (step, split, values) in enumerate(updates.metrics, start=last_point - len(updates.metrics) + 1):
        session.merge(Metric(job_id=lease.job_id, step=step, split=split, seq=seq, values=values))

    for checkpoint in updates.checkpoints:
        checkpoints.store(session, lease.job_id, lease.attempt, checkpoint, at)


def store_outcome(session: Session, lease: Lease, outcome: Outcome, *, at: datetime) -> None:
    """Adds evidence, model, files, the last checkpoint and the job's last event."""
    for row in (outcome.model, outcome.evidence, *outcome.files):
        if row is not None:
            row.created_at = at
            session.add(row)
    session.add_all(outcome.parameters)

    if outcome.model is not None and outcome.last_checkpoint is not None:
        outcome.last_checkpoint.model_id = outcome.model.id
        checkpoints.store(session, lease.job_id, lease.attempt, outcome.last_checkpoint, at)
    event_log.append(session, lease.job_id, [*outcome.events, outcome.final_event()])
