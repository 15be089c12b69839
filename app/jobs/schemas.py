"""Jobs as they travel: what a request may say, and what an answer says. OpenAI's fields, and ours beside them."""

import time
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Discriminator, Field, Tag, model_validator
from pydantic_core import PydanticCustomError

from app.evidence.tables import Evidence
from app.freeze.policy import Policy
from app.freeze.schemas import FreezePolicy
from app.jobs.states import TERMINAL, Status
from app.jobs.tables import Checkpoint, Event, Job, Metric
from app.paging import Page

Auto = Literal["auto"]
#: Of a transformers model.
Task = Literal[
    "text-classification",
    "text-regression",
    "token-classification",
    "causal-lm",
    "preference",
    "pairs",
    "image-classification",
]
Fraction = Annotated[float, Field(ge=0, lt=1)]
Identifier = Annotated[str, Field(min_length=1, max_length=256)]


class Request(BaseModel):
    """Requests never guess: unknown fields, text where a number belongs, NaN and infinity are refused."""

    model_config = ConfigDict(extra="forbid", strict=True, allow_inf_nan=False)


# ---- the model


class LoraAdapter(Request):
    """Low-rank matrices beside frozen weights, trained instead of them."""

    type: Literal["lora"]
    r: int = Field(default=8, ge=1, le=4096)
    alpha: float = Field(default=16, gt=0)
    dropout: Fraction = 0.0
    target_modules: list[str] | None = Field(
        default=None, description="Names of modules; absent: the architecture's usual ones."
    )
    use_rslora: bool = Field(default=False, description="Scaled by alpha / sqrt(r), which stands high ranks.")
    use_dora: bool = Field(default=False, description="A trained length for each row of the weight besides.")


class TransformersSpec(Request):
    """A model folder in the layout of transformers, by its name under PERMAFROST_MODELS_DIR."""

    type: Literal["transformers"]
    path: Identifier = Field(description="Name of the folder.", examples=["minilm"])
    task: Task | None = Field(default=None, description="Absent: inferred from the training file.")
    num_labels: int | None = Field(default=None, ge=1, le=1_000_000)
    dtype: Literal["auto", "float32", "float16", "bfloat16"] = "auto"
    adapter: LoraAdapter | None = None


class TorchSpec(Request):
    """A torch module by the name of its architecture, from the entry-point group `permafrost.architectures`."""

    type: Literal["torch"]
    architecture: Identifier = Field(examples=["affine"])
    kwargs: dict[str, Any] = Field(default_factory=dict, examples=[{"in_features": 10, "out_features": 1}])
    weights: str | None = Field(
        default=None, description="A safetensors file (`file-…`); absent: drawn from the job's seed."
    )
    task: Literal["regression", "classification"] = "regression"


def _kind_of_model(value: Any) -> str | None:
    if isinstance(value, str):
        return "id"
    kind = value.get("type") if isinstance(value, dict) else getattr(value, "type", None)
    return kind if kind in ("transformers", "torch") else None


ModelField = Annotated[
    Annotated[Identifier, Tag("id")]
    | Annotated[TransformersSpec, Tag("transformers")]
    | Annotated[TorchSpec, Tag("torch")],
    Discriminator(
        _kind_of_model,
        custom_error_type="invalid_model",
        custom_error_message="must be a model's id, or an object whose `type` is `transformers` or `torch`",
    ),
]


# ---- how to train


Positive = Annotated[float, Field(gt=0)]
NotNegative = Annotated[float, Field(ge=0)]
Betas = Annotated[list[Fraction], Field(min_length=2, max_length=2)]


class OptimizerGroup(Request):
    """Options of the optimizer for some of the trained tensors; selected as in a freeze policy, first match wins."""

    select: dict[str, Any] = Field(examples=[{"name": "classifier.**"}])
    options: dict[str, Any] = Field(examples=[{"lr": 1e-3}], description="An unknown one is refused.")


class Optimizer(Request):
    """An optimizer of torch with its options. One that the optimizer does not have is refused."""

    name: Literal["adamw", "adam", "sgd", "adafactor"] = "adamw"
    groups: list[OptimizerGroup] | None = Field(default=None, max_length=100)
    weight_decay: NotNegative | None = None
    momentum: Fraction | None = None
    dampening: NotNegative | None = None
    nesterov: bool | None = None
    betas: Betas | None = None
    eps: Positive | Annotated[list[Positive], Field(min_length=2, max_length=2)] | None = Field(
        default=None, description="Two of them for adafactor."
    )
    amsgrad: bool | None = None
    beta2_decay: float | None = Field(default=None, lt=0, description="Of adafactor.")
    d: Positive | None = Field(default=None, description="Of adafactor: the largest root mean square of an update.")


