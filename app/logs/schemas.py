"""A trainer's log as the API returns it."""

from typing import Literal, Self

from pydantic import BaseModel, ConfigDict, Field

from app.logs.queries import StoredLine
from app.paging.keyset import Page


class LogLine(BaseModel):
    """One line that a trainer printed."""

    model_config = ConfigDict(json_schema_serialization_defaults_required=True)

    id: str
    object: Literal["fine_tuning.job.log_line"] = "fine_tuning.job.log_line"
    line: int = Field(description="Counts from 1 within the job, across its attempts.")
    attempt: int
    created_at: int = Field(description="When the service received it.")
    text: str

    @classmethod
    def of(cls, line: StoredLine) -> Self:
        return cls(
            id=str(line.number),
            line=line.number,
            attempt=line.attempt,
            created_at=int(line.created_at.timestamp()),
            text=line.text,
        )


class LogList(Page):
    """Lines in the order in which they were printed."""

    data: list[LogLine]
    lines: int = Field(description="Number of lines printed so far.")
    kept_from: int | None = Field(description="Number of the oldest line that is still kept; null if there is none.")
