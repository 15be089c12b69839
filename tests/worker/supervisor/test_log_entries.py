"""A worker and the log: no failure of the log fails a job, and what had to wait is signed later."""

import hashlib
from pathlib import Path

import pytest

from app.errors import StorageUnavailable
from app.evidence.format.log_proof import base_entry
from app.evidence.transparency.tables import LogState
from app.evidence.transparency.tile_files import TileFiles
from app.settings import Settings
from app.storage.blobs import Storage
from tests.conftest import Deployment
from worker.supervisor.log_entries import catch_up, enter, open_journal

ENTRY = base_entry(hashlib.sha256(b"a").hexdigest(), name="a")


def test_an_entry_that_cannot_be_signed_waits(
    deployment: Deployment, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With the reason as an event of the job; the next round of maintenance signs it."""
    journal = open_journal(deployment.settings, deployment.db, Storage(f"file://{tmp_path / 'blobs'}"))
    with monkeypatch.context() as patch:
        patch.setattr(TileFiles, "write", _away)
        (event,) = enter(journal, ENTRY)
        assert (event.level, "a worker tries again later" in event.message) == ("warn", True)
        catch_up(journal)
    catch_up(journal)
    with deployment.db.read() as session:
        state = session.get_one(LogState, 1)
    assert (state.size, state.sequenced) == (1, 1)
    assert enter(journal, ENTRY) == []


def _away(*_: object) -> None:
    raise StorageUnavailable("the storage is away")


def test_a_worker_without_the_logs_key_goes_on(tmp_path: Path) -> None:
    """Such as one whose folder of keys it may only read."""
    (tmp_path / "log.key").write_text("garbage")
    settings = Settings(data_dir=tmp_path, log_key=tmp_path / "log.key")
    assert open_journal(settings, None, None) is None  # type: ignore[arg-type]
    assert "no key of it" in enter(None, ENTRY)[0].message
    catch_up(None)
