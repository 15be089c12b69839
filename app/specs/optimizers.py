"""An optimizer of torch with its options, as a request names it."""

import math
from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Annotated, Any, ClassVar, Final, Literal

from app.jsontypes import JsonDict
from app.specs.reading import Range, Spec

OptimizerName = Literal["adamw", "adam", "sgd", "adafactor", "muon"]
NotNegative = Annotated[float, Range(0)]
Positive = Annotated[float, Range(0, without=(0,))]
Fraction = Annotated[float, Range(0, 1, without=(1,))]

#: What each optimizer acts on. It takes any other key in a group without a word, and ignores it.
OPTIONS: Final[dict[str, frozenset[str]]] = {
    "sgd": frozenset({"weight_decay", "momentum", "dampening", "nesterov"}),
    "adam": frozenset({"weight_decay", "betas", "eps", "amsgrad"}),
    "adamw": frozenset({"weight_decay", "betas", "eps", "amsgrad"}),
    "adafactor": frozenset({"weight_decay", "beta2_decay", "eps", "d"}),
    "muon": frozenset({"weight_decay", "momentum", "nesterov", "ns_steps", "adjust_lr_fn", "betas", "eps"}),
}
#: Optimizers with a weight decay by default.
DECAYING: Final = ("adamw", "muon")


@dataclass(frozen=True, slots=True, kw_only=True)
class OptimizerGroup(Spec):
    """Options for some of the trained tensors, selected as in a freeze policy; the first group that matches wins."""

    PARAM: ClassVar[str] = "hyperparameters.optimizer.groups"

    select: Mapping[str, Any]
    options: Mapping[str, Any] | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class OptimizerSpec(Spec):
    """The options are those of every optimizer; one that the named optimizer does not have is refused by a rule."""

    PARAM: ClassVar[str] = "hyperparameters.optimizer"

    name: OptimizerName = "adamw"
    groups: tuple[OptimizerGroup, ...] | None = None
    weight_decay: NotNegative | None = None
    momentum: Fraction | None = None
    dampening: NotNegative | None = None
    nesterov: bool | None = None
    betas: tuple[Fraction, Fraction] | None = None
    eps: Positive | tuple[Positive, Positive] | None = None  # two of them for adafactor
    amsgrad: bool | None = None
    beta2_decay: Annotated[float, Range(-math.inf, 0, without=(0,))] | None = None
    d: Positive | None = None  # of adafactor: the largest root mean square of an update
    ns_steps: Annotated[int, Range(1, 99)] | None = None  # of muon: Newton-Schulz iterations
    adjust_lr_fn: Literal["match_rms_adamw", "original"] | None = None

    def options(self) -> JsonDict:
        """What is given besides name and groups, with pairs as tuples, as torch takes them."""
        given = {field.name: getattr(self, field.name) for field in fields(self)}
        return {key: value for key, value in given.items() if value is not None and key not in ("name", "groups")}
