"""Payloads of uploads in parts: OpenAI's objects, and which parts have arrived."""

from collections.abc import Sequence
from datetime import datetime
from typing import Annotated, Final, Literal, Self

from pydantic import BaseModel, ConfigDict, Field

from app.files.schemas import FileObject, Purpose
from app.files.tables import File
from app.http.request_body import RequestBody
from app.uploads.tables import Upload, UploadPart

#: Bytes of one part, as in OpenAI's API.
MAX_PART_BYTES: Final = 64 << 20
MAX_PARTS: Final = 10_000


class ExpiresAfter(RequestBody):
    """How long the file is kept."""

    anchor: Literal["created_at"]
    seconds: int = Field(ge=3_600, le=2_592_000)


class UploadCreate(RequestBody):
    """A file that is about to be sent in parts."""

    filename: str = Field(min_length=1, max_length=255, description="The name of the file that is made of the parts.")
    purpose: Purpose = Field(description="`fine-tune` for training and validation files.")
    bytes: int = Field(ge=1, description="Size of the whole file; the parts have to add up to it.")
    mime_type: str = Field(min_length=1, max_length=255, description="Taken for the SDK's sake; names decide formats.")
    expires_after: ExpiresAfter | None = None

    model_config = ConfigDict(
        json_schema_extra={
            "examples": [
                {"filename": "train.jsonl", "purpose": "fine-tune", "bytes": 18342, "mime_type": "application/jsonl"}
            ]
        }
    )


class UploadComplete(RequestBody):
    """Which parts make the file, in their order."""

    model_config = ConfigDict(json_schema_extra={"examples": [{"part_ids": ["part-5f0c1d2e3a4b5c6d7e8f9a0b"]}]})

    part_ids: Annotated[list[Annotated[str, Field(max_length=64)]], Field(min_length=1, max_length=MAX_PARTS)]
    md5: str | None = Field(
        default=None,
        pattern="^[0-9a-fA-F]{32}$",
        description="MD5 of the whole file in hexadecimal; the upload is not completed where it differs.",
    )


class UploadPartObject(BaseModel):
    """A part that has arrived."""

    model_config = ConfigDict(
        json_schema_extra={
            "examples": [
                {
                    "id": "part-5f0c1d2e3a4b5c6d7e8f9a0b",
                    "object": "upload.part",
                    "created_at": 1760000000,
                    "upload_id": "upload-5f0c1d2e3a4b5c6d7e8f9a0b",
                    "bytes": 18342,
                    "sha256": "9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08",
                }
            ]
        }
    )

    id: str
    object: Literal["upload.part"] = "upload.part"
    created_at: int = Field(description="Unix time in seconds.")
    upload_id: str
    bytes: int
    sha256: str = Field(description="SHA-256 of the part's bytes: a client that goes on sees what it need not send.")

    @classmethod
    def of(cls, row: UploadPart) -> Self:
        return cls(
            id=row.id,
            created_at=int(row.created_at.timestamp()),
            upload_id=row.upload_id,
            bytes=row.bytes,
            sha256=row.sha256,
        )


class UploadObject(BaseModel):
    """A file that arrives in parts."""

    model_config = ConfigDict(
        json_schema_extra={
            "examples": [
                {
                    "id": "upload-5f0c1d2e3a4b5c6d7e8f9a0b",
                    "object": "upload",
                    "bytes": 18342,
                    "created_at": 1760000000,
                    "expires_at": 1760086400,
                    "filename": "train.jsonl",
                    "purpose": "fine-tune",
                    "status": "pending",
                    "file": None,
                    "parts": [],
                }
            ]
        }
    )

    id: str
    object: Literal["upload"] = "upload"
    bytes: int = Field(description="Size of the whole file.")
    created_at: int = Field(description="Unix time in seconds.")
    expires_at: int = Field(description="Until when it has to be completed.")
    filename: str
    purpose: str
    status: Literal["pending", "completed", "cancelled", "expired"]
    file: FileObject | None = Field(default=None, description="Of a completed upload; null once the file is deleted.")
    parts: list[UploadPartObject] = Field(description="Of a pending upload, those that have arrived, oldest first.")

    @classmethod
    def of(cls, row: Upload, *, at: datetime, parts: Sequence[UploadPart] = (), file: File | None = None) -> Self:
        return cls.model_validate(
            {
                "id": row.id,
                "bytes": row.bytes,
                "created_at": int(row.created_at.timestamp()),
                "expires_at": int(row.expires_at.timestamp()),
                "filename": row.filename,
                "purpose": row.purpose,
                "status": "expired" if row.status == "pending" and row.expires_at <= at else row.status,
                "file": FileObject.of(file) if file else None,
                "parts": [UploadPartObject.of(part) for part in parts],
            }
        )
