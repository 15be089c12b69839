"""Jobs, the workers that run them, and what jobs produce while they run: events, metrics, checkpoints."""

from collections.abc import Iterator
from datetime import datetime
from typing import Any, Final

from sqlalchemy import JSON, BigInteger, ForeignKey, Index, String, Text, UniqueConstraint, text
from sqlalchemy.orm import Mapped, mapped_column

from app.db import Base
from app.freeze.policy import Policy
from app.jobs.queue.fair_share import queue_time
from app.jobs.queue.states import TERMINAL, to_run
from app.jsontypes import JsonDict
from app.specs.data import DataSpec
from app.specs.evidence import EvidenceSpec
from app.specs.hyperparameters import Hyperparameters
from app.specs.models import ModelSpec, read_model

_LEASED: Final = text("lease_until IS NOT NULL")
_OF_SWEEP: Final = text("sweep_id IS NOT NULL")
#: As text: with the states as parameters no database would see that the partial index covers the query.
WAITING: Final = text("status IN ('queued', 'validating_files')")


def _urgency(context: Any) -> int:
    """The negated priority."""
    return -int(context.get_current_parameters().get("priority") or 0)


def _desired(context: Any) -> str:
    return to_run(context.get_current_parameters().get("machines") or 1)


def _queue_time(context: Any) -> datetime:
    values = context.get_current_parameters()
    return queue_time(values["created_at"], values.get("priority") or 0)