class Hyperparameters(Request):
    """OpenAI's three, each a number or "auto"; and ours, whose absence also means "auto".

    The numbers that "auto" came to take its place once training has begun.
    """

    n_epochs: Auto | Annotated[int, Field(ge=1, le=100_000)] = "auto"
    batch_size: Auto | Annotated[int, Field(ge=1, le=1_048_576)] = Field(default="auto", description="Examples a step.")
    learning_rate_multiplier: Auto | Positive = "auto"
    learning_rate: Positive | None = None
    max_steps: int | None = Field(default=None, ge=1, le=1_000_000_000)
    optimizer: Optimizer | None = None
    lr_schedule: Literal["linear", "cosine", "constant"] | None = None
    warmup_steps: int | None = Field(default=None, ge=0)
    warmup_ratio: Fraction | None = None
    min_lr_ratio: Fraction | None = None
    micro_batch_size: int | None = Field(
        default=None, ge=1, description="Examples that go through the model at a time."
    )
    gradient_accumulation_steps: int | None = Field(default=None, ge=1, le=65_536)
    max_grad_norm: NotNegative | None = Field(default=None, description="0: no clipping.")
    precision: Literal["fp32", "bf16", "fp16"] | None = None
    max_length: int | None = Field(default=None, ge=1, le=1_048_576, description="Tokens of an example.")
    length_bucketing: bool | None = None
    gradient_checkpointing: bool | None = None
    label_smoothing: Fraction | None = None
    temperature: Positive | None = Field(default=None, description="Of the task `pairs`.")
    beta: NotNegative | None = Field(default=None, description="Of the task `preference`.")
    validation_fraction: Annotated[float, Field(ge=0, le=0.9)] | None = Field(
        default=None, description="Held out of the training file where there is no validation file."
    )
    eval_steps: int | None = Field(default=None, ge=1, description="Absent: at the end of every epoch.")
    checkpoint_steps: int | None = Field(default=None, ge=1)
    checkpoint_seconds: NotNegative | None = None
    keep_checkpoints: int | None = Field(default=None, ge=1, le=1_000)
    max_run_seconds: NotNegative | None = Field(
        default=None, description="Training ends after this long, as if it were done."
    )
    early_stopping_patience: int | None = Field(default=None, ge=1)

    @model_validator(mode="after")
    def _one_warmup(self) -> "Hyperparameters":
        if self.warmup_steps is not None and self.warmup_ratio is not None:
            raise PydanticCustomError("conflict", "give warmup_steps or warmup_ratio, not both")
        return self


class Supervised(Request):
    hyperparameters: Hyperparameters | None = None


class Method(Request):
    """OpenAI's `method`. `supervised` covers every task, preference data too."""

    type: Literal["supervised"]
    supervised: Supervised | None = None


class DataOptions(Request):
    """How to read a table (CSV, Parquet, JSONL)."""

    features: list[Identifier] | None = Field(
        default=None, min_length=1, description="Columns; absent: all but the target."
    )
    target: Identifier | list[Identifier] | None = Field(default=None, description="Column; absent: the last one.")


class EvidenceOptions(Request):
    overhead_budget: Annotated[float, Field(ge=0, le=1)] = Field(
        default=0.01, description="Share of training time that checks during training may take."
    )
    nonce: str | None = Field(
        default=None, max_length=128, description="Comes back inside the signature: proof of freshness."
    )


Metadata = dict[
    Annotated[str, Field(min_length=1, max_length=64)],
    Annotated[str, Field(max_length=512)],
]


class JobCreate(Request):
    """A fine-tuning job. `model` and `training_file` are all that it needs."""

    model: ModelField
    training_file: Identifier = Field(description="`file-…` with the purpose `fine-tune`.")
    validation_file: Identifier | None = None
    suffix: str | None = Field(default=None, min_length=1, max_length=64, pattern=r"^[A-Za-z0-9._-]+$")
    seed: int | None = Field(default=None, ge=0, lt=2**53, description="Absent: drawn, and told in the answer.")
    hyperparameters: Hyperparameters | None = None
    method: Method | None = None
    metadata: Annotated[Metadata, Field(max_length=16)] | None = None
    integrations: Annotated[list[Any], Field(max_length=0)] | None = Field(
        default=None, description="None are offered."
    )
    freeze_policy: FreezePolicy | None = Field(
        default=None, description="What must not change. Absent: everything trains."
    )
    data: DataOptions | None = None
    evidence: EvidenceOptions | None = None
    priority: int = Field(default=0, ge=-100, le=100, description="Higher goes first.")

    def chosen(self) -> Hyperparameters:
        """The one set of hyperparameters, wherever the request has it."""
        supervised = self.method.supervised if self.method else None
        return (supervised.hyperparameters if supervised else None) or self.hyperparameters or Hyperparameters()

    def policy(self) -> Policy:
        return self.freeze_policy.normal() if self.freeze_policy else Policy()

    @model_validator(mode="after")
    def _one_place(self) -> "JobCreate":
        supervised = self.method.supervised if self.method else None
        if supervised and supervised.hyperparameters and self.hyperparameters:
            message = "hyperparameters are given twice: at the top and in method.supervised; keep one of them"
            raise PydanticCustomError("conflict", message)
        return self


