"""A request that is only looked at: what would become of it, what it would cost, and what could not be told yet."""

from typing import Any, Final, Literal

from pydantic import Field

from app.freeze.preview import Preview
from app.freeze.schemas import FreezePlanCounts
from app.jobs.answers import Answer
from app.jobs.queue.queries import check_quota
from app.jobs.requests import estimate
from app.jobs.requests.context import SubmissionContext
from app.jobs.requests.schemas import JobCreate
from app.jobs.requests.submission import CheckedRequest, examine, job_of

#: Files of a dry run are read further than a submission reads them: no worker will.
READ_BYTES: Final = 64 << 20


class Unchecked(Answer):
    """Something that only a worker will find out."""

    what: str = Field(description="The part of the request, or of this answer.")
    why: str
    when: str


class Steps(Answer):
    examples: int
    n_epochs: int
    batch_size: int
    steps: int
    tokens_per_example: int | None


class Memory(Answer):
    """Bytes on the device; null where it cannot be told."""

    weights: int | None
    gradients: int | None
    optimizer: int | None
    activations: int | None
    total: int | None = Field(description="Of the parts that are known.")


class Estimate(Answer):
    length: Steps | None
    seconds: float | None
    basis: Literal["measured", "computed"] | None = Field(description="From earlier jobs, or from operations.")
    memory_bytes: Memory
    rules: dict[str, str] = Field(description="How each of these is reckoned.")


class DryRun(Answer):
    """What a request with `dry_run: true` would do. No job was made, and nothing is queued."""

    object: Literal["fine_tuning.job.dry_run"] = "fine_tuning.job.dry_run"
    dry_run: Literal[True] = True
    valid: Literal[True] = Field(
        default=True, description="A request that is not valid is refused as without `dry_run`."
    )
    model: str
    model_spec: dict[str, Any]
    task: str
    training_file: str
    validation_file: str | None
    data: dict[str, Any]
    hyperparameters: dict[str, Any]
    method: dict[str, Any] | None
    freeze_policy: dict[str, Any]
    freeze_plan: FreezePlanCounts | None
    estimate: Estimate
    warnings: list[str]
    unchecked: list[Unchecked] = Field(description="Empty: all that a job can be refused for was checked.")


def dry_run(context: SubmissionContext, request: JobCreate) -> DryRun:
    """Raises for a request what a submission raises, and more where a worker would be the first to see it."""
    checked = examine(context, request, read_bytes=READ_BYTES)
    check_quota(context.session, context.project, context.settings.max_active_jobs)
    job = job_of(context, request, checked, idempotency_key=None)
    size = estimate.length(checked)
    known = estimate.planned(checked)
    time = estimate.seconds(context.session, context.project, checked, context.settings, size)
    memory = estimate.memory(checked, context.settings, size)
    return DryRun.model_validate(
        {
            **{name: getattr(job, name) for name in _OF_A_JOB},
            "freeze_plan": known[1].plan.counts() if known else job.freeze_plan,
            "estimate": {
                "length": _steps(size),
                **time,
                "memory_bytes": memory,
                "rules": estimate.rules(context.settings),
            },
            "warnings": list(known[1].warnings) if known else [],
            "unchecked": _unchecked(checked, known[1] if known else None, time, memory),
        }
    )


_OF_A_JOB: Final = (
    "model",
    "model_spec",
    "task",
    "training_file",
    "validation_file",
    "data",
    "hyperparameters",
    "method",
    "freeze_policy",
)


def _steps(size: estimate.Length | None) -> dict[str, Any] | None:
    if size is None:
        return None
    tokens = {"tokens_per_example": size.tokens}
    return {name: getattr(size, name) for name in ("examples", "n_epochs", "batch_size", "steps")} | tokens


def _unchecked(
    checked: CheckedRequest, plan: Preview | None, time: dict[str, Any], memory: dict[str, Any]
) -> list[dict[str, str]]:
    at_start = "by a worker, before the first step"
    missing = []
    for param, file, summary in zip(
        ("training_file", "validation_file"), checked.examples.files, checked.examples.summaries, strict=True
    ):
        if file is not None and summary is None:
            why = f"{file.bytes:,} bytes; up to {READ_BYTES:,} of a format that can be read here are read at once"
            missing.append({"what": param, "why": why, "when": at_start})
    if plan is None:
        why = f"the tensors of {checked.chosen.name!r} are not known for the task {checked.task}; " + (
            "register the model (POST /v1/models) to have them read once"
            if checked.chosen.spec["type"] == "transformers"
            else "only a worker builds this architecture"
        )
        missing.append({"what": "freeze_policy", "why": why, "when": at_start})
    if time["seconds"] is None:
        why = "neither an earlier job on this model nor its tensors and examples tell how long it takes"
        missing.append({"what": "estimate.seconds", "why": why, "when": "after a first job"})
    if memory["activations"] is None and memory["total"] is not None:
        why = "what layers keep for the backward pass is known of transformers models with text alone"
        missing.append({"what": "estimate.memory_bytes.activations", "why": why, "when": "while it runs"})
    return missing
