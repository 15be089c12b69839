"""Jobs, events, checkpoints and metrics as the API returns them: OpenAI's fields, and ours beside them."""

from datetime import datetime
from typing import Any, Final, Literal

from pydantic import BaseModel, ConfigDict, Field

from app.evidence.schemas import SCHEDULED, SPLIT, VERDICT, EvidenceViolation, Verdict
from app.evidence.tables import Evidence
from app.freeze.schemas import FreezePlanCounts
from app.jobs.queue.states import TERMINAL, Status
from app.jobs.queue.tables import Checkpoint, Event, Job
from app.jobs.queue.waiting import QueuePosition
from app.paging.keyset import Page

#: Stored with the progress, but returned at the top of the job.
_FINISH: Final = "estimated_finish"


class Answer(BaseModel):
    """The base of what is returned: a field with a default is always there, and the schema says so."""

    model_config = ConfigDict(json_schema_serialization_defaults_required=True)


class JobError(Answer):
    """Why a job failed; `errors` names lines and fields of the data."""

    model_config = ConfigDict(extra="allow")

    code: str
    message: str
    param: str | None = None


class EvidenceSummary(Answer):
    verdict: Verdict = Field(description=VERDICT)
    frozen_tensors: int | None = None
    frozen_bytes: int | None = None
    scheduled_tensors: int | None = Field(default=None, description=SCHEDULED)
    split_tensors: int | None = Field(default=None, description=SPLIT)
    base_root: str | None = None
    frozen_root: str | None = None
    violations: list[EvidenceViolation] = []

    @classmethod
    def of(cls, row: Evidence | None, *, status: str) -> "EvidenceSummary":
        """From the row of evidence; without one, from whether the job has ended."""
        if row is None:
            return cls(verdict="none" if status in TERMINAL else "pending")
        return cls.model_validate(
            {
                "verdict": row.verdict,
                "frozen_tensors": row.frozen_tensors,
                "frozen_bytes": row.frozen_bytes,
                "scheduled_tensors": row.checks.get("scheduled_tensors"),
                "split_tensors": row.checks.get("split_tensors"),
                "base_root": row.base_root,
                "frozen_root": row.frozen_root,
                "violations": [EvidenceViolation(**violation) for violation in row.violations],
            }
        )


class PrefixCacheState(Answer):
    """Whether the frozen layers' results are computed once for each example and kept, and why not."""

    in_use: bool
    reason: str | None = Field(default=None, description="Why they are not.")
    modules: list[str] | None = Field(default=None, description="The modules whose results are kept.")
    share: float | None = Field(default=None, description="Of a forward pass's arithmetic.")
    bytes: int | None = None
    stored: Literal["memory", "file"] | None = None
    reused: int | None = Field(default=None, description="Examples whose results an earlier attempt or job had left.")
    gain: float | None = Field(
        default=None, description="How many times as fast the run is because of it, measured before the first step."
    )


class JobProgress(Answer):
    model_config = ConfigDict(extra="allow")

    step: int | None = None
    total_steps: int | None = None
    epoch: float | None = None
    percent: float | None = Field(default=None, description="Of a job that succeeded: 100, also where it ended early.")
    eta_seconds: float | None = Field(default=None, description="Null unless the job runs; 0 once it has succeeded.")
    examples_per_second: float | None = None
    tokens_per_second: float | None = Field(default=None, description="Without padding; null where data has none.")
    steps_per_second: float | None = None
    witness_share: float | None = Field(
        default=None, description="Part of the training time that comparing frozen bytes has taken so far."
    )
    prefix_cache: PrefixCacheState | None = Field(default=None, description="Null until this is decided.")


class ResourcesAnswer(Answer):
    """What the job gets of a worker's machine."""

    devices: int
    machines: int = Field(description="On which these devices are, as many on each.")
    strategy: Literal["ddp", "fsdp"]
    device: str | None = Field(description="The kind of device that the request named; null: any.")


class JobDeleted(Answer):
    """The answer to a deletion."""

    id: str
    object: Literal["fine_tuning.job"] = "fine_tuning.job"
    deleted: Literal[True] = True


