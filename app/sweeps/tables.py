"""Sweeps: several jobs on one base and one data set, submitted together and ranked by one metric."""

from datetime import datetime
from typing import Any

from sqlalchemy import JSON, Index, String, UniqueConstraint
from sqlalchemy.orm import Mapped, mapped_column

from app.db import Base
from app.jsontypes import JsonDict


class Sweep(Base):
    """One sweep. Its state is that of its jobs, which name it in `jobs.sweep_id`; it has no state of its own."""

    __tablename__ = "sweeps"
    __table_args__ = (
        Index("ix_sweeps_project_created", "project", "created_at", "id"),
        UniqueConstraint("project", "idempotency_key"),
    )

    id: Mapped[str] = mapped_column(String(64), primary_key=True)
    project: Mapped[str] = mapped_column(String(64))
    created_at: Mapped[datetime]
    cancelled_at: Mapped[datetime | None]

    # What the jobs have in common, for readers; each job's row has it as well.
    model: Mapped[str] = mapped_column(String(256))
    task: Mapped[str] = mapped_column(String(40))
    training_file: Mapped[str] = mapped_column(String(64))
    validation_file: Mapped[str | None] = mapped_column(String(64))
    meta: Mapped[JsonDict | None] = mapped_column("metadata", JSON(none_as_null=True))

    #: [{"job_id", "values"}] in the order of the request: what each job has of its own.
    variations: Mapped[list[Any]]
    metric: Mapped[JsonDict]  # {"name", "split", "goal"}
    early_stopping: Mapped[JsonDict | None] = mapped_column(JSON(none_as_null=True))
    warnings: Mapped[list[Any]]
    fingerprint: Mapped[str] = mapped_column(String(64))  # of the request, for retries without a key
    idempotency_key: Mapped[str | None] = mapped_column(String(255))
