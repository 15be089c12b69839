"""Resolves a job's hyperparameters: every `auto` by a stated rule, whose outcome is reported."""

from __future__ import annotations

from dataclasses import dataclass, fields, replace

from app.jsontypes import JsonDict
from app.specs import auto
from app.specs.fit import refuse_large_micro_batch
from app.specs.hyperparameters import Hyperparameters, Precision, Schedule
from app.specs.optimizers import DECAYING, OptimizerSpec

CHECKPOINT_SECONDS = 300.0
# Shown by the job in place of "auto". A resumed attempt resolves them again, to the same values.
SHOWN = ("n_epochs", "batch_size", "lr_schedule", "precision")


@dataclass(frozen=True, slots=True)
class Facts:
    """What the `auto` rules look at."""

    examples: int
    pretrained: bool  # a transformers model, against a plain torch one
    head_only: bool  # whether every tensor that trains is new, so that the base only computes features
    adapter: bool
    device: str
    mixed: bool = False  # its tensors have several float dtypes, as they are stored


@dataclass(frozen=True, slots=True, kw_only=True)
class ResolvedHyperparameters:
    """The hyperparameters of a run, all decided. Defaults are given to those whose `auto` depends on nothing.

    `batch_size` examples make one optimizer step; they pass through the model `micro_batch_size` at a time.
    """

    n_epochs: int
    batch_size: int
    micro_batch_size: int
    learning_rate: float  # already times the multiplier
    learning_rate_multiplier: float
    optimizer: OptimizerSpec
    max_steps: int | None = None
    lr_schedule: Schedule = "linear"
    warmup_steps: int | None = None  # wins over the ratio
    warmup_ratio: float = 0.0
    min_lr_ratio: float = 0.0
    max_grad_norm: float | None = 1.0
    precision: Precision = "fp32"
    max_length: int | None = None
    length_bucketing: bool = False
    packing: bool = False
    padding_free: bool | str = "auto"  # whether padding is left out of what is computed
    master_weights: bool = True  # whether half-precision weights that train have fp32 copies
    gradient_checkpointing: bool = False
    frozen_dropout: bool = True  # whether dropout acts inside wholly frozen modules; requests say false
    prefix_cache: bool | str = "auto"  # whether the frozen prefix is computed once per example
    compile: bool = False
    label_smoothing: float = 0.0
    temperature: float = 0.05
    beta: float = 0.1
    validation_fraction: float = 0.0
    eval_steps: int | None = None  # None: at the end of every epoch
    checkpoint_steps: int | None = None  # None: at the end of every epoch, at most every `checkpoint_seconds`
    checkpoint_seconds: float = CHECKPOINT_SECONDS
    keep_checkpoints: int = 2
    max_run_seconds: float | None = None
    early_stopping_patience: int | None = None  # evaluations in a row without a lower loss
    tensorboard: bool = False  # an event file beside the other curves

    def to_json(self) -> JsonDict:
        return {each.name: getattr(self, each.name) for each in fields(self)} | {"optimizer": self.optimizer.to_json()}

    def shown(self, requested: Hyperparameters, facts: Facts) -> Hyperparameters:
        """The job's hyperparameters with what "auto" came to."""
        decided: JsonDict = {name: getattr(self, name) for name in SHOWN}
        if requested.beta is not None:  # of a preference job, whose answers always have it
            decided["beta"] = self.beta
        decided["max_grad_norm"] = self.max_grad_norm or 0.0
        if self.warmup_steps is None:
            decided["warmup_ratio"] = self.warmup_ratio
        given = requested.optimizer.weight_decay if requested.optimizer else None
        if self.optimizer.name in DECAYING and given is None:
            decided["weight_decay"] = self.optimizer.weight_decay
        decided["learning_rate"] = _number(requested.learning_rate, _auto_rate(facts))
        return replace(requested, **decided, learning_rate_multiplier=self.learning_rate_multiplier)


