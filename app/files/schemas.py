"""Payloads of files: OpenAI's object plus the digest of the bytes."""

from typing import Literal, get_args

from pydantic import BaseModel, ConfigDict, Field

from app.files.references import shown
from app.files.tables import File
from app.paging.keyset import Page

Purpose = Literal["fine-tune", "user_data", "batch", "assistants", "vision", "evals"]
PURPOSES: tuple[str, ...] = get_args(Purpose)
#: Purposes that a list can filter by: also that of files that jobs write.
AnyPurpose = Literal[Purpose, "fine-tune-results"]


class FileObject(BaseModel):
    """An uploaded file."""

    model_config = ConfigDict(
        json_schema_extra={
            "examples": [
                {
                    "id": "file-5f0c1d2e3a4b5c6d7e8f9a0b",
                    "object": "file",
                    "bytes": 18342,
                    "created_at": 1760000000,
                    "expires_at": None,
                    "filename": "train.jsonl",
                    "purpose": "fine-tune",
                    "status": "processed",
                    "status_details": None,
                    "source": None,
                    "sha256": "9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08",
                }
            ]
        }
    )

    id: str
    object: Literal["file"] = "file"
    bytes: int = Field(description="Size of the file.")
    created_at: int = Field(description="Unix time in seconds.")
    expires_at: int | None = None
    filename: str
    purpose: str
    status: Literal["uploaded", "processed", "error"]
    status_details: str | None = None
    sha256: str | None = Field(
        description="SHA-256 of the bytes, as `sha256sum` prints it; null until a worker has fetched them."
    )
    source: str | None = Field(
        default=None, description="Where a file by reference comes from; of a hub, with the commit."
    )

    @classmethod
    def of(cls, row: File) -> "FileObject":
        return cls.model_validate(
            {
                "id": row.id,
                "bytes": row.bytes,
                "created_at": int(row.created_at.timestamp()),
                "expires_at": int(row.expires_at.timestamp()) if row.expires_at else None,
                "filename": row.filename,
                "purpose": row.purpose,
                "status": row.status,
                "status_details": row.status_details,
                "sha256": row.sha256 or None,
                "source": shown(row.source) if row.source else None,
            }
        )


class FileList(Page):
    data: list[FileObject]


class FileDeleted(BaseModel):
    id: str
    object: Literal["file"] = "file"
    deleted: Literal[True] = True
