"""Checks a request without making a job: what the job would be, estimates, and what could not be checked yet."""

from typing import Final, Literal

from pydantic import Field

from app.freeze.schemas import FreezePlanCounts
from app.jobs.answers import Answer
from app.jobs.queue.queries import check_quota
from app.jobs.requests import estimate
from app.jobs.requests.context import SubmissionContext
from app.jobs.requests.length import Length, length_of
from app.jobs.requests.schemas import JobCreate
from app.jobs.requests.submission import CheckedRequest, examine, job_of
from app.jobs.requests.unchecked import Unchecked, unchecked_estimates, unchecked_parts
from app.jsontypes import JsonDict

#: A dry run reads larger files than a submission does, which leaves them to a worker.
READ_BYTES: Final = 64 << 20


class Steps(Answer):
    examples: int
    n_epochs: int
    batch_size: int
    steps: int
    tokens_per_example: int | None


class Memory(Answer):
    """Bytes on the device; null where they are not known."""

    weights: int | None
    gradients: int | None
    optimizer: int | None
    master_weights: int | None = Field(description="fp32 copies of what trains in half precision.")
    activations: int | None
    total: int | None = Field(description="Of the parts that are known.")


class Estimate(Answer):
    length: Steps | None
    seconds: float | None
    basis: Literal["measured", "computed"] | None = Field(description="From earlier jobs, or from operations.")
    memory_bytes: Memory
    rules: dict[str, str] = Field(description="How each of these is computed.")


class DryRun(Answer):
    """What a request with `dry_run: true` would do. No job was made, and nothing is queued."""

    object: Literal["fine_tuning.job.dry_run"] = "fine_tuning.job.dry_run"
    dry_run: Literal[True] = True
    valid: Literal[True] = Field(
        default=True, description="A request that is not valid is refused as without `dry_run`."
    )
    model: str
    resolved_model: str = Field(description="What `model` stands for, where it is an alias; else the same.")
    model_spec: JsonDict
    task: str
    training_file: str
    validation_file: str | None
    data: JsonDict
    hyperparameters: JsonDict
    method: JsonDict | None
    freeze_policy: JsonDict
    freeze_plan: FreezePlanCounts | None
    estimate: Estimate
    warnings: list[str]
    unchecked: list[Unchecked] = Field(description="Empty: everything that a job can be refused for was checked.")


def dry_run(context: SubmissionContext, request: JobCreate) -> DryRun:
    """The answer to a dry run. Raises what a submission raises, and what a worker would find in files it leaves."""
    return answer(context, request, examine(context, request, read_bytes=READ_BYTES))


def answer(context: SubmissionContext, request: JobCreate, checked: CheckedRequest) -> DryRun:
    """The answer about a request that was examined, with files of up to READ_BYTES read to their ends."""
    check_quota(context.session, context.project, context.settings.max_active_jobs)
    job = job_of(context, request, checked, idempotency_key=None)

    size = length_of(checked.examples, checked.hyperparameters)
    known = estimate.planned(checked)
    time = estimate.seconds(context.session, context.project, checked, context.settings, size)
    memory = estimate.memory(checked, context.settings, size)

    devices = request.resources.devices if request.resources else 1
    unchecked = unchecked_parts(context, checked, devices=devices, read_bytes=READ_BYTES)
    return DryRun.model_validate(
        {
            **{name: getattr(job, name) for name in _JOB_FIELDS},
            "model": job.alias or job.model,
            "resolved_model": job.model,
            "freeze_plan": known[1].plan.counts() if known else job.freeze_plan,
            "estimate": {
                "length": _steps(size),
                **time,
                "memory_bytes": memory,
                "rules": estimate.rules(context.settings),
            },
            "warnings": [*checked.examples.warnings, *(known[1].warnings if known else ())],
            "unchecked": unchecked + unchecked_estimates(time, memory),
        }
    )


_JOB_FIELDS: Final = (
    "model_spec",
    "task",
    "training_file",
    "validation_file",
    "data",
    "hyperparameters",
    "method",
    "freeze_policy",
)


def _steps(size: Length | None) -> JsonDict | None:
    if size is None:
        return None
    tokens = {"tokens_per_example": size.tokens}
    return {name: getattr(size, name) for name in ("examples", "n_epochs", "batch_size", "steps")} | tokens