class Job(Base):
    """One fine-tuning job. `version` grows with every change, so a poller's ETag is one integer."""

    __tablename__ = "jobs"
    __table_args__ = (
        Index("ix_jobs_project_created", "project", "created_at", "id"),
        Index("ix_jobs_project_status_created", "project", "status", "created_at", "id"),
        Index("ix_jobs_project_model_created", "project", "model", "created_at", "id"),
        Index("ix_jobs_finished", "finished_at", "id"),
        Index("ix_jobs_leased", "lease_until", postgresql_where=_LEASED, sqlite_where=_LEASED),
        # Each project's queue in its own order: taking the next job of one costs the same at any length.
        Index("ix_jobs_queue", "project", "queue_time", "id", postgresql_where=WAITING, sqlite_where=WAITING),
        Index("ix_jobs_sweep", "sweep_id", "created_at", "id", postgresql_where=_OF_SWEEP, sqlite_where=_OF_SWEEP),
        UniqueConstraint("project", "idempotency_key"),
    )

    id: Mapped[str] = mapped_column(String(64), primary_key=True)
    project: Mapped[str] = mapped_column(String(64))
    created_at: Mapped[datetime]
    version: Mapped[int] = mapped_column(default=1)

    status: Mapped[str] = mapped_column(String(24))
    desired: Mapped[str] = mapped_column(String(8), default=_desired)
    priority: Mapped[int] = mapped_column(default=0)
    #: The order inside the project. What an API of an earlier version submits during an upgrade goes first.
    queue_time: Mapped[datetime] = mapped_column(default=_queue_time, server_default="1970-01-01 00:00:00.000000")
    #: Only for workers of earlier versions, which may claim while an upgrade is under way.
    urgency: Mapped[int] = mapped_column(default=_urgency, server_default="0")

    # The request.
    model: Mapped[str] = mapped_column(String(256))
    alias: Mapped[str | None] = mapped_column(String(256))  # the requested name, where that is an alias of `model`
    model_spec: Mapped[JsonDict]
    base_model: Mapped[str | None] = mapped_column(String(256))  # models.id once it is known
    task: Mapped[str] = mapped_column(String(40))
    training_file: Mapped[str] = mapped_column(String(64))
    validation_file: Mapped[str | None] = mapped_column(String(64))
    data: Mapped[JsonDict]
    suffix: Mapped[str | None] = mapped_column(String(64))
    seed: Mapped[int]
    hyperparameters: Mapped[JsonDict]
    method: Mapped[JsonDict | None] = mapped_column(JSON(none_as_null=True))
    meta: Mapped[JsonDict | None] = mapped_column("metadata", JSON(none_as_null=True))
    tags: Mapped[list[Any]] = mapped_column(default=list, server_default="[]")
    retries: Mapped[int | None]  # attempts that may follow a crash; None: the service's own limit
    devices: Mapped[int] = mapped_column(default=1, server_default="1")
    machines: Mapped[int] = mapped_column(default=1, server_default="1")  # on which its devices are, as many on each
    strategy: Mapped[str] = mapped_column(String(8), default="ddp", server_default="ddp")
    device: Mapped[str | None] = mapped_column(String(64))  # a part of a product's name, such as "H100"
    integrations: Mapped[list[Any] | None] = mapped_column(JSON(none_as_null=True))
    freeze_policy: Mapped[JsonDict]
    evidence_options: Mapped[JsonDict]
    fingerprint: Mapped[str | None] = mapped_column(String(64))  # of the request, for retries without a key
    idempotency_key: Mapped[str | None] = mapped_column(String(255))
    traceparent: Mapped[str | None] = mapped_column(String(55))  # of the request that made it, for its trace
    sweep_id: Mapped[str | None] = mapped_column(String(64))  # stays when the sweep's record is deleted
    #: By which rule its sweep may stop it, and once it did so, under "stopped", why.
    early_stopping: Mapped[JsonDict | None] = mapped_column(JSON(none_as_null=True))

    # The worker that runs it. `attempt` is the fencing token: a writer with an older one matches no row.
    attempt: Mapped[int] = mapped_column(default=0)
    crashes: Mapped[int] = mapped_column(default=0)
    takeovers: Mapped[int] = mapped_column(default=0, server_default="0")  # crashes of which: the worker was gone
    losses: Mapped[int] = mapped_column(default=0, server_default="0")  # devices that failed under it
    attempt_step: Mapped[int] = mapped_column(default=0, server_default="0")  # the step reached when this attempt began
    preempted_for: Mapped[str | None] = mapped_column(String(64))  # the waiting job for which it is to make room
    preemptions: Mapped[int] = mapped_column(default=0, server_default="0")  # how often it had to make room
    gangs: Mapped[int] = mapped_column(default=0, server_default="0")  # how many have formed for it
    forming_seconds: Mapped[float] = mapped_column(default=0.0, server_default="0")  # in all, until each was complete
    lost_members: Mapped[int] = mapped_column(default=0, server_default="0")  # attempts that ended without one of them
    lease_owner: Mapped[str | None] = mapped_column(String(128))
    lease_until: Mapped[datetime | None]
    not_before: Mapped[datetime | None]  # back-off after a crash

    # Its progress, and how it ended.
    started_at: Mapped[datetime | None]
    finished_at: Mapped[datetime | None]
    freeze_plan: Mapped[JsonDict | None] = mapped_column(JSON(none_as_null=True))
    progress: Mapped[JsonDict | None] = mapped_column(JSON(none_as_null=True))
    trained_tokens: Mapped[int | None] = mapped_column(BigInteger)
    error: Mapped[JsonDict | None] = mapped_column(JSON(none_as_null=True))
    fine_tuned_model: Mapped[str | None] = mapped_column(String(256))
    result_files: Mapped[list[Any]] = mapped_column(default=list)
    # How many events, points and lines there are for watchers to follow.
    events_count: Mapped[int] = mapped_column(default=0)
    points_count: Mapped[int] = mapped_column(default=0, server_default="0")
    log_lines: Mapped[int] = mapped_column(default=0, server_default="0")

    @property
    def ended(self) -> bool:
        """Whether the job has succeeded, failed or been cancelled."""
        return self.status in TERMINAL

    # The columns that hold JSON, as types. What they give is a copy: to change a column, assign to it.

    @property
    def spec(self) -> ModelSpec:
        return read_model(self.model_spec)

    @property
    def data_spec(self) -> DataSpec:
        return DataSpec.from_json(self.data)

    @property
    def hyperparameter_spec(self) -> Hyperparameters:
        return Hyperparameters.from_json(self.hyperparameters)

    @property
    def evidence_spec(self) -> EvidenceSpec:
        return EvidenceSpec.from_json(self.evidence_options)

    @property
    def policy(self) -> Policy:
        return Policy.from_json(self.freeze_policy)


class DeletedJob(Base):
    """What stays of a job that was deleted: that it was there, and what its evidence said."""

    __tablename__ = "deleted_jobs"

    id: Mapped[str] = mapped_column(String(64), primary_key=True)
    project: Mapped[str] = mapped_column(String(64))
    created_at: Mapped[datetime]
    deleted_at: Mapped[datetime]
    verdict: Mapped[str | None] = mapped_column(String(12))
    base_root: Mapped[str | None] = mapped_column(String(64))
    result_root: Mapped[str | None] = mapped_column(String(64))
    attestation_sha256: Mapped[str | None] = mapped_column(String(64))


class Worker(Base):
    """A worker process that was alive lately, and how many devices it could give to a job."""

    __tablename__ = "workers"

    id: Mapped[str] = mapped_column(String(128), primary_key=True)
    devices: Mapped[int]
    kind: Mapped[str] = mapped_column(String(16))
    #: The products of its devices by the number of each, such as {"NVIDIA H100 80GB HBM3": 8}.
    products: Mapped[JsonDict] = mapped_column(default=dict, server_default="{}")
    #: Where other workers of a gang reach it; None: it runs no job together with others.
    gang_address: Mapped[str | None] = mapped_column(String(64))
    #: SHA-256 over the code that it runs: workers of one gang run the same.
    code: Mapped[str | None] = mapped_column(String(64))
    #: Bytes in use and in all by the device's name in CUDA, such as {"GPU-…": [10, 80]}; none on a CPU.
    memory: Mapped[JsonDict] = mapped_column(default=dict, server_default="{}")
    seen_at: Mapped[datetime]


