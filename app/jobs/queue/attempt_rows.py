"""Stores what an attempt has reported, and what it leaves behind when it ends, in the lifecycle's transactions."""

from datetime import datetime
from typing import Any

from sqlalchemy import select
from sqlalchemy.orm import Session

from app.evidence.transparency.journal import record
from app.jobs.queue import checkpoints, event_log
from app.jobs.queue.attempt import AttemptUpdates, Lease, Outcome
from app.jobs.queue.method import method_of
from app.jobs.queue.tables import Job, Metric


def changed_columns(session: Session, lease: Lease, updates: AttemptUpdates | None) -> dict[str, Any]:
    """The columns of the job's row that the updates change, with their new values."""
    if not updates:
        return {}
    changes: dict[str, Any] = {"version": Job.version + 1, "points_count": Job.points_count + len(updates.metrics)}
    if updates.progress:
        changes["progress"] = updates.progress
    if updates.freeze_plan:
        changes["freeze_plan"] = updates.freeze_plan
    if updates.formed_in is not None:
        changes |= {"gangs": Job.gangs + 1, "forming_seconds": Job.forming_seconds + updates.formed_in}
    if updates.hyperparameters:
        # Numbers in place of "auto", also where OpenAI's clients look for theirs.
        task = session.scalar(select(Job.task).where(Job.id == lease.job_id)) or ""
        changes["hyperparameters"] = updates.hyperparameters
        changes["method"] = method_of(task, updates.hyperparameters)
    return changes


def store_updates(session: Session, lease: Lease, updates: AttemptUpdates, *, last_point: int, at: datetime) -> None:
    """Adds events, points of curves and checkpoints; `last_point` is the number of the newest of these points."""
    event_log.append(session, lease.job_id, updates.events, at=at)

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
    if outcome.log_entry is not None:
        record(session, outcome.log_entry)

    if outcome.model is not None and outcome.last_checkpoint is not None:
        outcome.last_checkpoint.model_id = outcome.model.id
        checkpoints.store(session, lease.job_id, lease.attempt, outcome.last_checkpoint, at)
    event_log.append(session, lease.job_id, [*outcome.events, outcome.final_event()], at=at)
