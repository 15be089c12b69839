"""Payloads of exports."""

from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field

from app.exports.tables import Export
from app.http.request_body import RequestBody
from app.jsontypes import JsonDict
from app.paging.keyset import Page


class ExportCreate(RequestBody):
    model_config = ConfigDict(json_schema_extra={"examples": [{"destination": "hf://acme/encoder-tuned"}]})

    destination: Annotated[
        str,
        Field(
            min_length=1,
            max_length=512,
            description="`hf://owner/name`, `s3://bucket/prefix`, `mlflow://host/experiment?model=name`, "
            "`trackio://host/project`, `wandb://host/entity/project` or `wandb+offline://entity/project`.",
        ),
    ]


class ExportAttempt(BaseModel):
    attempt: int
    created_at: int
    error: str | None = Field(description="Why it did not arrive, or null.")


class ExportObject(BaseModel):
    """A result on its way to a destination."""

    id: str
    object: Literal["export"] = "export"
    created_at: int = Field(description="Unix time in seconds.")
    job_id: str
    destination: str
    status: Literal["waiting", "pending", "delivered", "failed", "dropped"] = Field(
        description="`waiting`: for the job's end; `dropped`: the job ended without a result."
    )
    next_attempt_at: int | None
    finished_at: int | None
    error: str | None = Field(description="Of the last attempt.")
    receipt: JsonDict | None = Field(description="What the destination calls it.")
    attempts: list[ExportAttempt]

    @classmethod
    def of(cls, row: Export) -> "ExportObject":
        return cls.model_validate(
            {
                "id": row.id,
                "created_at": int(row.created_at.timestamp()),
                "job_id": row.job_id,
                "destination": row.destination,
                "status": row.status,
                "next_attempt_at": int(row.due_at.timestamp()) if row.status == "pending" else None,
                "finished_at": int(row.finished_at.timestamp()) if row.finished_at else None,
                "error": row.error,
                "receipt": row.receipt,
                "attempts": row.log,
            }
        )


class ExportList(Page):
    data: list[ExportObject]
