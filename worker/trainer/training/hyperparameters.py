"""Hyperparameters as asked for, to the settings of a run. Every `auto` has a stated rule; the choice is reported."""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any

from app.errors import InvalidRequest
from app.jobs.requests import auto

HERE = "hyperparameters"
CHECKPOINT_SECONDS = 300.0
SCHEDULES = ("linear", "cosine", "constant")
DECAYS = ("adamw", "muon")  # have a weight decay by default
PRECISIONS = ("fp32", "bf16", "fp16")
# What a job shows in place of "auto". Settled again, they give the same settings: a resumed attempt does that.
SHOWN = ("n_epochs", "batch_size", "lr_schedule", "precision")


@dataclass(frozen=True, slots=True)
class Facts:
    """What the `auto` rules look at."""

    examples: int
    pretrained: bool  # a transformers model, against a plain torch one
    head_only: bool  # every tensor that trains is new: the base gives fixed features
    adapter: bool
    device: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """One run's hyperparameters, all decided. The defaults are the `auto` of those that depend on nothing.

    `batch_size` examples make one optimizer step; they pass through the model `micro_batch_size` at a time.
    """

    n_epochs: int
    batch_size: int
    micro_batch_size: int
    learning_rate: float  # with the multiplier in it
    learning_rate_multiplier: float
    optimizer: Mapping[str, Any]
    max_steps: int | None = None
    lr_schedule: str = "linear"
    warmup_steps: int | None = None  # wins over the ratio
    warmup_ratio: float = 0.0
    min_lr_ratio: float = 0.0
    max_grad_norm: float | None = 1.0
    precision: str = "fp32"
    max_length: int | None = None
    length_bucketing: bool = False
    packing: bool = False
    gradient_checkpointing: bool = False
    prefix_cache: bool | str = "auto"  # whether the frozen prefix is computed once for each example
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
    early_stopping_patience: int | None = None  # evaluations without a lower loss
    tensorboard: bool = False  # an event file beside the other curves

    def to_json(self) -> dict[str, Any]:
        return {each.name: getattr(self, each.name) for each in fields(self)}

    def shown(self, asked: Mapping[str, Any], facts: Facts) -> dict[str, Any]:
        """The hyperparameters as asked for, with what "auto" came to."""
        decided = {name: getattr(self, name) for name in SHOWN}
        if "beta" in asked:  # of a preference job, whose answers always tell it
            decided["beta"] = self.beta
        decided["max_grad_norm"] = self.max_grad_norm or 0.0
        if self.warmup_steps is None:
            decided["warmup_ratio"] = self.warmup_ratio
        if self.optimizer["name"] in DECAYS and "weight_decay" not in (asked.get("optimizer") or {}):
            decided["weight_decay"] = self.optimizer["weight_decay"]
        decided["learning_rate"] = _number(_given(asked), "learning_rate", _auto_rate(facts), low=0.0)
        return {**asked, **decided, "learning_rate_multiplier": self.learning_rate_multiplier}


def settle(asked: Mapping[str, Any], facts: Facts) -> Settings:
    """Decide every hyperparameter. InvalidRequest names the one that is unknown or out of range.

    The rules for `auto`, which is also what an absent one means:
    - n_epochs: 3, raised (to at most 25) until 100 examples are seen, lowered until at most 25,000 are;
    - batch_size: 0.2% of the examples as a power of two, at least 16 and at most 256, never above the examples;
    - learning_rate: 5e-5 for a pretrained model, 1e-3 when only new tensors train, 2e-4 for an adapter; 1e-2 for a
      plain torch model; each times `learning_rate_multiplier`, also when it is given;
    - weight_decay: 0.01 with AdamW or Muon on a pretrained model, on tensors of two or more dimensions; else 0;
    - warm-up: a tenth of the steps for a pretrained model that trains more than its head; else none;
    - precision: bfloat16 autocast on a GPU for a pretrained model; else float32.
    """
    asked = _given(asked)
    _refuse_unknown(asked, KNOWN, at=HERE)
    batch = _whole(asked, "batch_size", auto.batch_size(facts.examples), low=1)
    micro = _micro_batch(asked, batch)
    multiplier = _number(asked, "learning_rate_multiplier", 1.0, low=0.0)
    tuned = facts.pretrained and not facts.head_only
    return Settings(
        n_epochs=_whole(asked, "n_epochs", auto.n_epochs(facts.examples), low=1),
        batch_size=batch,
        micro_batch_size=micro,
        learning_rate=_number(asked, "learning_rate", _auto_rate(facts), low=0.0) * multiplier,
        learning_rate_multiplier=multiplier,
        optimizer=_optimizer(asked, facts),
        max_steps=_optional_whole(asked, "max_steps"),
        lr_schedule=_choice(asked, "lr_schedule", "linear" if facts.pretrained else "constant", SCHEDULES),
        warmup_steps=_optional_whole(asked, "warmup_steps", low=0),
        warmup_ratio=_number(asked, "warmup_ratio", 0.1 if tuned else 0.0, low=0.0, high=1.0),
        min_lr_ratio=_number(asked, "min_lr_ratio", 0.0, low=0.0, high=1.0),
        max_grad_norm=_number(asked, "max_grad_norm", 1.0 if facts.pretrained else 0.0, low=0.0) or None,
        precision=_choice(
            asked, "precision", "bf16" if facts.pretrained and facts.device == "cuda" else "fp32", PRECISIONS
        ),
        max_length=_optional_whole(asked, "max_length"),
        length_bucketing=_flag(asked, "length_bucketing", False),
        packing=_flag(asked, "packing", False),
        gradient_checkpointing=_flag(asked, "gradient_checkpointing", False),
        prefix_cache=_flag(asked, "prefix_cache", False) if "prefix_cache" in asked else "auto",
        compile=_flag(asked, "compile", False),
        label_smoothing=_number(asked, "label_smoothing", 0.0, low=0.0, high=1.0),
        temperature=_number(asked, "temperature", 0.05, low=1e-6),
        beta=_number(asked, "beta", 0.1, low=0.0),
        validation_fraction=validation_fraction(asked),
        eval_steps=_optional_whole(asked, "eval_steps"),
        checkpoint_steps=_optional_whole(asked, "checkpoint_steps"),
        checkpoint_seconds=_number(asked, "checkpoint_seconds", CHECKPOINT_SECONDS, low=0.0),
        keep_checkpoints=_whole(asked, "keep_checkpoints", 2, low=1),
        max_run_seconds=_number(asked, "max_run_seconds", 0.0, low=0.0) or None,
        early_stopping_patience=_optional_whole(asked, "early_stopping_patience"),
        tensorboard=_flag(asked, "tensorboard", False),
    )