# ---- answers


class Answer(BaseModel):
    model_config = ConfigDict(json_schema_serialization_defaults_required=True)


class JobError(Answer):
    """Why a job failed; `errors` names lines and fields of the data."""

    model_config = ConfigDict(extra="allow")

    code: str
    message: str
    param: str | None = None


class Counts(Answer):
    tensors: int
    elements: int
    bytes: int


class FreezePlanCounts(Answer):
    frozen: Counts
    trainable: Counts


class Violation(Answer):
    """A frozen tensor that moved; steps and operation where the witness could name them."""

    model_config = ConfigDict(extra="allow")

    name: str
    last_good_step: int | None = None
    first_bad_step: int | None = None
    operation: str | None = None


class EvidenceSummary(Answer):
    verdict: Literal["pending", "verified", "violated", "incomplete"]
    frozen_tensors: int | None = None
    frozen_bytes: int | None = None
    base_root: str | None = None
    frozen_root: str | None = None
    violations: list[Violation] = []

    @classmethod
    def of(cls, row: Evidence | None, *, status: str) -> "EvidenceSummary":
        if row is None:
            return cls(verdict="incomplete" if status in TERMINAL else "pending")
        return cls.model_validate(
            {
                "verdict": row.verdict,
                "frozen_tensors": row.frozen_tensors,
                "frozen_bytes": row.frozen_bytes,
                "base_root": row.base_root,
                "frozen_root": row.frozen_root,
                "violations": [Violation(**each) for each in row.violations],
            }
        )


class Progress(Answer):
    model_config = ConfigDict(extra="allow")

    step: int | None = None
    total_steps: int | None = None
    epoch: float | None = None
    percent: float | None = None
    eta_seconds: float | None = None


class JobObject(Answer):
    """A fine-tuning job."""

    id: str
    object: Literal["fine_tuning.job"] = "fine_tuning.job"
    created_at: int
    started_at: int | None
    finished_at: int | None
    estimated_finish: int | None
    status: Status
    model: str
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
    integrations: list[Any]
    trained_tokens: int | None
    error: JobError | None
    priority: int
    freeze_policy: dict[str, Any]
    freeze_plan: FreezePlanCounts | None
    progress: Progress
    evidence: EvidenceSummary
    attempts: int
    queue_position: int | None = Field(description="1 is the next to start; null unless the job waits.")

    @classmethod
    def of(cls, job: Job, *, evidence: Evidence | None, position: int | None) -> "JobObject":
        progress = Progress(**(job.progress or {}))
        return cls.model_validate(
            {
                "id": job.id,
                "created_at": _seconds(job.created_at),
                "started_at": _seconds(job.started_at),
                "finished_at": _seconds(job.finished_at),
                "estimated_finish": _estimate(job),
                "status": job.status,
                "model": job.model,
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
                "integrations": job.integrations or [],
                "trained_tokens": job.trained_tokens,
                "error": job.error,
                "priority": job.priority,
                "freeze_policy": job.freeze_policy,
                "freeze_plan": job.freeze_plan,
                "progress": progress,
                "evidence": EvidenceSummary.of(evidence, status=job.status),
                "attempts": job.attempt,
                "queue_position": position,
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
    step: int
    split: str
    values: dict[str, Any]

    @classmethod
    def of(cls, row: Metric) -> "MetricPoint":
        return cls(step=row.step, split=row.split, values=row.values)


class MetricList(Page):
    """Points in order of step; `sampled` says that some were left out to keep to the limit."""

    data: list[MetricPoint]
    sampled: bool


def _estimate(job: Job) -> int | None:
    """Unix time at which the job will be done if it goes on like this."""
    left = (job.progress or {}).get("eta_seconds")
    return int(time.time() + left) if left is not None and job.status == "running" else None


def _seconds(at: Any) -> Any:
    return int(at.timestamp()) if at is not None else None
