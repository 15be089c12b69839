"""Jobs and what they leave behind while they run: events, metrics, checkpoints."""

from collections.abc import Iterator
from datetime import datetime
from typing import Any, Final

from sqlalchemy import JSON, BigInteger, ForeignKey, Index, String, Text, UniqueConstraint, text
from sqlalchemy.orm import Mapped, mapped_column

from app.db import Base

_LEASED: Final = text("lease_until IS NOT NULL")
#: As text: with the states as parameters no database would see that a query asks for no more than the index holds.
WAITING: Final = text("status IN ('queued', 'validating_files')")


def _urgency(context: Any) -> int:
    """The priority turned round: an index that goes one way is read in one go."""
    return -int(context.get_current_parameters().get("priority") or 0)


class Job(Base):
    """One fine-tuning job. `version` grows with every change, so that a poller's ETag is one integer."""

    __tablename__ = "jobs"
    __table_args__ = (
        Index("ix_jobs_project_created", "project", "created_at", "id"),
        Index("ix_jobs_project_status_created", "project", "status", "created_at", "id"),
        Index("ix_jobs_project_model_created", "project", "model", "created_at", "id"),
        Index("ix_jobs_leased", "lease_until", postgresql_where=_LEASED, sqlite_where=_LEASED),
        # The queue in its own order: taking the next job and telling a place in it cost the same however long it is.
        Index("ix_jobs_waiting", "urgency", "created_at", "id", postgresql_where=WAITING, sqlite_where=WAITING),
        UniqueConstraint("project", "idempotency_key"),
    )

    id: Mapped[str] = mapped_column(String(64), primary_key=True)
    project: Mapped[str] = mapped_column(String(64))
    created_at: Mapped[datetime]
    version: Mapped[int] = mapped_column(default=1)

    status: Mapped[str] = mapped_column(String(24))
    desired: Mapped[str] = mapped_column(String(8), default="run")
    priority: Mapped[int] = mapped_column(default=0)
    urgency: Mapped[int] = mapped_column(default=_urgency, server_default="0")

    # What was asked for.
    model: Mapped[str] = mapped_column(String(256))
    model_spec: Mapped[dict[str, Any]]
    base_model: Mapped[str | None] = mapped_column(String(256))  # models.id once it is known
    task: Mapped[str] = mapped_column(String(40))
    training_file: Mapped[str] = mapped_column(String(64))
    validation_file: Mapped[str | None] = mapped_column(String(64))
    data: Mapped[dict[str, Any]]
    suffix: Mapped[str | None] = mapped_column(String(64))
    seed: Mapped[int]
    hyperparameters: Mapped[dict[str, Any]]
    method: Mapped[dict[str, Any] | None] = mapped_column(JSON(none_as_null=True))
    meta: Mapped[dict[str, Any] | None] = mapped_column("metadata", JSON(none_as_null=True))
    tags: Mapped[list[Any]] = mapped_column(default=list, server_default="[]")
    retries: Mapped[int | None]  # attempts that may follow a crash; None: as many as the service grants
    devices: Mapped[int] = mapped_column(default=1, server_default="1")
    strategy: Mapped[str] = mapped_column(String(8), default="ddp", server_default="ddp")
    integrations: Mapped[list[Any] | None] = mapped_column(JSON(none_as_null=True))
    freeze_policy: Mapped[dict[str, Any]]
    evidence_options: Mapped[dict[str, Any]]
    fingerprint: Mapped[str | None] = mapped_column(String(64))  # of the request, for retries without a key
    idempotency_key: Mapped[str | None] = mapped_column(String(255))

    # Who works on it. `attempt` is the fencing token: a writer with an older one matches no row.
    attempt: Mapped[int] = mapped_column(default=0)
    crashes: Mapped[int] = mapped_column(default=0)
    losses: Mapped[int] = mapped_column(default=0, server_default="0")  # of devices under it
    lease_owner: Mapped[str | None] = mapped_column(String(128))
    lease_until: Mapped[datetime | None]
    not_before: Mapped[datetime | None]  # back-off after a crash

    # How far it is, and how it ended.
    started_at: Mapped[datetime | None]
    finished_at: Mapped[datetime | None]
    freeze_plan: Mapped[dict[str, Any] | None] = mapped_column(JSON(none_as_null=True))
    progress: Mapped[dict[str, Any] | None] = mapped_column(JSON(none_as_null=True))
    trained_tokens: Mapped[int | None] = mapped_column(BigInteger)
    error: Mapped[dict[str, Any] | None] = mapped_column(JSON(none_as_null=True))
    fine_tuned_model: Mapped[str | None] = mapped_column(String(256))
    result_files: Mapped[list[Any]] = mapped_column(default=list)
    # How much there is of what watchers follow.
    events_count: Mapped[int] = mapped_column(default=0)
    points_count: Mapped[int] = mapped_column(default=0, server_default="0")
    log_lines: Mapped[int] = mapped_column(default=0, server_default="0")


