"""The table of models: bases and results. Files are slices of blobs, so a result stores only changed tensors."""

from datetime import datetime
from typing import Any

from sqlalchemy import JSON, BigInteger, Index, String, Text
from sqlalchemy.orm import Mapped, deferred, mapped_column

from app.db import Base
from app.jsontypes import JsonDict
from app.specs.models import ModelSpec, read_model


class Model(Base):
    __tablename__ = "models"
    __table_args__ = (Index("ix_models_project_created", "project", "created_at", "id"),)

    id: Mapped[str] = mapped_column(String(256), primary_key=True)
    #: None for a base model, which every project may use.
    project: Mapped[str | None] = mapped_column(String(64))
    created_at: Mapped[datetime]
    owned_by: Mapped[str] = mapped_column(String(64))
    #: "base" | "fine_tuned" | "checkpoint" | "initial" (a torch job's first weights)
    kind: Mapped[str] = mapped_column(String(12))
    #: "pending" (waits for a worker) | "ready" | "failed" | "dropped" (a deleted checkpoint; `error` says why)
    status: Mapped[str] = mapped_column(String(12))
    error: Mapped[str | None] = mapped_column(Text)
    #: How to load it: a resolved model spec (type, task, architecture, kwargs, ...).
    spec: Mapped[JsonDict]
    base_id: Mapped[str | None] = mapped_column(String(256))
    job_id: Mapped[str | None] = mapped_column(String(64), index=True)
    #: RFC 9162 root over the model's tensors, for auditors to pin.
    root: Mapped[str | None] = mapped_column(String(64))
    #: Bytes that it stores beyond its base, for the project's quota.
    stored_bytes: Mapped[int] = mapped_column(BigInteger, default=0, server_default="0")
    #: [{name, size, sha256, blob | null}]; a null blob is composed on download from `tensors`.
    files: Mapped[list[Any]] = mapped_column(default=list)
    #: [{file, name, dtype, shape, nbytes, sha256, blob, offset}], in file order.
    #: `own`, of a checkpoint: the blob belongs to no other model.
    tensors: Mapped[list[Any]] = deferred(mapped_column(JSON, default=list))
    #: Tensors for plan.resolve, written once by a worker and None until then; models/manifest.py reads it.
    manifest: Mapped[list[Any] | JsonDict | None] = deferred(mapped_column(JSON(none_as_null=True)))
    #: Of a checkpoint of a job on several machines: the files from which any of them can go on,
    #: [{name, size, sha256, blob}].
    state: Mapped[list[Any] | None] = deferred(mapped_column(JSON(none_as_null=True)))

    @property
    def blobs(self) -> set[str]:
        """Keys of every blob that its files and tensors are slices of."""
        return {stored["blob"] for stored in (*self.files, *self.tensors, *(self.state or ())) if stored["blob"]}

    @property
    def model_spec(self) -> ModelSpec:
        """The column `spec` as a type."""
        return read_model(self.spec)
