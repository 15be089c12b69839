"""A database that test after test is given is empty each time, and new where more than rows was changed."""

from collections.abc import Iterator
from typing import Any

import psycopg
import pytest

from tests.databases import GROWTH, ReusedDatabase
from tests.servers import plain


@pytest.fixture
def reused(postgres_server: str, postgres_template: str) -> Iterator[ReusedDatabase]:
    made = ReusedDatabase(postgres_server, postgres_template)
    yield made
    made.close()


def used(reused: ReusedDatabase, *statements: str) -> tuple[str, list[Any]]:
    """The name of the database that these statements were run in, and what the last one returned."""
    with reused.given() as url, psycopg.connect(plain(url), autocommit=True) as connection:
        for statement in statements:
            cursor = connection.execute(statement)
        found = cursor.fetchall() if cursor.description else []
        return connection.info.dbname, found


COUNT = "SELECT count(*), coalesce(max(id), 0) FROM log_entries"
ADD = (
    "INSERT INTO log_entries (created_at, leaf, subject, entry)"
    " SELECT now(), n::text, 'a', decode(repeat('ab', 100), 'hex') FROM generate_series(1, {}) AS n"
)


def test_rows_and_sequences_begin_anew(reused: ReusedDatabase) -> None:
    """The next test's first row has the number 1."""
    filled, found = used(reused, ADD.format(3), COUNT)
    assert found == [(3, 3)]
    again, found = used(reused, COUNT)
    assert (again, found) == (filled, [(0, 0)])
    assert used(reused, ADD.format(1), COUNT) == (filled, [(1, 1)])


def test_connections_that_were_left_are_ended(reused: ReusedDatabase) -> None:
    with reused.given() as url:
        left = psycopg.connect(plain(url))
        left.execute("LOCK TABLE log_entries")
    with pytest.raises(psycopg.OperationalError):
        left.execute("SELECT 1")


@pytest.mark.parametrize(
    "change",
    [
        "ALTER TABLE log_entries ADD COLUMN more int",
        "DROP TABLE log_entries",
        "CREATE INDEX more ON log_entries (leaf)",
        "CREATE TABLE more (id int)",
    ],
)
def test_another_shape_ends_a_database(reused: ReusedDatabase, change: str) -> None:
    changed, _ = used(reused, change)
    another, found = used(reused, COUNT)
    assert another != changed and found == [(0, 0)]


def test_what_the_planner_measured_ends_a_database(reused: ReusedDatabase) -> None:
    """And so do many dead rows."""
    measured, _ = used(reused, ADD.format(10), "ANALYZE log_entries")
    grown, _ = used(reused, ADD.format(GROWTH // 100))
    last, _ = used(reused, COUNT)
    assert len({measured, grown, last}) == 3
