"""Which blobs the database's rows are made of, whatever table they are in."""

import re
from collections import defaultdict
from collections.abc import Iterator
from typing import Final

from sqlalchemy import JSON, Column, String, Table, Text, cast, or_, select, text
from sqlalchemy.orm import Session

from migrations.tables import tables

KEY: Final = "sha256/[0-9a-f]{2}/[0-9a-f]{64}"
#: Within JSON a claim is a whole string. A key within a sentence asks for nothing.
_QUOTED: Final = re.compile(rf'"({KEY})"')

#: By blob, the rows that need it, as "table id".
References = dict[str, set[str]]


def find_references(session: Session) -> References:
    """Every claim, read from all columns that hold text or JSON: a column that is new here is not forgotten.

    `session` is a snapshot's.
    """
    if session.get_bind().dialect.name == "postgresql":
        session.execute(text("SET LOCAL statement_timeout = 0"))
    found: References = defaultdict(set)
    for table in tables().sorted_tables:
        for holder, said in _speaking(session, table):
            for key in keys_in(said):
                found[key].add(holder)
    return dict(found)


def keys_in(said: str) -> Iterator[str]:
    """The blobs that a column's text names as such."""
    if re.fullmatch(KEY, said):
        yield said
        return
    for match in _QUOTED.finditer(said):
        yield match[1]


def _speaking(session: Session, table: Table) -> Iterator[tuple[str, str]]:
    columns: list[Column[object]] = [each for each in table.columns if isinstance(each.type, String | JSON)]
    if not columns:
        return
    said = [cast(each, Text) for each in columns]
    mentioning = select(*table.primary_key, *said).where(or_(*(each.contains("sha256/") for each in said)))
    count = len(table.primary_key)
    for row in session.execute(mentioning.execution_options(yield_per=200)):
        holder = " ".join([table.name, *map(str, row[:count])])
        yield from ((holder, each) for each in row[count:] if each)