def resolve_auto(requested: Hyperparameters, facts: Facts) -> ResolvedHyperparameters:
    """Decide every hyperparameter. InvalidRequest for a micro-batch that is larger than its batch.

    The rules for `auto`, which is also what an absent one means:
    - n_epochs: 3, raised (to at most 25) until 100 examples are seen, lowered until at most 25,000 are;
    - batch_size: 0.2% of the examples as a power of two, at least 16 and at most 256, never above the examples;
    - learning_rate: 5e-5 for a pretrained model, 1e-3 when only new tensors train, 2e-4 for an adapter; 1e-2 for a
      plain torch model; each times `learning_rate_multiplier`, also when it is given;
    - weight_decay: 0.01 with AdamW or Muon on a pretrained model, on tensors of two or more dimensions; else 0;
    - warm-up: a tenth of the steps for a pretrained model that trains more than its head; else none;
    - precision: bfloat16 autocast on a GPU for a pretrained model, and for one of several dtypes, whose layers could
      not be multiplied with each other; else float32.
    """
    batch = _whole(requested.batch_size, auto.batch_size(facts.examples))
    multiplier = _number(requested.learning_rate_multiplier, 1.0)
    tuned = facts.pretrained and not facts.head_only
    return ResolvedHyperparameters(
        n_epochs=_whole(requested.n_epochs, auto.n_epochs(facts.examples)),
        batch_size=batch,
        micro_batch_size=_micro_batch(requested, batch),
        learning_rate=_number(requested.learning_rate, _auto_rate(facts)) * multiplier,
        learning_rate_multiplier=multiplier,
        optimizer=_optimizer(requested, facts),
        max_steps=requested.max_steps,
        lr_schedule=requested.lr_schedule or ("linear" if facts.pretrained else "constant"),
        warmup_steps=requested.warmup_steps,
        warmup_ratio=_number(requested.warmup_ratio, 0.1 if tuned else 0.0),
        min_lr_ratio=_number(requested.min_lr_ratio, 0.0),
        max_grad_norm=_number(requested.max_grad_norm, 1.0 if facts.pretrained else 0.0) or None,
        precision=requested.precision or _auto_precision(facts),
        max_length=requested.max_length,
        length_bucketing=bool(requested.length_bucketing),
        packing=bool(requested.packing),
        padding_free="auto" if requested.padding_free is None else requested.padding_free,
        master_weights=requested.master_weights is not False,
        gradient_checkpointing=bool(requested.gradient_checkpointing),
        frozen_dropout=requested.frozen_dropout is not False,
        prefix_cache="auto" if requested.prefix_cache is None else requested.prefix_cache,
        compile=bool(requested.compile),
        label_smoothing=_number(requested.label_smoothing, 0.0),
        temperature=_number(requested.temperature, 0.05),
        beta=_number(requested.beta, 0.1),
        validation_fraction=_number(requested.validation_fraction, 0.0),
        eval_steps=requested.eval_steps,
        checkpoint_steps=requested.checkpoint_steps,
        checkpoint_seconds=_number(requested.checkpoint_seconds, CHECKPOINT_SECONDS),
        keep_checkpoints=requested.keep_checkpoints or 2,
        max_run_seconds=_number(requested.max_run_seconds, 0.0) or None,
        early_stopping_patience=requested.early_stopping_patience,
        tensorboard=bool(requested.tensorboard),
    )


def _auto_precision(facts: Facts) -> Precision:
    return "bf16" if facts.mixed or (facts.pretrained and facts.device == "cuda") else "fp32"


def _auto_rate(facts: Facts) -> float:
    if not facts.pretrained:
        return 1e-2
    if facts.adapter:
        return 2e-4
    return 1e-3 if facts.head_only else 5e-5


def _micro_batch(requested: Hyperparameters, batch: int) -> int:
    parts = requested.gradient_accumulation_steps or 1
    micro = requested.micro_batch_size or -(-batch // parts)
    refuse_large_micro_batch(micro_batch_size=micro, batch_size=batch)
    return micro


def _optimizer(requested: Hyperparameters, facts: Facts) -> OptimizerSpec:
    optimizer = requested.optimizer or OptimizerSpec()
    if requested.weight_decay is not None:
        return replace(optimizer, weight_decay=float(requested.weight_decay))
    if optimizer.name in DECAYING and optimizer.weight_decay is None:
        return replace(optimizer, weight_decay=0.01 if facts.pretrained else 0.0)
    return optimizer


def _number(value: float | str | None, default: float) -> float:
    return default if value is None or isinstance(value, str) else float(value)


def _whole(value: int | str | None, default: int) -> int:
    return default if value is None or isinstance(value, str) else value