class GangMember(Base):
    """A worker's place in one attempt at a job on several machines. The rows go when the attempt ends.

    The worker of rank 0 has the job's lease, and leads: it made the places, and it alone changes the job.
    """

    __tablename__ = "gang_members"
    __table_args__ = (Index("ix_gang_members_worker", "worker"),)

    job_id: Mapped[str] = mapped_column(ForeignKey("jobs.id", ondelete="CASCADE"), primary_key=True)
    attempt: Mapped[int] = mapped_column(primary_key=True)
    rank: Mapped[int] = mapped_column(primary_key=True)
    worker: Mapped[str] = mapped_column(String(128))
    devices: Mapped[int]
    device: Mapped[str] = mapped_column(String(256))  # the product of the devices, the same for all members
    state: Mapped[str] = mapped_column(String(8))  # "invited" | "joined" | "ready" | "ended"
    lease_until: Mapped[datetime]
    #: Of rank 0, once it has staged base and data: what the others stage, and where they meet.
    plan: Mapped[JsonDict | None] = mapped_column(JSON(none_as_null=True))
    #: How the trainer of this member ended.
    outcome: Mapped[JsonDict | None] = mapped_column(JSON(none_as_null=True))


class ProjectUsage(Base):
    """What a project uses of the devices: those that run its jobs, and their smoothed number, as they were at `at`."""

    __tablename__ = "project_usage"

    project: Mapped[str] = mapped_column(String(64), primary_key=True)
    running: Mapped[int]
    smoothed: Mapped[float]
    at: Mapped[datetime]


class Label(Base):
    """One entry of a job's metadata, or a tag (a label without a name), indexed in the order of lists.

    So a filtered page costs what any page does.
    """

    __tablename__ = "job_labels"

    project: Mapped[str] = mapped_column(String(64), primary_key=True)
    name: Mapped[str] = mapped_column(String(64), primary_key=True)
    value: Mapped[str] = mapped_column(String(512), primary_key=True)
    created_at: Mapped[datetime] = mapped_column(primary_key=True)
    job_id: Mapped[str] = mapped_column(ForeignKey("jobs.id", ondelete="CASCADE"), primary_key=True, index=True)

    @classmethod
    def all_of(cls, job: Job) -> "Iterator[Label]":
        """The labels by which lists find a job."""
        pairs = [*(job.meta or {}).items(), *(("", tag) for tag in job.tags or ())]
        for name, value in pairs:
            yield cls(project=job.project, name=name, value=value, created_at=job.created_at, job_id=job.id)


class Event(Base):
    """One event of a job. `seq` counts from 1 without gaps: a reader who has n events asks for those after n."""

    __tablename__ = "job_events"

    job_id: Mapped[str] = mapped_column(ForeignKey("jobs.id", ondelete="CASCADE"), primary_key=True)
    seq: Mapped[int] = mapped_column(primary_key=True)
    id: Mapped[str] = mapped_column(String(64), unique=True)
    created_at: Mapped[datetime]
    level: Mapped[str] = mapped_column(String(8))
    type: Mapped[str] = mapped_column(String(16))
    message: Mapped[str] = mapped_column(Text)
    data: Mapped[JsonDict | None] = mapped_column(JSON(none_as_null=True))


class Metric(Base):
    """One point of a job's curves: `values` maps a metric's name to a number.

    `seq` counts the points of a job in the order they are stored; a step that a later attempt repeats gets a new one.
    """

    __tablename__ = "job_metrics"
    __table_args__ = (Index("ix_job_metrics_seq", "job_id", "seq"),)

    job_id: Mapped[str] = mapped_column(ForeignKey("jobs.id", ondelete="CASCADE"), primary_key=True)
    step: Mapped[int] = mapped_column(primary_key=True)
    split: Mapped[str] = mapped_column(String(8), primary_key=True)  # "train" | "valid"
    seq: Mapped[int] = mapped_column(default=0, server_default="0")
    values: Mapped[JsonDict]


class Checkpoint(Base):
    """A saved state of a job, and the model under which it can be downloaded or started from."""

    __tablename__ = "job_checkpoints"

    id: Mapped[str] = mapped_column(String(64), primary_key=True)
    job_id: Mapped[str] = mapped_column(ForeignKey("jobs.id", ondelete="CASCADE"), index=True)
    created_at: Mapped[datetime]
    step: Mapped[int]
    attempt: Mapped[int]
    model: Mapped[str | None] = mapped_column(String(256))  # models.id under which it can be used as a base
    metrics: Mapped[JsonDict]
