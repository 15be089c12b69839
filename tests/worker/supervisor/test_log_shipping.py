"""A trainer's log on its way from the workspace to the database."""

from pathlib import Path

import pytest
from sqlalchemy.exc import OperationalError

from app.db import Database
from app.jobs.queue import lifecycle
from app.jobs.queue.attempt import Lease
from app.logs import queries
from tests.app.jobs.jobs import new_job
from worker.supervisor import log_shipping
from worker.supervisor.log_shipping import LogShipper


@pytest.fixture
def lease(db: Database) -> Lease:
    job, _ = lifecycle.submit(db, new_job())
    return Lease(job.id, 1, "w", 60)


def texts(db: Database, lease: Lease) -> list[str]:
    with db.read() as session:
        return [line.text for line in queries.read(session, lease.job_id)]


def test_whole_lines_are_stored_once(db: Database, lease: Lease, tmp_path: Path) -> None:
    """A line that is still being written waits for its end, or for the trainer's."""
    log = tmp_path / "log.txt"
    carrier = LogShipper(db, lease, log, aliases={str(tmp_path): "<job>"})
    carrier.ship()  # there is no file yet
    log.write_text(f"one\nsaved to {tmp_path}/x\nhal")
    carrier.ship()
    carrier.ship()
    assert texts(db, lease) == ["one", "saved to <job>/x"]
    with log.open("a") as more:
        more.write("f\nlast")
    carrier.ship()
    assert texts(db, lease)[2:] == ["half"]
    carrier.ship(ended=True)
    carrier.ship(ended=True)
    assert texts(db, lease)[2:] == ["half", "last"]


def test_odd_bytes_and_progress_bars(db: Database, lease: Lease, tmp_path: Path) -> None:
    """Of a bar its last state; what is no text, and what no database takes, is replaced; a huge line is cut."""
    log = tmp_path / "log.txt"
    log.write_bytes(b"  0%\r 50%\r100%\r\n\xff\0z\n" + b"x" * 5_000 + b"\n\n")
    LogShipper(db, lease, log, aliases={}).ship()
    bar, odd, long, empty = texts(db, lease)
    assert (bar, odd, empty) == ("100%", "\ufffd\ufffdz", "")
    assert long == "x" * log_shipping.LINE_CHARACTERS + " [cut]"


def test_a_flood_is_cut_in_its_middle(
    db: Database, lease: Lease, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The newest lines are stored, and how much is missing before them."""
    monkeypatch.setattr(log_shipping, "READ_BYTES", 100)
    log = tmp_path / "log.txt"
    log.write_text("".join(f"line {n:04}\n" for n in range(100)))
    LogShipper(db, lease, log, aliases={}).ship()
    stored = texts(db, lease)
    assert stored[0] == "[900 bytes are left out: too much was printed at once]"
    assert (stored[1], stored[-1], len(stored)) == ("line 0090", "line 0099", 11)


def test_what_the_database_did_not_take_is_stored_later(
    db: Database, lease: Lease, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nothing is lost, nothing twice."""
    log = tmp_path / "log.txt"
    log.write_text("one\n")
    carrier = LogShipper(db, lease, log, aliases={})

    def away(*_: object) -> None:
        raise OperationalError("", None, Exception("away"))

    with monkeypatch.context() as patch, pytest.raises(OperationalError):
        patch.setattr(queries, "append", away)
        carrier.ship()
    log.write_text("one\ntwo\n")
    carrier.ship()
    assert texts(db, lease) == ["one", "two"]