class Worker(Base):
    """A worker process that was there lately, and how many devices a job could have of it."""

    __tablename__ = "workers"

    id: Mapped[str] = mapped_column(String(128), primary_key=True)
    devices: Mapped[int]
    kind: Mapped[str] = mapped_column(String(16))
    seen_at: Mapped[datetime]


class Label(Base):
    """A job's metadata and tags once more, in the order of lists: a filtered page costs what any page does.

    A tag is a label without a name.
    """

    __tablename__ = "job_labels"

    project: Mapped[str] = mapped_column(String(64), primary_key=True)
    name: Mapped[str] = mapped_column(String(64), primary_key=True)
    value: Mapped[str] = mapped_column(String(512), primary_key=True)
    created_at: Mapped[datetime] = mapped_column(primary_key=True)
    job_id: Mapped[str] = mapped_column(ForeignKey("jobs.id", ondelete="CASCADE"), primary_key=True, index=True)

    @classmethod
    def all_of(cls, job: Job) -> "Iterator[Label]":
        """What lists find a job by."""
        pairs = [*(job.meta or {}).items(), *(("", tag) for tag in job.tags or ())]
        for name, value in pairs:
            yield cls(project=job.project, name=name, value=value, created_at=job.created_at, job_id=job.id)


class Event(Base):
    """`seq` counts from 1 without gaps within a job: a reader who has n events asks for those after n."""

    __tablename__ = "job_events"

    job_id: Mapped[str] = mapped_column(ForeignKey("jobs.id", ondelete="CASCADE"), primary_key=True)
    seq: Mapped[int] = mapped_column(primary_key=True)
    id: Mapped[str] = mapped_column(String(64), unique=True)
    created_at: Mapped[datetime]
    level: Mapped[str] = mapped_column(String(8))
    type: Mapped[str] = mapped_column(String(16))
    message: Mapped[str] = mapped_column(Text)
    data: Mapped[dict[str, Any] | None] = mapped_column(JSON(none_as_null=True))


class Metric(Base):
    """One point of a job's curves: `values` maps a metric's name to a number.

    `seq` counts the points of a job as they come; a step that a later attempt repeats gets a new one.
    """

    __tablename__ = "job_metrics"
    __table_args__ = (Index("ix_job_metrics_seq", "job_id", "seq"),)

    job_id: Mapped[str] = mapped_column(ForeignKey("jobs.id", ondelete="CASCADE"), primary_key=True)
    step: Mapped[int] = mapped_column(primary_key=True)
    split: Mapped[str] = mapped_column(String(8), primary_key=True)  # "train" | "valid"
    seq: Mapped[int] = mapped_column(default=0, server_default="0")
    values: Mapped[dict[str, Any]]


class Checkpoint(Base):
    __tablename__ = "job_checkpoints"

    id: Mapped[str] = mapped_column(String(64), primary_key=True)
    job_id: Mapped[str] = mapped_column(ForeignKey("jobs.id", ondelete="CASCADE"), index=True)
    created_at: Mapped[datetime]
    step: Mapped[int]
    attempt: Mapped[int]
    model: Mapped[str | None] = mapped_column(String(256))  # models.id under which it can be used as a base
    metrics: Mapped[dict[str, Any]]
