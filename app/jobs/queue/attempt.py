"""One attempt at a job: the lease that a worker has on it, what it reports while it runs, and how it ended."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from app.evidence.format.log_proof import Entry
from app.evidence.tables import Evidence, Parameter
from app.files.tables import File
from app.jobs.queue.checkpoints import NewCheckpoint
from app.jobs.queue.event_log import NewEvent
from app.models.tables import Model


@dataclass(frozen=True, slots=True)
class Lease:
    """A worker's right to run a job for a limited time; `attempt` is the fencing token of its writes."""

    job_id: str
    attempt: int
    worker: str
    seconds: float
    devices: int = 1  # on this machine
    device: str | None = None  # a part of the product's name that the job requested
    machines: int = 1


class LeaseLost(Exception):
    """The job no longer belongs to this worker: cancelled, finished, or taken over. Stop the trainer, write nothing."""

    def __init__(self, lease: Lease, status: str) -> None:
        super().__init__(f"attempt {lease.attempt} of {lease.job_id} has lost its lease; the job is {status}")
        self.status = status


@dataclass(slots=True)
class AttemptUpdates:
    """What a supervisor has to store since its last heartbeat; false when there is nothing."""

    progress: dict[str, Any] | None = None
    freeze_plan: dict[str, Any] | None = None
    hyperparameters: dict[str, Any] | None = None  # with numbers in place of "auto"
    events: list[NewEvent] = field(default_factory=list)
    metrics: list[tuple[int, str, dict[str, Any]]] = field(default_factory=list)  # (step, split, values)
    checkpoints: list[NewCheckpoint] = field(default_factory=list)
    formed_in: float | None = None  # seconds that its gang took to form

    def __bool__(self) -> bool:
        resolved = self.freeze_plan or self.hyperparameters or self.formed_in is not None
        return bool(self.progress or resolved or self.events or self.metrics or self.checkpoints)

    @property
    def evaluated(self) -> bool:
        """Whether there are validation metrics among them."""
        return any(split == "valid" for _, split, _ in self.metrics)


@dataclass(slots=True)
class Outcome:
    """How an attempt ended, with everything that is stored in the same transaction as the job's status."""

    status: Literal["succeeded", "failed"]
    error: dict[str, Any] | None = None
    evidence: Evidence | None = None
    parameters: Sequence[Parameter] = ()
    model: Model | None = None
    files: Sequence[File] = ()  # OpenAI's result_files: the curves as CSV
    last_checkpoint: NewCheckpoint | None = None  # the result itself, as the last of the job's checkpoints
    trained_tokens: int | None = None
    freeze_policy: dict[str, Any] | None = None  # with the rules that only the loaded model decided
    events: Sequence[NewEvent] = ()
    log_entry: Entry | None = None  # of the statement, for the transparency log

    def final_event(self) -> NewEvent:
        """The job's last event: how it ended."""
        if self.status == "succeeded":
            return NewEvent("Job succeeded", data={"model": self.model.id if self.model else None})

        message = str((self.error or {}).get("message", "no reason was given"))
        return NewEvent(f"Job failed: {message}", level="error", data=self.error)
