"""How a job is to be trained, as a request says it: each number may be "auto", which absence means as well."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Any, ClassVar, Literal, Self

from app.specs.optimizers import OptimizerSpec
from app.specs.reading import Range, Spec, read

Auto = Literal["auto"]
Count = Annotated[int, Range(1)]
NotNegative = Annotated[float, Range(0)]
Fraction = Annotated[float, Range(0, 1)]
Schedule = Literal["linear", "cosine", "constant"]
Precision = Literal["fp32", "bf16", "fp16"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Hyperparameters(Spec):
    """`batch_size` examples make one optimizer step; they pass through the model `micro_batch_size` at a time."""

    PARAM: ClassVar[str] = "hyperparameters"

    n_epochs: Auto | Count | None = None
    batch_size: Auto | Count | None = None
    learning_rate_multiplier: Auto | NotNegative | None = None
    learning_rate: NotNegative | None = None
    max_steps: Count | None = None
    optimizer: OptimizerSpec | None = None
    weight_decay: NotNegative | None = None  # on matrices alone
    lr_schedule: Schedule | None = None
    warmup_steps: Annotated[int, Range(0)] | None = None  # wins over the ratio
    warmup_ratio: Fraction | None = None
    min_lr_ratio: Fraction | None = None
    micro_batch_size: Count | None = None
    gradient_accumulation_steps: Count | None = None
    max_grad_norm: NotNegative | None = None  # 0: no clipping
    precision: Precision | None = None
    max_length: Count | None = None  # tokens of an example
    length_bucketing: bool | None = None
    packing: bool | None = None
    padding_free: Auto | bool | None = None
    master_weights: bool | None = None
    gradient_checkpointing: bool | None = None
    frozen_dropout: bool | None = None  # absent only in jobs from before it existed, where it means true
    prefix_cache: Auto | bool | None = None
    compile: bool | None = None
    label_smoothing: Fraction | None = None
    temperature: Annotated[float, Range(1e-6)] | None = None
    beta: Auto | NotNegative | None = None
    validation_fraction: Annotated[float, Range(0, 0.9)] | None = None
    eval_steps: Count | None = None  # absent: at the end of every epoch
    checkpoint_steps: Count | None = None
    checkpoint_seconds: NotNegative | None = None
    keep_checkpoints: Count | None = None
    tensorboard: bool | None = None
    max_run_seconds: NotNegative | None = None
    early_stopping_patience: Count | None = None  # evaluations without a lower loss

    @classmethod
    def from_json(cls, content: Any, *, param: str | None = None) -> Self:
        """As of every spec; an optimizer may be its name alone."""
        if isinstance(content, Mapping) and isinstance(name := content.get("optimizer"), str):
            content = {**content, "optimizer": {"name": name}}
        return read(cls, content, param=param or cls.PARAM)
