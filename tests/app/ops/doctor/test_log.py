"""The doctor and the transparency log: what is damaged is made again, and what was forked is never signed."""

import hashlib
from pathlib import Path

import pytest
from sqlalchemy import delete, update

from app.evidence.format.log_proof import base_entry
from app.evidence.transparency.journal import Journal, load_key, record
from app.evidence.transparency.tables import LogEntry, LogState
from app.evidence.transparency.tile_files import TileFiles
from app.ops.doctor.log import LogBooks
from app.storage.blobs import Storage
from tests.conftest import Deployment

ENTRIES = [base_entry(hashlib.sha256(b"%d" % at).hexdigest(), name=f"m{at}") for at in range(260)]


@pytest.fixture
def log(deployment: Deployment) -> Journal:
    settings = deployment.settings
    return Journal(deployment.db, Storage(settings.storage), load_key(settings.log_key_path))


def examined(deployment: Deployment, *, repair: bool = False, deep: bool = False) -> list[tuple[str, bool]]:
    """The findings by kind, and whether each is still open."""
    books = LogBooks(deployment.settings, deployment.db, Storage(deployment.settings.storage), deep=deep)
    findings = list(books.findings())
    for finding in findings if repair else ():
        finding.apply_repair()
    return [(finding.kind, finding.open) for finding in findings]


def test_files_that_are_lost_or_changed_are_made_again(deployment: Deployment, log: Journal) -> None:
    """A tile, and the checkpoint; a log in order, and one that is not there yet, are no findings."""
    assert examined(deployment) == []
    log.enter(*ENTRIES)
    assert examined(deployment, deep=True) == []
    folder = (log.storage.root or Path()) / "log"
    for damage in (
        lambda: (folder / "tile/0/001.p/4").unlink(),
        lambda: (folder / "tile/1/000.p/1").write_bytes(bytes(32)),
        lambda: (folder / "checkpoint").write_text("garbage"),
    ):
        damage()
        assert examined(deployment) == [("damaged_log", True)]
        assert examined(deployment, repair=True) == [("damaged_log", False)]
        assert examined(deployment) == []


def test_what_cannot_be_repaired_stays_open(deployment: Deployment, log: Journal) -> None:
    """An entry that the database has changed, found by reading all; another key."""
    log.enter(*ENTRIES)
    with log.db.write() as session:
        session.execute(update(LogEntry).where(LogEntry.position == 3).values(entry=b"forged"))
    assert examined(deployment) == []
    assert examined(deployment, deep=True, repair=True) == [("damaged_log", True)]
    deployment.settings.log_key_path.unlink()
    assert examined(deployment, repair=True) == [("log_key", True)]
    load_key(deployment.settings.log_key_path)
    assert examined(deployment, repair=True) == [("log_key", True)]


def test_an_older_database_is_named(deployment: Deployment, log: Journal) -> None:
    """And gets the published entries back; entries that wait are a note."""
    log.enter(*ENTRIES[:2])
    with log.db.read() as session:
        old = session.get_one(LogState, 1)
    log.enter(*ENTRIES[2:5])
    with log.db.write() as session:
        session.execute(delete(LogEntry).where(LogEntry.position >= 2))
        session.execute(update(LogState).values(size=2, sequenced=2, checkpoint=old.checkpoint))
    assert examined(deployment) == [("log_rolled_back", True)]
    assert examined(deployment, repair=True) == [("log_rolled_back", False)]
    with log.db.write() as session:
        record(session, ENTRIES[9])
    assert examined(deployment) == [("unsigned_entries", False)]
    examined(deployment, repair=True)
    assert examined(deployment) == [] and TileFiles(log.storage).tree(6).leaf(5) == ENTRIES[9].leaf


def test_before_the_first_worker_entries_wait(deployment: Deployment) -> None:
    """A base that was registered where no worker has run yet: a note, and no missing key."""
    with deployment.db.write() as session:
        record(session, base_entry("ab" * 32, name="tiny"))
    assert examined(deployment) == [("unsigned_entries", False)]
