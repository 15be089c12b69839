"""The fields of a request for a sweep, and what is returned of one."""

from typing import Annotated, Any, Final, Literal

from pydantic import Field, model_validator
from pydantic_core import PydanticCustomError

from app.http.request_body import RequestBody
from app.jobs.answers import Answer
from app.jobs.queue.states import Status
from app.jobs.requests.hyperparameters import HyperparametersRequest
from app.jobs.requests.model_spec import Options
from app.jobs.requests.schemas import JobCreate, Metadata
from app.jsontypes import JsonDict
from app.paging.keyset import Page
from app.sweeps.metrics import Goal, MetricName

#: A sweep has no more jobs than this.
MOST_JOBS: Final = 256

Seed = Annotated[int, Field(ge=0, lt=2**53)]
Values = Annotated[list[Any], Field(min_length=1, max_length=MOST_JOBS)]
Name = Annotated[str, Field(min_length=1, max_length=64)]


class Grid(RequestBody):
    """Every combination of these values makes a job; the values on the right change fastest."""

    hyperparameters: Annotated[dict[Name, Values], Field(min_length=1)] | None = Field(
        default=None, description="By a hyperparameter's name, the values to try.", examples=[{"n_epochs": [1, 3]}]
    )
    freeze_policy: Annotated[list[Options], Field(min_length=1, max_length=MOST_JOBS)] | None = Field(
        default=None, description="Policies as a job's `freeze_policy` has them."
    )
    seed: Annotated[list[Seed], Field(min_length=1, max_length=MOST_JOBS)] | None = None


class VariationRequest(RequestBody):
    """What one job has of its own; the rest is the `job`'s."""

    hyperparameters: HyperparametersRequest | None = Field(
        default=None, description="Those given here replace the same ones of the `job`.", examples=[{"n_epochs": 3}]
    )
    freeze_policy: Options | None = Field(default=None, description="As a job's `freeze_policy`.")
    seed: Seed | None = None


class MedianStopping(RequestBody):
    """Cancels a job whose best validation metric so far is worse than the median of the others at the same step."""

    type: Literal["median"] = "median"
    min_jobs: int = Field(default=3, ge=1, le=MOST_JOBS, description="How many others must have reached the step.")
    min_step: int = Field(default=0, ge=0, description="No job is stopped before this step.")


class SweepCreate(RequestBody):
    """Jobs on one base and one data set that differ in hyperparameters, freeze policy or seed."""

    job: JobCreate = Field(description="What the jobs have in common: the same fields as those of a job.")
    grid: Grid | None = Field(default=None, description="All combinations of these; or give `variations`.")
    variations: Annotated[list[VariationRequest], Field(min_length=1, max_length=MOST_JOBS)] | None = Field(
        default=None, description="One job for each entry; or give a `grid`."
    )
    metric: MetricName | None = Field(
        default=None,
        description="By which the jobs are ranked, measured on validation examples; absent: the loss. Without "
        "validation examples the training loss takes its place, and `warnings` says so.",
    )
    early_stopping: MedianStopping | None = Field(
        default=None, description="Absent: every job runs to its end.", examples=[{"type": "median"}]
    )
    metadata: Annotated[Metadata, Field(max_length=16)] | None = Field(
        default=None, description="Of the sweep; its jobs have that of `job`."
    )

    @model_validator(mode="after")
    def _one_list_of_jobs(self) -> "SweepCreate":
        if (self.grid is None) == (self.variations is None):
            raise PydanticCustomError("conflict", "give either a grid or variations: they say which jobs there are")
        if self.job.dry_run:
            raise PydanticCustomError("conflict", "dry_run is for single jobs: leave it out of a sweep's job")
        return self


class SweepMetric(Answer):
    name: MetricName
    split: Literal["train", "valid"] = Field(description="`train` where there are no validation examples.")
    goal: Goal


class RankedJob(Answer):
    """One job of a sweep, in the order of the ranks."""

    rank: int | None = Field(description="1 is the best so far; null without a value, and of a job without a result.")
    job_id: str
    status: Status
    values: JsonDict = Field(description="What the job has of its own: hyperparameters, freeze_policy, seed.")
    value: float | None = Field(description="The metric, from the job's last evaluation.")
    step: int | None = Field(description="The step of that evaluation.")
    verdict: str = Field(description="Of the job's evidence.")
    fine_tuned_model: str | None
    seconds: float | None = Field(description="From the job's start to its end.")
    stopped: str | None = Field(description="Why the sweep stopped it early.")


class BestJob(Answer):
    job_id: str
    fine_tuned_model: str | None
    value: float


class SweepSummary(Answer):
    """A sweep without its ranking."""

    id: str
    object: Literal["fine_tuning.sweep"] = "fine_tuning.sweep"
    created_at: int
    finished_at: int | None = Field(description="When the last of its jobs ended.")
    cancelled_at: int | None
    status: Literal["running", "succeeded", "failed", "cancelled"] = Field(
        description="`running` until every job has ended; then `cancelled` if it was cancelled, `succeeded` if any job "
        "was, else `failed`."
    )
    model: str
    task: str
    training_file: str
    validation_file: str | None
    metadata: dict[str, str] | None
    metric: SweepMetric
    early_stopping: JsonDict | None
    warnings: list[str]
    job_counts: dict[str, int] = Field(description="Jobs by state, and their `total`.")


class SweepObject(SweepSummary):
    """A sweep, with its jobs ranked."""

    best: BestJob | None = Field(description="The first of those that succeeded.")
    ranking: list[RankedJob]


class SweepList(Page):
    data: list[SweepSummary]


class SweepDeleted(Answer):
    id: str
    object: Literal["fine_tuning.sweep"] = "fine_tuning.sweep"
    deleted: Literal[True] = True
