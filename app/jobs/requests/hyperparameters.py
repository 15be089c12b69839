"""The fields of a request that say how to train: optimizer, hyperparameters, method."""

from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field, model_validator
from pydantic_core import PydanticCustomError

from app.http.request_body import RequestBody
from app.jobs.requests.model_spec import Fraction, Options
from app.specs.optimizers import OPTIONS

Auto = Literal["auto"]
Positive = Annotated[float, Field(gt=0)]
NotNegative = Annotated[float, Field(ge=0)]
Betas = Annotated[list[Fraction], Field(min_length=2, max_length=2)]


class OptimizerGroupRequest(RequestBody):
    """Optimizer options for some of the trained tensors, selected as in a freeze policy; the first match wins."""

    select: Options = Field(examples=[{"name": "classifier.**"}])
    options: Options = Field(examples=[{"lr": 1e-3}], description="An unknown option is refused.")


class Optimizer(RequestBody):
    """An optimizer of torch with its options. An option that the optimizer does not have is refused."""

    name: Literal["adamw", "adam", "sgd", "adafactor", "muon"] = Field(
        default="adamw", description="muon: hidden matrices are trained by Muon, everything else by AdamW."
    )
    groups: list[OptimizerGroupRequest] | None = Field(default=None, max_length=100)
    weight_decay: NotNegative | None = None
    momentum: Fraction | None = None
    dampening: NotNegative | None = None
    nesterov: bool | None = None
    betas: Betas | None = None
    eps: Positive | Annotated[list[Positive], Field(min_length=2, max_length=2)] | None = Field(
        default=None, description="Two numbers for adafactor, one for the others."
    )
    amsgrad: bool | None = None
    beta2_decay: float | None = Field(default=None, lt=0, description="adafactor only.")
    d: Positive | None = Field(default=None, description="adafactor only: the largest root mean square of an update.")
    ns_steps: int | None = Field(default=None, ge=1, le=99, description="muon only: Newton-Schulz iterations.")
    adjust_lr_fn: Literal["match_rms_adamw", "original"] | None = Field(
        default=None, description="muon only. By default its steps are as large as AdamW's at the same learning rate."
    )


def _require_object(value: Any) -> Any:
    if isinstance(value, str):
        name = value if value in OPTIONS else "adamw"
        message = 'an optimizer is an object, such as {"name": "{name}"}, with one of the names {names}'
        raise PydanticCustomError("invalid_value", message, {"name": name, "names": ", ".join(OPTIONS)})
    return value


class HyperparametersRequest(RequestBody):
    """OpenAI's three, each a number or "auto", and ours, whose absence also means "auto".

    Once training has begun, the numbers that were chosen for "auto" are returned in its place.
    """

    n_epochs: Auto | Annotated[int, Field(ge=1, le=100_000)] = "auto"
    batch_size: Auto | Annotated[int, Field(ge=1, le=1_048_576)] = Field(
        default="auto", description="Examples per optimizer step."
    )
    learning_rate_multiplier: Auto | Positive = "auto"
    learning_rate: Positive | None = None
    max_steps: int | None = Field(default=None, ge=1, le=1_000_000_000)
    optimizer: Annotated[Optimizer | None, BeforeValidator(_require_object)] = None
    weight_decay: NotNegative | None = Field(default=None, description="Applied to matrices only.")
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
    max_length: int | None = Field(default=None, ge=1, le=1_048_576, description="Most tokens of an example.")
    length_bucketing: bool | None = None
    packing: bool | None = Field(
        default=None,
        description="Task `causal-lm` only: examples share rows instead of padding, without attending to each other.",
    )
    padding_free: Auto | bool | None = Field(
        default=None,
        description="Of texts: the same batches, without computing on padding. Absent or `auto`: where it pays and the "
        "model gives the same loss and gradients without; true: else the job is refused.",
    )
    master_weights: bool | None = Field(
        default=None,
        description="Half-precision weights that train are updated through fp32 copies, so that small updates are not "
        "lost to rounding. Absent: true.",
    )
    gradient_checkpointing: bool | None = None
    frozen_dropout: bool | None = Field(
        default=None,
        description="Dropout inside modules that are frozen as a whole for the whole run. Absent: false, so that what "
        "is frozen computes the same of an example in every epoch, and its results can be kept.",
    )
    prefix_cache: Auto | bool | None = Field(
        default=None,
        description="Compute the frozen layers' results once for each example and keep them. Absent or `auto`: where "
        "this saves time and does not change what is trained; true: also where it turns dropout between frozen modules "
        "off.",
    )
    compile: bool | None = Field(default=None, description="Compile the model with `torch.compile`; one device only.")
    label_smoothing: Fraction | None = None
    temperature: Positive | None = Field(default=None, description="Task `pairs` only.")
    beta: Auto | Positive | None = Field(
        default=None, description="Task `preference` only: how closely the result stays to the base."
    )
    validation_fraction: Annotated[float, Field(ge=0, le=0.9)] | None = Field(
        default=None,
        description="Share of the training file held out for validation where there is no validation file.",
    )
    eval_steps: int | None = Field(default=None, ge=1, description="Absent: at the end of every epoch.")
    checkpoint_steps: int | None = Field(default=None, ge=1)
    checkpoint_seconds: NotNegative | None = None
    keep_checkpoints: int | None = Field(default=None, ge=1, le=1_000)
    tensorboard: bool | None = Field(
        default=None, description="An event file for TensorBoard among the result's files."
    )
    max_run_seconds: Positive | None = Field(
        default=None, description="Training ends normally after this many seconds, with a result and its evidence."
    )
    early_stopping_patience: int | None = Field(default=None, ge=1)

    @model_validator(mode="after")
    def _given_once(self) -> "HyperparametersRequest":
        if self.warmup_steps is not None and self.warmup_ratio is not None:
            raise PydanticCustomError("conflict", "give warmup_steps or warmup_ratio, not both")
        if self.weight_decay is not None and self.optimizer and self.optimizer.weight_decay is not None:
            raise PydanticCustomError(
                "conflict", "weight_decay is given twice: here and in optimizer; keep one of them"
            )
        return self


class MethodOptions(RequestBody):
    """HyperparametersRequest where OpenAI's clients put them."""

    hyperparameters: HyperparametersRequest | None = None


class Method(RequestBody):
    """OpenAI's `method`: `dpo` for preference data, `supervised` for every other task. Absent: by the task."""

    type: Literal["supervised", "dpo"]
    supervised: MethodOptions | None = None
    dpo: MethodOptions | None = None

    @model_validator(mode="before")
    @classmethod
    def _unused(cls, given: Any) -> Any:
        """Without the null that OpenAI's clients write for the method that is not offered."""
        if isinstance(given, dict) and given.get("reinforcement", ...) is None:
            return {name: value for name, value in given.items() if name != "reinforcement"}
        return given

    def hyperparameters(self) -> HyperparametersRequest | None:
        """The hyperparameters of the method's own type."""
        options = self.dpo if self.type == "dpo" else self.supervised
        return options.hyperparameters if options else None

    @model_validator(mode="after")
    def _one_kind(self) -> "Method":
        other = "supervised" if self.type == "dpo" else "dpo"
        if getattr(self, other) is not None:
            message = "the type is {type}, so options under {other} would be ignored; leave them out"
            raise PydanticCustomError("conflict", message, {"type": self.type, "other": other})
        return self