class JobObject(Answer):
    """A fine-tuning job."""

    id: str
    object: Literal["fine_tuning.job"] = "fine_tuning.job"
    created_at: int
    started_at: int | None
    finished_at: int | None
    estimated_finish: int | None
    status: Status
    model: str = Field(description="As the request named it.")
    resolved_model: str = Field(
        description="The model that is trained: `model` itself, or what it stands for (PERMAFROST_MODEL_ALIASES)."
    )
    model_spec: dict[str, Any]
    task: str
    fine_tuned_model: str | None
    organization_id: str
    training_file: str
    validation_file: str | None
    result_files: list[str]
    hyperparameters: dict[str, Any]
    method: dict[str, Any] | None
    data: dict[str, Any]
    seed: int
    suffix: str | None
    metadata: dict[str, str] | None
    tags: list[str]
    integrations: list[Any]
    sweep_id: str | None = Field(description="The sweep that submitted it; null: it was submitted alone.")
    trained_tokens: int | None
    error: JobError | None
    priority: int
    retries: int | None = Field(description="Attempts that may follow a crash; null: as many as the service grants.")
    max_run_seconds: float | None
    resources: ResourcesAnswer
    freeze_policy: dict[str, Any]
    freeze_plan: FreezePlanCounts | None
    progress: JobProgress
    evidence: EvidenceSummary
    attempts: int
    waiting_for: str | None = Field(
        description="What a waiting job needs besides its turn: a worker that is alive, one with enough devices, the "
        "end of the pause after a crash, room below its project's limit, a job that makes room for it, or devices that "
        "a worker keeps for it until they are enough. Null: only its turn."
    )
    queue_position: int | None = Field(
        description="1 is the next to start, of all projects, which share devices by weight; 1001 is further back than "
        "is counted; null unless the job waits."
    )
    estimated_start: int | None = Field(
        description="Of a job that waits: from what runs now, and how long this project's jobs take. Null if unknown."
    )

    @classmethod
    def of(cls, job: Job, *, evidence: Evidence | None, position: QueuePosition | None) -> "JobObject":
        """From the job's row, its evidence and, while it waits, its position in the queue."""
        return cls.model_validate(
            {
                "id": job.id,
                "created_at": _seconds(job.created_at),
                "started_at": _seconds(job.started_at),
                "finished_at": _seconds(job.finished_at),
                "estimated_finish": _estimated_finish(job),
                "status": job.status,
                "model": job.alias or job.model,
                "resolved_model": job.model,
                "model_spec": job.model_spec,
                "task": job.task,
                "fine_tuned_model": job.fine_tuned_model,
                "organization_id": f"org-{job.project}",
                "training_file": job.training_file,
                "validation_file": job.validation_file,
                "result_files": job.result_files,
                "hyperparameters": job.hyperparameters,
                "method": job.method,
                "data": job.data,
                "seed": job.seed,
                "suffix": job.suffix,
                "metadata": job.meta,
                "tags": job.tags,
                "integrations": job.integrations or [],
                "sweep_id": job.sweep_id,
                "trained_tokens": job.trained_tokens,
                "error": job.error,
                "priority": job.priority,
                "retries": job.retries,
                "max_run_seconds": job.hyperparameters.get("max_run_seconds"),
                "resources": {
                    "devices": job.devices,
                    "machines": job.machines,
                    "strategy": job.strategy,
                    "device": job.device,
                },
                "freeze_policy": job.freeze_policy,
                "freeze_plan": job.freeze_plan,
                "progress": _progress(job),
                "evidence": EvidenceSummary.of(evidence, status=job.status),
                "attempts": job.attempt,
                "waiting_for": position.waiting_for if position else None,
                "queue_position": position.position if position else None,
                "estimated_start": _seconds(position.starts_at) if position else None,
            }
        )


class JobList(Page):
    data: list[JobObject]


class EventObject(Answer):
    """Something that happened to a job."""

    id: str
    object: Literal["fine_tuning.job.event"] = "fine_tuning.job.event"
    created_at: int
    level: Literal["info", "warn", "error"]
    message: str
    type: Literal["message", "metrics"]
    data: dict[str, Any] | None
    seq: int = Field(description="Counts from 1 within the job, without gaps.")

    @classmethod
    def of(cls, row: Event) -> "EventObject":
        return cls.model_validate(
            {
                "id": row.id,
                "created_at": _seconds(row.created_at),
                "level": row.level,
                "message": row.message,
                "type": row.type,
                "data": row.data,
                "seq": row.seq,
            }
        )


class EventList(Page):
    data: list[EventObject]


class CheckpointObject(Answer):
    """A saved state of a job."""

    id: str
    object: Literal["fine_tuning.job.checkpoint"] = "fine_tuning.job.checkpoint"
    created_at: int
    fine_tuning_job_id: str
    fine_tuned_model_checkpoint: str
    step_number: int
    metrics: dict[str, Any]

    @classmethod
    def of(cls, row: Checkpoint) -> "CheckpointObject":
        return cls.model_validate(
            {
                "id": row.id,
                "created_at": _seconds(row.created_at),
                "fine_tuning_job_id": row.job_id,
                "fine_tuned_model_checkpoint": row.model or f"{row.job_id}:ckpt-step-{row.step}",
                "step_number": row.step,
                "metrics": {"step": row.step, **row.metrics},
            }
        )


class CheckpointList(Page):
    data: list[CheckpointObject]


class MetricPoint(Answer):
    """One point of a job's curves."""

    step: int
    split: str
    seq: int = Field(description="Counts the points of the job as they come: the cursor of `after`.")
    values: dict[str, Any]


class MetricList(Page):
    """Points in order of step; `sampled` says that some were left out to keep to the limit."""

    data: list[MetricPoint]
    sampled: bool


def _progress(job: Job) -> JobProgress:
    """The trainer's last report. A job that succeeded is at 100 percent, also where it ended before its last step."""
    progress = {name: value for name, value in (job.progress or {}).items() if name != _FINISH}
    if job.status == "succeeded" and progress:
        progress |= {"percent": 100.0, "eta_seconds": 0.0}
    elif job.status not in ("running", "pausing"):
        progress["eta_seconds"] = None
    return JobProgress(**progress)


def _estimated_finish(job: Job) -> int | None:
    """Unix time at which the job ends at its present speed; as of its last report, so it changes only with one."""
    return (job.progress or {}).get(_FINISH) if job.status == "running" else None


def _seconds(at: datetime | None) -> int | None:
    return int(at.timestamp()) if at is not None else None
