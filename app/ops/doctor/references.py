"""Which blobs the rows of the database refer to, in whatever table."""

import re
from collections import defaultdict
from collections.abc import Iterator
from typing import Final

from sqlalchemy import JSON, Column, String, Table, Text, cast, or_, select, text
from sqlalchemy.orm import Session

from migrations.tables import tables

KEY: Final = "sha256/[0-9a-f]{2}/[0-9a-f]{64}"
#: In JSON a reference is a whole string. A key inside a sentence is not a reference.
_QUOTED: Final = re.compile(rf'"({KEY})"')

#: By blob key, the rows that refer to it, as "table id".
References = dict[str, set[str]]


def find_references(session: Session) -> References:
    """Every reference to a blob, from all columns of text or JSON, so that a new column cannot be forgotten.

    `session` must be a snapshot.
    """
    if session.get_bind().dialect.name == "postgresql":
        session.execute(text("SET LOCAL statement_timeout = 0"))
    references: References = defaultdict(set)
    for table in tables().sorted_tables:
        for row, value in _values_with_keys(session, table):
            for key in keys_in(value):
                references[key].add(row)
    return dict(references)


def keys_in(value: str) -> Iterator[str]:
    """The blob keys in a column's text: the whole text, or quoted strings in it."""
    if re.fullmatch(KEY, value):
        yield value
        return
    for match in _QUOTED.finditer(value):
        yield match[1]


def _values_with_keys(session: Session, table: Table) -> Iterator[tuple[str, str]]:
    """(row as "table id", text of one of its columns), for rows that mention any blob."""
    columns: list[Column[object]] = [column for column in table.columns if isinstance(column.type, String | JSON)]
    if not columns:
        return
    texts = [cast(column, Text) for column in columns]
    query = select(*table.primary_key, *texts).where(or_(*(column.contains("sha256/") for column in texts)))

    keys = len(table.primary_key)
    for row in session.execute(query.execution_options(yield_per=200)):
        name = " ".join([table.name, *map(str, row[:keys])])
        yield from ((name, value) for value in row[keys:] if value)
