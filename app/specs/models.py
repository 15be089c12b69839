"""A model as a job names it: a folder in the layout of transformers, a torch architecture, or a registered id."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Annotated, Any, ClassVar, Final, Literal

from app.errors import InvalidRequest, ModelError
from app.specs.adapters import AdapterSpec
from app.specs.reading import Range, Spec, read_tagged

#: Tasks of a transformers model.
Task = Literal[
    "text-classification",
    "text-regression",
    "text-ranking",
    "token-classification",
    "causal-lm",
    "preference",
    "pairs",
    "image-classification",
    "image-text",
    "contrastive-image-text",
]
#: A torch spec says what its numbers are for; readers of data call the tabular ones by their full names.
TorchTask = Literal["regression", "classification", "image-classification"]
TABULAR: Final = {"regression": "tabular-regression", "classification": "tabular-classification"}
Dtype = Literal["auto", "float32", "float16", "bfloat16"]
#: What a plain base is quantised to while it is loaded.
Quantise = Literal["nf4", "int8"]


@dataclass(frozen=True, slots=True, kw_only=True)
class _Model(Spec):
    PARAM: ClassVar[str] = "model"
    ERROR: ClassVar[type[InvalidRequest]] = ModelError


@dataclass(frozen=True, slots=True, kw_only=True)
class TransformersSpec(_Model):
    """A folder of the models folder, a model of a hub by its id or of a store by its prefix; what is made of it."""

    type: Literal["transformers"] = "transformers"
    path: str
    #: Of a hub's model; a full commit hash once a worker has resolved it. Of a store's: the digest of its files.
    revision: str | None = None
    task: Task | None = None
    num_labels: Annotated[int, Range(1)] | None = None
    dtype: Dtype | None = None  # absent: auto
    adapter: AdapterSpec | None = None
    new_tokens: tuple[str, ...] | None = None
    quantize: Quantise | None = None
    weights: ClassVar[None] = None  # they are in the folder

    @property
    def of_hub(self) -> bool:
        """Whether a worker fetches it: folders have no slash in their names; ids of a hub, and prefixes, have one."""
        return "/" in self.path

    @property
    def of_store(self) -> bool:
        """Whether it is below a prefix of an object store."""
        return self.path.startswith("s3://")

    def over(self, base: "TransformersSpec") -> "TransformersSpec":
        """This spec, with what only `base` says."""
        return TransformersSpec.from_json(base.to_json() | self.to_json())

    @property
    def as_registered(self) -> bool:
        """Whether its tensors are those of the folder: an adapter or new tokens add others,
        and quantising makes others of them."""
        return not self.adapter and not self.new_tokens and not self.quantize


@dataclass(frozen=True, slots=True, kw_only=True)
class TorchSpec(_Model):
    """A registered torch architecture and its arguments."""

    type: Literal["torch"] = "torch"
    architecture: str
    kwargs: Mapping[str, Any] | None = None
    weights: str | None = None  # id of a safetensors file; absent: drawn from the job's seed
    task: TorchTask | None = None  # absent: regression
    num_labels: ClassVar[None] = None  # its kwargs say how many outputs it has
    adapter: ClassVar[None] = None
    of_hub: ClassVar[bool] = False


@dataclass(frozen=True, slots=True, kw_only=True)
class RegisteredSpec:
    """A model of the database, or a model folder, by its id alone. In JSON it is the id."""

    id: str


ModelSpec = TransformersSpec | TorchSpec
ModelChoice = ModelSpec | RegisteredSpec
_CLASSES: Final[tuple[Any, ...]] = (TransformersSpec, TorchSpec)


def read_model(content: Any, *, param: str = "model") -> ModelSpec:
    """The spec in a JSON object, by its `type`. ModelError where it cannot be read."""
    spec: ModelSpec = read_tagged(_CLASSES, content, param=param)
    return spec


def folder_name(spec: ModelSpec) -> str:
    """The model folder of a transformers spec. ModelError for a torch spec, which has none."""
    if isinstance(spec, TransformersSpec):
        return spec.path
    raise ModelError(f"architecture {spec.architecture!r} has no model folder", param="model.type")


def without_weights(spec: ModelSpec) -> ModelSpec:
    """The spec of a model whose weights are stored beside it."""
    return replace(spec, weights=None) if isinstance(spec, TorchSpec) else spec


def adapter_start(spec: ModelSpec) -> str | None:
    """The id of the model whose adapter a job trains on."""
    return spec.adapter.start if spec.adapter else None
