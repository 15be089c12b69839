"""A consistent copy of the database in a file, and its restore: SQLite's backup API, pg_dump and pg_restore."""

import os
import sqlite3
import subprocess
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from shutil import which

from sqlalchemy import inspect, text
from sqlalchemy.orm import Session

from app.db import Database
from app.errors import PermafrostError
from app.ops.doctor.references import References, find_references
from app.storage.blobs import sync_folder


class BackupError(PermafrostError):
    """A backup could not be made or restored."""

    code = "backup_failed"


def dump(db: Database, to: Path) -> References:
    """Write the database as of one moment to `to`. Returns the blobs that its rows refer to at that moment."""
    references = _dump_sqlite(db, to) if db.sqlite else _dump_postgres(db, to)
    _sync(to)
    return references


def put_back(db: Database, source: Path) -> None:
    """Restore a dump into an empty database, completely or not at all."""
    if db.sqlite:
        _put_back_sqlite(db, source)
    else:
        _run("pg_restore", db, "--single-transaction", "--exit-on-error", "--no-owner", "--no-acl", str(source))


def is_empty(db: Database) -> bool:
    """Whether there is nothing that a restored database would overwrite."""
    if db.sqlite and not Path(str(db.url.database)).exists():
        return True
    return not inspect(db.engine).get_table_names()


def _dump_sqlite(db: Database, to: Path) -> References:
    with closing(sqlite3.connect(str(db.url.database))) as live, closing(sqlite3.connect(to)) as copy:
        live.backup(copy)  # in one step: a read transaction, which does not block writers
        copy.execute("PRAGMA journal_mode = DELETE").close()
        (verdict,) = copy.execute("PRAGMA integrity_check").fetchone()
    if verdict != "ok":
        raise BackupError(f"the database is damaged: {verdict}")
    copied = Database(f"sqlite:///{to}")
    try:
        with copied.snapshot() as session:
            references = find_references(session)
    finally:
        copied.close()
    for leftover in (f"{to}-wal", f"{to}-shm"):
        Path(leftover).unlink(missing_ok=True)
    return references


def _dump_postgres(db: Database, to: Path) -> References:
    with db.snapshot() as session, _exported(session) as snapshot:
        _run("pg_dump", db, "--format=custom", "--no-owner", f"--snapshot={snapshot}", f"--file={to}")
        return find_references(session)


@contextmanager
def _exported(session: Session) -> Iterator[str]:
    """A name by which pg_dump sees exactly what this transaction sees."""
    session.execute(text("SET LOCAL idle_in_transaction_session_timeout = 0"))
    yield str(session.scalar(text("SELECT pg_export_snapshot()")))


def _put_back_sqlite(db: Database, source: Path) -> None:
    target = Path(str(db.url.database)).absolute()
    db.close()
    target.parent.mkdir(parents=True, exist_ok=True)
    temporary = target.with_name(f".{target.name}.restored")
    temporary.write_bytes(b"")
    temporary.chmod(0o600)
    with source.open("rb") as content, temporary.open("wb") as copy:
        while chunk := content.read(1 << 20):
            copy.write(chunk)
    _sync(temporary)
    for leftover in (f"{target}-wal", f"{target}-shm"):
        Path(leftover).unlink(missing_ok=True)
    temporary.replace(target)
    sync_folder(target.parent)


def _run(tool: str, db: Database, *options: str) -> None:
    """Run a PostgreSQL tool. The password goes through the environment: every user can read a command line."""
    program = which(tool)
    if program is None:
        raise BackupError(
            f"{tool} is not on PATH: install PostgreSQL's client programs (the server's version or newer), or run this "
            "on a machine that has them"
        )
    url = db.url._replace(drivername="postgresql", password=None).render_as_string()
    environment = dict(os.environ)
    if db.url.password:
        environment["PGPASSWORD"] = str(db.url.password)
    command = [program, f"--dbname={url}", *options]
    process = subprocess.run(command, env=environment, stdin=subprocess.DEVNULL, capture_output=True, check=False)
    if process.returncode != 0:
        raise BackupError(f"{tool} failed: {process.stderr.decode('utf-8', 'replace').strip()[-1000:]}")


def _sync(path: Path) -> None:
    with path.open("rb") as file:
        os.fsync(file.fileno())