def validation_fraction(asked: Mapping[str, Any]) -> float:
    """Needed before the rest is settled: it decides how many examples there are."""
    return _number(_given(asked), "validation_fraction", 0.0, low=0.0, high=0.9)


KNOWN = frozenset({each.name for each in fields(Settings)}) | {"gradient_accumulation_steps", "weight_decay"}


def _given(asked: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in asked.items() if value is not None and value != "auto"}


def _refuse_unknown(asked: Mapping[str, Any], known: frozenset[str], *, at: str) -> None:
    for name in asked:
        if name not in known:
            near = difflib.get_close_matches(name, known, n=1)
            hint = f"did you mean {near[0]!r}?" if near else f"known are {', '.join(sorted(known))}"
            raise InvalidRequest(f"{at} has no {name!r}; {hint}", param=f"{at}.{name}")


def _auto_rate(facts: Facts) -> float:
    if not facts.pretrained:
        return 1e-2
    if facts.adapter:
        return 2e-4
    return 1e-3 if facts.head_only else 5e-5


def _micro_batch(asked: Mapping[str, Any], batch: int) -> int:
    parts = _whole(asked, "gradient_accumulation_steps", 1, low=1)
    micro = _whole(asked, "micro_batch_size", -(-batch // parts), low=1)
    if micro > batch:
        message = f"micro_batch_size {micro} is larger than batch_size {batch}"
        raise InvalidRequest(message, param="hyperparameters.micro_batch_size")
    return micro


def _optimizer(asked: Mapping[str, Any], facts: Facts) -> dict[str, Any]:
    wanted = asked.get("optimizer", "adamw")
    if isinstance(wanted, str):
        wanted = {"name": wanted}
    if not isinstance(wanted, Mapping) or not isinstance(wanted.get("name", "adamw"), str):
        message = 'optimizer must be a name, or an object such as {"name": "adamw", "weight_decay": 0.01}'
        raise InvalidRequest(message, param="hyperparameters.optimizer")
    chosen: dict[str, Any] = _given(wanted)
    chosen.setdefault("name", "adamw")
    if "weight_decay" in asked:
        chosen["weight_decay"] = _number(asked, "weight_decay", 0.0, low=0.0)
    elif chosen["name"] in DECAYS:
        chosen.setdefault("weight_decay", 0.01 if facts.pretrained else 0.0)
    return chosen


def _number(
    asked: Mapping[str, Any], name: str, default: float, *, low: float, high: float | None = None, at: str = HERE
) -> float:
    value = asked.get(name, default)
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not low <= value <= (high or float("inf")):
        bounds = f"between {low:g} and {high:g}" if high is not None else f"at least {low:g}"
        raise InvalidRequest(f"{name} is {value!r}, and must be a number {bounds}", param=f"{at}.{name}")
    if value == float("inf"):
        raise InvalidRequest(f"{name} must be finite", param=f"{at}.{name}")
    return float(value)


def _whole(asked: Mapping[str, Any], name: str, default: int, *, low: int, at: str = HERE) -> int:
    value = asked.get(name, default)
    if isinstance(value, bool) or not isinstance(value, int) or value < low:
        message = f"{name} is {value!r}, and must be a whole number of at least {low}"
        raise InvalidRequest(message, param=f"{at}.{name}")
    return value


def _optional_whole(asked: Mapping[str, Any], name: str, *, low: int = 1, at: str = HERE) -> int | None:
    return _whole(asked, name, low, low=low, at=at) if name in asked else None


def _flag(asked: Mapping[str, Any], name: str, default: bool) -> bool:
    value = asked.get(name, default)
    if not isinstance(value, bool):
        raise InvalidRequest(f"{name} is {value!r}, and must be true or false", param=f"hyperparameters.{name}")
    return value


def _choice(asked: Mapping[str, Any], name: str, default: str, among: tuple[str, ...], *, at: str = HERE) -> str:
    value = asked.get(name, default)
    if value not in among:
        raise InvalidRequest(f"{name} is {value!r}, and must be one of {', '.join(among)}", param=f"{at}.{name}")
    return str(value)
