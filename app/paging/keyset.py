"""Keyset pagination over (created_at, id): `after` is the last id seen, and a page costs the same at any depth."""

from collections.abc import Mapping, Sequence
from typing import Annotated, Any, Literal, Self, TypeVar

from fastapi import Query
from pydantic import BaseModel, ConfigDict, Field
from sqlalchemy import Select, tuple_
from sqlalchemy.orm import Session

from app.errors import InvalidRequest
from app.paging.tombstones import find_tombstone

Order = Literal["asc", "desc"]
AfterQuery = Annotated[
    str | None,
    Query(max_length=256, description="Id of the last object of the previous page; this page starts after it."),
]
OrderQuery = Annotated[Order, Query(description="By creation time: `desc` is newest first.")]


Row = TypeVar("Row")


class Page(BaseModel):
    """The fields of every list besides `data`. SDK clients page on until `has_more` is false."""

    model_config = ConfigDict(json_schema_serialization_defaults_required=True)

    object: Literal["list"] = "list"
    first_id: str | None = None
    last_id: str | None = None
    has_more: bool = Field(description="Whether another page follows; request it with `after` = `last_id`.")

    @classmethod
    def page(cls, data: Sequence[Any], *, more: bool, **rest: Any) -> Self:
        """A page of these objects, each of which has an `id`."""
        ends = {"first_id": data[0].id, "last_id": data[-1].id} if data else {}
        return cls.model_validate({"data": data, "has_more": more, **ends, **rest})


def keyset(
    session: Session,
    statement: Select[Row],
    table: Any,
    *,
    within: Select[Row] | None = None,
    by: tuple[Any, Any] | None = None,
    tombstones_of: str | None = None,
    beside: Mapping[str, Any] | None = None,
    after: str | None,
    limit: int,
    order: Order,
) -> tuple[list[Row], bool]:
    """One page of `statement`, and whether more follow. The cursor is looked up `within` (default: `statement`).

    `by` are columns of another table that hold the same time and id, if that table has an index in this order.
    `tombstones_of` is a project whose deleted objects also work as cursors, for clients that delete what they read.
    `beside` has objects by id, with `created_at`, that the list has and the table has not: they work as cursors too.
    """
    columns = by or (table.created_at, table.id)
    if after is not None:
        cursor_row: Any = session.scalar((within if within is not None else statement).where(table.id == after))
        if cursor_row is None:
            cursor_row = (beside or {}).get(after)
        if cursor_row is None and tombstones_of is not None:
            cursor_row = find_tombstone(session, tombstones_of, after)
        if cursor_row is None:
            raise InvalidRequest(f"no object {after!r} in this list", param="after", code="invalid_cursor")
        sort_key, cursor = tuple_(*columns), tuple_(cursor_row.created_at, cursor_row.id)
        statement = statement.where(sort_key < cursor if order == "desc" else sort_key > cursor)

    statement = statement.order_by(*(column.desc() if order == "desc" else column.asc() for column in columns))
    rows = list(session.scalars(statement.limit(limit + 1)))
    return rows[:limit], len(rows) > limit
