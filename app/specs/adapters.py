"""An adapter as a model spec has it: small trained tensors beside the weights of the base, or merged into them."""

from dataclasses import dataclass
from typing import Annotated, ClassVar, Literal

from app.errors import InvalidRequest, ModelError
from app.specs.reading import Range, Spec

Fraction = Annotated[float, Range(0, 1)]


@dataclass(frozen=True, slots=True, kw_only=True)
class _Adapter(Spec):
    PARAM: ClassVar[str] = "model.adapter"
    ERROR: ClassVar[type[InvalidRequest]] = ModelError


@dataclass(frozen=True, slots=True, kw_only=True)
class LoraSpec(_Adapter):
    """Low-rank matrices beside frozen weights, trained instead of them."""

    type: Literal["lora"] = "lora"
    r: Annotated[int, Range(1)] | None = None  # absent: 8
    alpha: Annotated[float, Range(0)] | None = None  # absent: 16
    dropout: Fraction | None = None
    target_modules: tuple[str, ...] | None = None  # absent: the architecture's usual ones
    use_rslora: bool | None = None
    use_dora: bool | None = None
    merge: bool | None = None
    init_lora_weights: bool | str | None = None  # these two are read so that what they would do can be refused
    bias: str | None = None
    start: str | None = None  # id of the model whose adapter is trained on


@dataclass(frozen=True, slots=True, kw_only=True)
class Ia3Spec(_Adapter):
    """Trained factors on the outputs of some layers (IA3)."""

    type: Literal["ia3"] = "ia3"
    target_modules: tuple[str, ...] | None = None
    feedforward_modules: tuple[str, ...] | None = None  # those of them whose input, and not output, is scaled
    merge: bool | None = None
    start: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class PromptTuningSpec(_Adapter):
    """Trained vectors in front of every text."""

    type: Literal["prompt_tuning"] = "prompt_tuning"
    num_virtual_tokens: Annotated[int, Range(1)] | None = None  # absent: 8
    start: str | None = None
    merge: ClassVar[None] = None  # there is no weight that it could be added into


AdapterSpec = LoraSpec | Ia3Spec | PromptTuningSpec
