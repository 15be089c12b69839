"""Keyset pages over (created_at, id): `after` names the last object seen, and a page costs the same at any depth."""

from collections.abc import Sequence
from typing import Annotated, Any, Literal, Self, TypeVar

from fastapi import Query
from pydantic import BaseModel, ConfigDict, Field
from sqlalchemy import Select, tuple_
from sqlalchemy.orm import Session

from app.errors import InvalidRequest
from app.paging.tombstones import place

Order = Literal["asc", "desc"]
AfterQuery = Annotated[
    str | None,
    Query(max_length=256, description="Id of the last object of the page before; the page starts behind it."),
]
OrderQuery = Annotated[Order, Query(description="By creation time: `desc` is newest first.")]


Row = TypeVar("Row")


class Page(BaseModel):
    """The fields that every list has beside `data`. Without `has_more` clients would ask for ever."""

    model_config = ConfigDict(json_schema_serialization_defaults_required=True)

    object: Literal["list"] = "list"
    first_id: str | None = None
    last_id: str | None = None
    has_more: bool = Field(description="Whether another page follows; ask for it with `after` = `last_id`.")

    @classmethod
    def page(cls, data: Sequence[Any], *, more: bool, **rest: Any) -> Self:
        """A page of these objects, which have an `id` each."""
        ends = {"first_id": data[0].id, "last_id": data[-1].id} if data else {}
        return cls.model_validate({"data": data, "has_more": more, **ends, **rest})


def keyset(
    session: Session,
    statement: Select[Row],
    table: Any,
    *,
    within: Select[Row] | None = None,
    by: tuple[Any, Any] | None = None,
    left: str | None = None,
    after: str | None,
    limit: int,
    order: Order,
) -> tuple[list[Row], bool]:
    """One page of `statement` and whether more follow. The cursor is looked up `within` (default: `statement`).

    `by` are columns of another table that hold the same time and id, where that table has the right order. `left` is
    the project whose deleted objects still say where they stood, for a reader who deletes what it has read.
    """
    columns = by or (table.created_at, table.id)
    if after is not None:
        found: Any = session.scalar((within if within is not None else statement).where(table.id == after))
        if found is None and left is not None:
            found = place(session, left, after)
        if found is None:
            raise InvalidRequest(f"no object {after!r} in this list", param="after", code="invalid_cursor")
        here = tuple_(*columns)
        cursor = tuple_(found.created_at, found.id)
        statement = statement.where(here < cursor if order == "desc" else here > cursor)
    statement = statement.order_by(*(column.desc() if order == "desc" else column.asc() for column in columns))
    rows = list(session.scalars(statement.limit(limit + 1)))
    return rows[:limit], len(rows) > limit
