"""The fields of a request for a job: OpenAI's, and ours beside them."""

import re
from typing import Annotated, Any, Final, Literal

from pydantic import AfterValidator, BeforeValidator, Field, model_validator
from pydantic_core import PydanticCustomError

from app.freeze.policy import Policy
from app.freeze.schemas import FreezePolicy
from app.http.request_body import RequestBody
from app.jobs.requests.hyperparameters import HyperparametersRequest, Method
from app.jobs.requests.model_spec import Identifier, ModelField
from app.specs.models import Task


class DataOptions(RequestBody):
    """How to read a table (CSV, Parquet, JSONL)."""

    features: list[Identifier] | None = Field(
        default=None, min_length=1, description="Columns; absent: all but the target."
    )
    target: Identifier | list[Identifier] | None = Field(default=None, description="Column; absent: the last one.")


class EvidenceOptions(RequestBody):
    """How much the checks during training may cost, and what the evidence repeats."""

    overhead_budget: Annotated[float, Field(ge=0, le=1)] = Field(
        default=0.01, description="Share of training time that checks during training may take."
    )
    nonce: str | None = Field(
        default=None, max_length=128, description="Repeated inside the signed statement, as a proof of freshness."
    )


class Resources(RequestBody):
    """The part of a worker's machine that one job gets."""

    devices: int = Field(
        default=1, ge=1, le=1024, description="Processes that train it together, each on a device of its own."
    )
    machines: int = Field(
        default=1,
        ge=1,
        le=64,
        description="Machines on which these devices are, as many on each. Above 1, workers form a gang for the job.",
    )
    strategy: Literal["ddp", "fsdp"] = Field(
        default="ddp",
        description="`ddp`: the whole model on each device. `fsdp`: a part of it, for models larger than a device.",
    )
    device: Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9 .-]{0,63}$")] | None = Field(
        default=None,
        description="The kind of device: a part of its product's name, in any case, or `cpu`. Absent: any.",
        examples=["H100"],
    )


def _suffix(value: str) -> str:
    if not re.fullmatch(r"[A-Za-z0-9._-]+", value):
        raise PydanticCustomError(
            "characters", "is part of a model's id and may have only letters, digits, '.', '_' and '-'"
        )
    return value


def _no_integrations(value: Any) -> Any:
    """Integrations are refused, because one that is accepted and ignored would be missed after the job."""
    if value:
        message = (
            "integrations are not offered: name a wandb://, mlflow:// or trackio:// address in destinations, "
            "or leave them out, and read the curves from /metrics (tensorboard: true)"
        )
        raise PydanticCustomError("not_offered", message)
    return value


#: An id, or a reference.
FileName = Annotated[str, Field(min_length=1, max_length=2048)]
Tag = Annotated[str, Field(min_length=1, max_length=64)]
Suffix = Annotated[str, Field(min_length=1, max_length=64, json_schema_extra={"pattern": "^[A-Za-z0-9._-]+$"})]
Metadata = dict[
    Annotated[str, Field(min_length=1, max_length=64)],
    Annotated[str, Field(max_length=512)],
]


#: Fields at the top of a request that the trainer reads among its hyperparameters.
_CONTROLS: Final = ("max_run_seconds", "tensorboard")


class JobCreate(RequestBody):
    """A fine-tuning job. Only `model` and `training_file` are required."""

    model: ModelField
    training_file: FileName = Field(
        description="`file-…` with the purpose `fine-tune`; or a reference, which becomes a file that a worker fetches "
        "once: `hf://owner/name@revision?split=train`, `s3://bucket/key`, `https://…`."
    )
    validation_file: FileName | None = None
    task: Task | None = Field(
        default=None, description="Of a transformers model. Absent: the model spec's, else inferred from the file."
    )
    suffix: Annotated[Suffix, AfterValidator(_suffix)] | None = Field(
        default=None, description="Part of the result's id: letters, digits, `.`, `_` and `-`."
    )
    seed: int | None = Field(default=None, ge=0, lt=2**53, description="Absent: drawn at random and returned.")
    hyperparameters: HyperparametersRequest | None = None
    method: Method | None = None
    metadata: Annotated[Metadata, Field(max_length=16)] | None = None
    tags: Annotated[list[Tag], Field(max_length=16)] | None = Field(
        default=None, description="Words to find the job by: `?tag=`.", examples=[["nightly"]]
    )
    integrations: Annotated[list[Any], Field(max_length=0), BeforeValidator(_no_integrations)] | None = Field(
        default=None, description="Not supported: must be empty."
    )
    freeze_policy: FreezePolicy | None = Field(
        default=None, description="What must not change. Absent: everything trains."
    )
    data: DataOptions | None = None
    evidence: EvidenceOptions | None = None
    resources: Resources | None = Field(
        default=None, description="Absent: one device.", examples=[{"devices": 2, "strategy": "ddp", "device": "H100"}]
    )
    priority: int = Field(
        default=0,
        ge=-100,
        le=100,
        description="Inside the project, jobs with a higher priority start first; a point is worth an hour of waiting.",
    )
    retries: int | None = Field(
        default=None,
        ge=0,
        le=100,
        description="Attempts that may follow one that crashed, from its last checkpoint. Absent: the service's own.",
    )
    max_run_seconds: Annotated[float, Field(gt=0)] | None = Field(
        default=None,
        description="Training ends at the step that passes this time, all attempts taken together, as if it were "
        "done: with a result and its evidence.",
    )
    tensorboard: bool | None = Field(
        default=None,
        description="true: an event file for TensorBoard beside the result's curves as JSONL and CSV.",
    )

    destinations: list[str] | None = Field(
        default=None,
        max_length=8,
        description="Where the result goes once the job has succeeded: `hf://owner/name`, `s3://bucket/prefix`, "
        "`mlflow://host/experiment?model=name`, `wandb://host/entity/project`, `trackio://host/project`. A worker "
        "sends it and tries again; nothing of the job waits for it.",
        examples=[["s3://acme-results/encoder"]],
    )

    dry_run: bool = Field(
        default=False,
        description="Checks everything, previews the plan, estimates time and memory, and makes no job: the "
        "answer is a `fine_tuning.job.dry_run`.",
    )

    def chosen(self) -> HyperparametersRequest:
        """The hyperparameters, wherever in the request they are."""
        given = self._given()
        controls = self.model_dump(include=set(_CONTROLS), exclude_none=True)
        return given.model_copy(update=controls) if controls else given

    def policy(self) -> Policy:
        """The freeze policy in its normal form; without one, everything trains."""
        return self.freeze_policy.normal() if self.freeze_policy else Policy()

    def _given(self) -> HyperparametersRequest:
        return (self.method and self.method.hyperparameters()) or self.hyperparameters or HyperparametersRequest()

    @model_validator(mode="after")
    def _given_once(self) -> "JobCreate":
        if self.method and self.method.hyperparameters() and self.hyperparameters:
            message = "hyperparameters are given twice: at the top and in method.{kind}; keep one of them"
            raise PydanticCustomError("conflict", message, {"kind": self.method.type})
        for name in _CONTROLS:
            if getattr(self, name) is not None and getattr(self._given(), name) is not None:
                message = f"{name} is given twice: at the top and among the hyperparameters; keep one of them"
                raise PydanticCustomError("conflict", message)
        return self
