"""Models as they travel. "Model" is a neural network: a base model, or what a job made of one."""

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from app.models.tables import Model
from app.paging import Page


class ModelFile(BaseModel):
    name: str
    size: int
    sha256: str


class ModelObject(BaseModel):
    """A model that jobs can start from."""

    model_config = ConfigDict(json_schema_serialization_defaults_required=True)

    id: str
    object: Literal["model"] = "model"
    created: int = Field(description="Unix time in seconds.")
    owned_by: str
    kind: Literal["base", "fine_tuned", "initial"]
    status: Literal["available", "pending", "ready", "failed"] = Field(
        description="`available`: a folder on the server that no job has used yet; `pending`: a worker will read it."
    )
    error: str | None = None
    spec: dict[str, Any]
    base_model: str | None = None
    job_id: str | None = None
    root: str | None = Field(default=None, description="RFC 9162 root over the tensors: what an auditor pins.")
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
    def of_folder(cls, folder: Path) -> "ModelObject":
        """A folder that no job has used yet."""
        created = int((folder / "config.json").stat().st_mtime)
        spec = {"type": "transformers", "path": folder.name}
        return cls(id=folder.name, created=created, owned_by="permafrost", kind="base", status="available", spec=spec)


class ModelList(BaseModel):
    object: Literal["list"] = "list"
    data: list[ModelObject]


class ModelDeleted(BaseModel):
    id: str
    object: Literal["model"] = "model"
    deleted: Literal[True] = True


class ModelRegister(BaseModel):
    """Makes a folder under PERMAFROST_MODELS_DIR known: it is read once, and from then on policies resolve at POST."""

    model_config = ConfigDict(extra="forbid", strict=True, json_schema_extra={"examples": [{"path": "minilm"}]})

    path: Annotated[str, Field(min_length=1, max_length=256, description="Name of the folder.", examples=["minilm"])]
    id: Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,127}$")] | None = Field(
        default=None, description="How jobs will call it; absent: the folder's name."
    )
    task: str | None = Field(
        default=None, max_length=40, description="What it will be used for, where config.json does not say."
    )


class TensorObject(BaseModel):
    """One stored tensor."""

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
