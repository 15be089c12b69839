"""The model of a job as a request names it: an id, a folder in the layout of transformers, or a torch architecture."""

import math
from typing import Annotated, Any, Final, Literal

from pydantic import AfterValidator, Discriminator, Field, Tag, model_validator
from pydantic_core import PydanticCustomError

from app.http.request_body import RequestBody
from app.jsontypes import JsonDict
from app.specs.models import ModelChoice, Quantise, RegisteredSpec, Task, read_model

Fraction = Annotated[float, Field(ge=0, lt=1)]
NewToken = Annotated[str, Field(min_length=1, max_length=256)]
Identifier = Annotated[str, Field(min_length=1, max_length=256)]


#: Of what a request brings for others to read.
_DEPTH: Final = 32
_LARGEST: Final = 2**63


def storable(value: JsonDict) -> JsonDict:
    """Options whose names somebody else knows: their values are at least such as JSON and any database can hold."""
    level: list[Any] = [value]
    for _ in range(_DEPTH):
        for each in level:
            _refuse_unstorable(each)
        level = [inner for each in level for inner in _parts(each)]
        if not level:
            return value
    raise PydanticCustomError("too_deep", "is nested more than {most} levels deep", {"most": _DEPTH})


def _parts(value: Any) -> list[Any]:
    if isinstance(value, dict):
        return [*value, *value.values()]
    return value if isinstance(value, list) else []


def _refuse_unstorable(value: Any) -> None:
    if isinstance(value, float) and not math.isfinite(value):
        raise PydanticCustomError("not_finite", "holds a number that is not finite, which JSON has none of")
    if isinstance(value, int) and not -_LARGEST <= value < _LARGEST:
        raise PydanticCustomError("too_large", "holds a whole number of more than 64 bits")
    if isinstance(value, str) and not value.isascii() and any("\ud800" <= each <= "\udfff" for each in value):
        raise PydanticCustomError("not_text", "holds half of a surrogate pair, which is no text")


Options = Annotated[JsonDict, AfterValidator(storable)]


MERGE: Final = (
    "true: the result is a whole model, with the adapter added into the base's weights. These are then changed, and "
    "the evidence says so."
)


class LoraAdapter(RequestBody):
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
    merge: bool = Field(default=False, description=MERGE)


class Ia3Adapter(RequestBody):
    """Trained factors on the outputs of some layers (IA3): far fewer numbers than LoRA has."""

    type: Literal["ia3"]
    target_modules: list[str] | None = Field(
        default=None, description="Names of modules; absent: the architecture's usual ones."
    )
    feedforward_modules: list[str] | None = Field(
        default=None, description="Those of them whose input, and not output, is scaled."
    )
    merge: bool = Field(default=False, description=MERGE)


class PromptTuningAdapter(RequestBody):
    """Trained vectors in front of every text; the model itself stays as it is. For causal-lm."""

    type: Literal["prompt_tuning"]
    num_virtual_tokens: int = Field(default=8, ge=1, le=4096)


AdapterField = Annotated[LoraAdapter | Ia3Adapter | PromptTuningAdapter, Field(discriminator="type")]


class TransformersRequest(RequestBody):
    """A model in the layout of transformers: of the models folder, of a hub by its id, or of a store by its prefix."""

    type: Literal["transformers"]
    path: Identifier = Field(
        description="Name of the folder, `owner/name` on a hub, or a prefix `s3://bucket/models/encoder`.",
        examples=["minilm"],
    )
    revision: Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._/-]{0,254}$")] | None = Field(
        default=None,
        description="Of a hub's model: a full commit hash, or a branch or tag (absent: `main`), which a worker "
        "resolves to the commit that the job then has. Of a store's: the digest of its files, which pins them.",
    )
    task: Task | None = Field(default=None, description="Absent: inferred from the training file.")
    num_labels: int | None = Field(default=None, ge=1, le=1_000_000)
    dtype: Literal["auto", "float32", "float16", "bfloat16"] = "auto"
    adapter: AdapterField | None = None
    new_tokens: Annotated[list[NewToken], Field(min_length=1, max_length=10_000)] | None = Field(
        default=None,
        examples=[["<query>", "<passage>"]],
        description="Added to the tokenizer; the embeddings get rows for them, drawn from the job's seed.",
    )

    quantize: Quantise | None = Field(
        default=None,
        description="Quantise a plain base while it is loaded, below an adapter: the evidence proves the plain base, "
        "and a digest of the quantised weights that was computed from it again.",
    )

    @model_validator(mode="after")
    def _go_together(self) -> "TransformersRequest":
        if self.revision is not None and ("/" not in self.path or ".." in self.revision):
            raise PydanticCustomError(
                "conflict", "revision belongs to a model of a hub, whose path is `owner/name`, or of a store"
            )
        if self.new_tokens is not None and self.adapter is not None:
            message = (
                "new_tokens change the embeddings of the base, and an adapter leaves it as it is; give one of them"
            )
            raise PydanticCustomError("conflict", message)
        if self.quantize is not None and self.adapter is None:
            message = (
                "quantize is for the base below an adapter: a whole model would have plain weights again, and be "
                "another one than the one that was trained; give an adapter"
            )
            raise PydanticCustomError("conflict", message)
        return self


class TorchRequest(RequestBody):
    """A torch module by the name of its architecture, from the entry-point group `permafrost.architectures`."""

    type: Literal["torch"]
    architecture: Identifier = Field(examples=["affine"])
    kwargs: Options = Field(default_factory=dict, examples=[{"in_features": 10, "out_features": 1}])
    weights: str | None = Field(
        default=None, description="A safetensors file (`file-…`); absent: drawn from the job's seed."
    )
    task: Literal["regression", "classification", "image-classification"] = Field(
        default="regression", description="Whether a classification's examples are pictures is seen from the file."
    )


def _kind_of_model(value: Any) -> str | None:
    if isinstance(value, str):
        return "id"
    kind = value.get("type") if isinstance(value, dict) else getattr(value, "type", None)
    return kind if kind in ("transformers", "torch") else None


ModelField = Annotated[
    Annotated[Identifier, Tag("id")]
    | Annotated[TransformersRequest, Tag("transformers")]
    | Annotated[TorchRequest, Tag("torch")],
    Discriminator(
        _kind_of_model,
        custom_error_type="invalid_model",
        custom_error_message="must be a model's id, or an object whose `type` is `transformers` or `torch`",
    ),
]


def model_choice(model: str | TransformersRequest | TorchRequest) -> ModelChoice:
    """What a request's `model` stands for, as a type that the worker shares."""
    return RegisteredSpec(id=model) if isinstance(model, str) else read_model(model.model_dump(exclude_none=True))
