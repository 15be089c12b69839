"""An attempt at a job, as its worker and the lifecycle speak of it: the lease it holds, its news, how it ended."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from app.evidence.tables import Evidence, Parameter
from app.files.tables import File
from app.jobs.queue.checkpoints import Saved
from app.jobs.queue.event_log import Note
from app.models.tables import Model


@dataclass(frozen=True, slots=True)
class Lease:
    job_id: str
    attempt: int
    worker: str
    seconds: float
    devices: int = 1


class LeaseLost(Exception):
    """The job is no longer this worker's: cancelled, finished, or taken over. Stop the trainer and write nothing."""

    def __init__(self, lease: Lease, status: str) -> None:
        super().__init__(f"attempt {lease.attempt} of {lease.job_id} has lost its lease; the job is {status}")
        self.status = status


@dataclass(slots=True)
class News:
    """What a supervisor has to tell since its last beat."""

    progress: dict[str, Any] | None = None
    freeze_plan: dict[str, Any] | None = None
    hyperparameters: dict[str, Any] | None = None  # with what "auto" came to
    notes: list[Note] = field(default_factory=list)
    metrics: list[tuple[int, str, dict[str, Any]]] = field(default_factory=list)  # (step, split, values)
    checkpoints: list[Saved] = field(default_factory=list)

    def __bool__(self) -> bool:
        settled = self.freeze_plan or self.hyperparameters
        return bool(self.progress or settled or self.notes or self.metrics or self.checkpoints)


@dataclass(slots=True)
class Outcome:
    """How an attempt ended, with all that has to be stored in the same transaction as the status."""

    status: Literal["succeeded", "failed"]
    error: dict[str, Any] | None = None
    evidence: Evidence | None = None
    parameters: Sequence[Parameter] = ()
    model: Model | None = None
    files: Sequence[File] = ()  # what OpenAI calls result_files: the curves as CSV
    last: Saved | None = None  # the result as the last of the job's checkpoints
    trained_tokens: int | None = None
    notes: Sequence[Note] = ()

    def ending(self) -> Note:
        """The job's last event."""
        if self.status == "succeeded":
            return Note("Job succeeded", data={"model": self.model.id if self.model else None})
        message = str((self.error or {}).get("message", "no reason was given"))
        return Note(f"Job failed: {message}", level="error", data=self.error)
