"""Payloads of models. "Model" is a neural network: a base model, or the result of a job."""

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from app.freeze.schemas import FreezePolicy
from app.http.request_body import RequestBody
from app.jsontypes import JsonDict
from app.models.tables import Model
from app.paging.keyset import Page
from app.specs.models import TransformersSpec

ModelKind = Literal["base", "fine_tuned", "checkpoint", "initial"]


class ModelFile(BaseModel):
    name: str
    size: int
    sha256: str


class ModelObject(BaseModel):
    """A model that a job can start from."""

    model_config = ConfigDict(json_schema_serialization_defaults_required=True)

    id: str
    object: Literal["model"] = "model"
    created: int = Field(description="Unix time in seconds.")
    owned_by: str
    kind: ModelKind
    status: Literal["available", "pending", "ready", "failed"] = Field(
        description="`available`: a folder on the server that no job has used yet; `pending`: waits for a worker."
    )
    error: str | None = None
    spec: JsonDict
    alias_of: str | None = Field(
        default=None, description="The model's own id, where the request named an alias (PERMAFROST_MODEL_ALIASES)."
    )
    base_model: str | None = None
    job_id: str | None = None
    root: str | None = Field(default=None, description="RFC 9162 root over the tensors, for auditors to pin.")
    files: list[ModelFile] = []

    @classmethod
    def of(cls, row: Model) -> "ModelObject":
        return cls.model_validate(
            {
                "id": row.id,
                "created": int(row.created_at.timestamp()),
                "owned_by": row.owned_by,
                "kind": row.kind,
                "status": row.status,
                "error": row.error,
                "spec": row.spec,
                "base_model": row.base_id,
                "job_id": row.job_id,
                "root": row.root,
                "files": [ModelFile(**{key: each[key] for key in ("name", "size", "sha256")}) for each in row.files],
            }
        )

    @classmethod
    def of_folder(cls, folder: Path, *, created: int) -> "ModelObject":
        """A folder that no job has used yet."""
        spec = TransformersSpec(path=folder.name).to_json()
        return cls(id=folder.name, created=created, owned_by="permafrost", kind="base", status="available", spec=spec)


class ModelList(Page):
    data: list[ModelObject]


class ModelDeleted(BaseModel):
    id: str
    object: Literal["model"] = "model"
    deleted: Literal[True] = True


class ModelRegister(RequestBody):
    """Registers a folder under PERMAFROST_MODELS_DIR: a worker reads it once, then policies are checked at POST."""

    model_config = ConfigDict(json_schema_extra={"examples": [{"path": "minilm"}]})

    path: Annotated[str, Field(min_length=1, max_length=256, description="Name of the folder.", examples=["minilm"])]
    id: Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,127}$")] | None = Field(
        default=None, description="Id of the model; default: the folder's name."
    )
    task: str | None = Field(
        default=None, max_length=40, description="Task of the model, where config.json does not name one."
    )


class ModelCompare(RequestBody):
    """Compares two models by id: which tensors of `result` differ from those of `base`, and by how much."""

    model_config = ConfigDict(
        json_schema_extra={
            "examples": [
                {"base": "minilm", "result": "ft:minilm:default::a5034f9d6e3b"},
                {"base": "minilm", "result": "theirs", "freeze_policy": {"freeze": ["bert.**"]}, "statistics": False},
            ]
        },
    )

    base: Annotated[str, Field(min_length=1, max_length=256)]
    result: Annotated[str, Field(min_length=1, max_length=256)]
    freeze_policy: FreezePolicy | None = Field(
        default=None,
        description="Also checks that the tensors which this policy freezes are identical. Names are those in the "
        "files of `result`; files do not distinguish buffers from parameters, and have no module types.",
    )
    statistics: bool = Field(default=True, description="false: only list which tensors differ, which is faster.")
    unchanged: bool = Field(default=False, description="true: also list tensors that are the same.")


class ChangeStatistics(BaseModel):
    """Statistics of the change of one tensor. Counts and ULPs are exact; null: not defined for this tensor."""

    elements: int
    changed: int = Field(description="Elements whose bits differ.")
    fraction: float
    sign_flips: int
    zero_sign_only: int = Field(description="0.0 to -0.0 or back.")
    non_finite: int = Field(description="NaN or infinite in the result.")
    max_ulp: int | None = Field(description="Steps between neighbouring values of the dtype.")
    p99_ulp: int | None
    median_ulp: int | None
    l2: float | None = Field(description="Norm of the difference.")
    relative_l2: float | None
    max_abs: float | None
    cosine: float | None
    update_to_weight: float | None
    stable_rank: float | None
    effective_rank: float | None


class TensorForm(BaseModel):
    name: str
    dtype: str
    shape: list[int]
    nbytes: int


class TensorDifference(BaseModel):
    """The comparison of one tensor."""

    name: str = Field(description="Name in `result`; of a removed tensor, in `base`.")
    status: Literal["same", "changed", "dtype", "shape", "added", "removed"]
    base: TensorForm | None
    result: TensorForm | None
    change: ChangeStatistics | None


class FrozenDifference(BaseModel):
    """A tensor that the policy freezes and that differs from the base."""

    name: str
    rule: str
    reason: str


class ModelComparison(BaseModel):
    object: Literal["model.comparison"]
    base: str
    result: str
    tensors: list[TensorDifference]
    counts: dict[str, int] = Field(description="Tensors by status.")
    verdict: Literal["identical", "violated"] | None = Field(
        description="Whether all tensors that the policy freezes are identical; null without a policy."
    )
    violations: list[FrozenDifference]


class TensorObject(BaseModel):
    """A stored tensor of a model."""

    id: str = Field(description="The tensor's name.")
    name: str
    file: str
    dtype: str
    shape: list[int]
    nbytes: int
    sha256: str

    @classmethod
    def of(cls, stored: Mapping[str, Any]) -> "TensorObject":
        return cls(
            id=stored["name"], **{key: stored[key] for key in ("name", "file", "dtype", "shape", "nbytes", "sha256")}
        )


class TensorList(Page):
    data: list[TensorObject]
