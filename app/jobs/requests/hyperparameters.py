"""How to train, as a request says it: optimizer, hyperparameters, method."""

from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field, model_validator
from pydantic_core import PydanticCustomError

from app.http.request_body import RequestBody
from app.jobs.requests.model_spec import Fraction, Options

Auto = Literal["auto"]
Positive = Annotated[float, Field(gt=0)]
NotNegative = Annotated[float, Field(ge=0)]
Betas = Annotated[list[Fraction], Field(min_length=2, max_length=2)]


class OptimizerGroup(RequestBody):
    """Options of the optimizer for some of the trained tensors; selected as in a freeze policy, first match wins."""

    select: Options = Field(examples=[{"name": "classifier.**"}])
    options: Options = Field(examples=[{"lr": 1e-3}], description="An unknown one is refused.")


class Optimizer(RequestBody):
    """An optimizer of torch with its options. One that the optimizer does not have is refused."""

    name: Literal["adamw", "adam", "sgd", "adafactor", "muon"] = Field(
        default="adamw", description="muon: hidden matrices by Muon, all else by AdamW."
    )
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
    ns_steps: int | None = Field(default=None, ge=1, le=99, description="Of muon: Newton-Schulz iterations.")
    adjust_lr_fn: Literal["match_rms_adamw", "original"] | None = Field(
        default=None, description="Of muon. By default its steps are as large as AdamW's at the same learning rate."
    )


def _an_object(value: Any) -> Any:
    if isinstance(value, str):
        message = 'an optimizer is an object, such as {{"name": "{name}"}}'
        raise PydanticCustomError("invalid_value", message, {"name": value})
    return value


class Hyperparameters(RequestBody):
    """OpenAI's three, each a number or "auto"; and ours, whose absence also means "auto".

    The numbers that "auto" came to take its place once training has begun.
    """

    n_epochs: Auto | Annotated[int, Field(ge=1, le=100_000)] = "auto"
    batch_size: Auto | Annotated[int, Field(ge=1, le=1_048_576)] = Field(default="auto", description="Examples a step.")
    learning_rate_multiplier: Auto | Positive = "auto"
    learning_rate: Positive | None = None
    max_steps: int | None = Field(default=None, ge=1, le=1_000_000_000)
    optimizer: Annotated[Optimizer | None, BeforeValidator(_an_object)] = None
    weight_decay: NotNegative | None = Field(default=None, description="On matrices alone.")
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
    packing: bool | None = Field(
        default=None, description="Of the task `causal-lm`: examples share rows in place of padding, unseen by others."
    )
    gradient_checkpointing: bool | None = None
    prefix_cache: Auto | bool | None = Field(
        default=None,
        description="Compute the frozen layers' results once for each example and keep them. Absent or `auto`: where "
        "that changes nothing of what is trained; true: also where it turns dropout in the frozen layers off.",
    )
    compile: bool | None = Field(default=None, description="By `torch.compile`, on one device.")
    label_smoothing: Fraction | None = None
    temperature: Positive | None = Field(default=None, description="Of the task `pairs`.")
    beta: Auto | Positive | None = Field(
        default=None, description="Of the task `preference`: how closely the result keeps to the base."
    )
    validation_fraction: Annotated[float, Field(ge=0, le=0.9)] | None = Field(
        default=None, description="Held out of the training file where there is no validation file."
    )
    eval_steps: int | None = Field(default=None, ge=1, description="Absent: at the end of every epoch.")
    checkpoint_steps: int | None = Field(default=None, ge=1)
    checkpoint_seconds: NotNegative | None = None
    keep_checkpoints: int | None = Field(default=None, ge=1, le=1_000)
    tensorboard: bool | None = Field(
        default=None, description="An event file for TensorBoard among the result's files."
    )
    max_run_seconds: Positive | None = Field(
        default=None, description="Training ends after this long, as if it were done."
    )
    early_stopping_patience: int | None = Field(default=None, ge=1)

    @model_validator(mode="after")
    def _once(self) -> "Hyperparameters":
        if self.warmup_steps is not None and self.warmup_ratio is not None:
            raise PydanticCustomError("conflict", "give warmup_steps or warmup_ratio, not both")
        if self.weight_decay is not None and self.optimizer and self.optimizer.weight_decay is not None:
            raise PydanticCustomError(
                "conflict", "weight_decay is given twice: here and in optimizer; keep one of them"
            )
        return self


class MethodOptions(RequestBody):
    hyperparameters: Hyperparameters | None = None


class Method(RequestBody):
    """OpenAI's `method`: `dpo` for preference data, `supervised` for every other task. Absent: as the task wants it."""

    type: Literal["supervised", "dpo"]
    supervised: MethodOptions | None = None
    dpo: MethodOptions | None = None

    def hyperparameters(self) -> Hyperparameters | None:
        options = self.dpo if self.type == "dpo" else self.supervised
        return options.hyperparameters if options else None

    @model_validator(mode="after")
    def _one_kind(self) -> "Method":
        other = "supervised" if self.type == "dpo" else "dpo"
        if getattr(self, other) is not None:
            message = "the type is {type}, so options under {other} would be ignored; leave them out"
            raise PydanticCustomError("conflict", message, {"type": self.type, "other": other})
        return self
