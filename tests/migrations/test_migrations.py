"""Alembic's revisions make exactly the tables that the code declares, on both databases."""

import re
import subprocess
import sys
from datetime import UTC, datetime
from pathlib import Path

import pytest
from alembic import command
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext
from sqlalchemy import inspect, select, text

from app.db import Database
from app.jobs.queue.tables import Job
from migrations import upgrade as migrations
from migrations.tables import tables
from tests.patience import PATIENCE

ROOT = Path(__file__).parents[2]


def current(url: str) -> str | None:
    database = Database(url)
    with database.read() as session:
        revision = migrations.current(session.connection())
    database.close()
    return revision


def differences(url: str) -> list[object]:
    """What alembic would still have to change for the database to match the code."""
    database = Database(url)
    with database.read() as session:
        context = MigrationContext.configure(session.connection(), opts={"compare_type": True})
        found = list(compare_metadata(context, tables()))
    database.close()
    return found


def test_an_upgraded_database_matches_the_tables(database_url: str) -> None:
    """After all revisions, alembic finds no table, column, type, index or constraint to change."""
    migrations.upgrade(database_url)
    assert differences(database_url) == []
    assert current(database_url) == migrations.head()


def test_the_comparison_sees_a_difference(database_url: str) -> None:
    """An index that is missing in the database shows up, so that an empty comparison means something."""
    migrations.upgrade(database_url)
    database = Database(database_url)
    with database.write() as session:
        session.connection().exec_driver_sql("DROP INDEX ix_jobs_project_created")
    database.close()
    assert [change[0] for change in differences(database_url)] == ["add_index"]


def test_upgrading_twice_changes_nothing(database_url: str) -> None:
    """A second upgrade of the same database is allowed and leaves the revision where it is."""
    migrations.upgrade(database_url)
    migrations.upgrade(database_url)
    assert current(database_url) == migrations.head()


def test_processes_that_upgrade_at_once_take_turns(database_url: str) -> None:
    """Three upgrades of an empty database at once all succeed, and the tables are made once."""
    code = "import sys; from migrations.upgrade import upgrade; upgrade(sys.argv[1])"
    started = [subprocess.Popen([sys.executable, "-c", code, database_url], cwd=ROOT) for _ in range(3)]
    assert [process.wait(timeout=PATIENCE) for process in started] == [0, 0, 0]
    assert differences(database_url) == []


def test_a_downgrade_to_nothing_leaves_no_tables(database_url: str) -> None:
    """Every revision can be undone: what is left is alembic's own, empty table."""
    migrations.upgrade(database_url)
    migrations.downgrade(database_url, "base")
    database = Database(database_url)
    assert inspect(database.engine).get_table_names() == ["alembic_version"]
    database.close()


def test_a_database_that_was_never_migrated_has_no_revision(database_url: str) -> None:
    """Readiness can tell an empty database from a migrated one."""
    assert current(database_url) is None


def test_the_tables_match_the_last_revision_by_name(database_url: str) -> None:
    """`alembic check`, as a developer runs it, finds nothing new to put into a revision."""
    migrations.upgrade(database_url)
    command.check(migrations.config(database_url))


def test_a_url_with_a_percent_sign_is_taken_as_it_is(tmp_path: Path) -> None:
    """Alembic's configuration interpolates `%`; a password or a folder may hold one."""
    folder = tmp_path / "100% data"
    folder.mkdir()
    migrations.upgrade(f"sqlite:///{folder / 'permafrost.db'}")
    assert (folder / "permafrost.db").exists()


def test_an_unknown_revision_is_refused(database_url: str) -> None:
    """A revision that does not exist is an error and not a no-op."""
    with pytest.raises(command.util.CommandError, match="nowhere"):  # type: ignore[attr-defined]
        migrations.upgrade(database_url, "nowhere")


def test_jobs_that_are_older_than_their_labels_get_them(database_url: str) -> None:
    """Revision 0004 labels what is there, so that lists find old jobs by their metadata as well."""
    migrations.upgrade(database_url, "0003")
    database = Database(database_url)
    columns = {
        "id": "ftjob-1", "project": "p", "created_at": "2026-01-02 03:04:05.000006", "version": 1, "status": "queued",
        "desired": "run", "priority": 3, "model": "m", "model_spec": "{}", "task": "t", "training_file": "f",
        "data": "{}", "seed": 0, "hyperparameters": "{}", "metadata": '{"team": "a"}', "freeze_policy": "{}",
        "evidence_options": "{}", "attempt": 0, "crashes": 0, "result_files": "[]", "events_count": 0,
    }  # fmt: skip
    names = ", ".join(columns)
    insert = text(f"INSERT INTO jobs ({names}) VALUES ({', '.join(f':{name}' for name in columns)})")
    with database.write() as session:
        session.execute(insert, columns)
    migrations.upgrade(database_url)
    with database.read() as session:
        assert session.execute(text("SELECT name, value, job_id FROM job_labels")).all() == [("team", "a", "ftjob-1")]
        assert session.execute(text("SELECT urgency, tags FROM jobs")).one()[0] == -3
        assert session.scalars(select(Job.queue_time)).one() == datetime(2026, 1, 2, 0, 4, 5, 6, tzinfo=UTC)
    database.close()


def test_revisions_follow_each_other_in_the_order_of_their_files() -> None:
    """The file with the highest number is the newest version of the tables, for people and for tools."""
    files = sorted((ROOT / "migrations" / "versions").glob("r*.py"))
    chain = [
        re.findall(r'^(?:down_)?revision(?:: [^=]+)? = "?(\w+)"?$', path.read_text(), re.MULTILINE) for path in files
    ]
    assert [each[0] for each in chain] == [path.name[1:5] for path in files]
    assert [each[1] for each in chain[1:]] == [path.name[1:5] for path in files[:-1]]
