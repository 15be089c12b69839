"""Disks and databases that are full: 507 in the envelope, nothing left behind, and all well once there is room."""

import os
import resource
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import httpx2
import pytest
from fastapi import FastAPI
from sqlalchemy import event, text
from starlette.testclient import TestClient

from app.db import Database
from app.main import create_app
from app.settings import Settings
from migrations.upgrade import upgrade
from tests.app.conftest import AFFINE, rows, serve, upload_to
from tests.patience import PATIENCE

ROOT = Path(__file__).parents[2]
MEGABYTE = 1 << 20
FULL_DISK = """CREATE FUNCTION full_disk() RETURNS trigger LANGUAGE plpgsql AS
$$ BEGIN RAISE EXCEPTION 'could not extend file' USING ERRCODE = 'disk_full'; END $$"""


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 8 MB; it takes a right that containers often lack."""
    place = tmp_path / "disk"
    place.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", "size=8m", "permafrost-test", str(place)]
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=False)
    except FileNotFoundError:
        pytest.skip("NO MOUNT: this machine has no mount command")
    if done.returncode:
        pytest.skip(f"NO MOUNT: {done.stderr.strip()}")
    yield place
    subprocess.run(["umount", str(place)], check=True)


def check_no_room(answer: httpx2.Response, what: str) -> None:
    assert answer.status_code == 507, answer.text
    error = answer.json()["error"]
    assert (error["type"], error["code"]) == ("server_error", "out_of_space")
    assert what in error["message"] and "nothing was kept" in error["message"]
    assert answer.headers["x-should-retry"] == "false"


def send(client: httpx2.Client, content: bytes) -> httpx2.Response:
    return client.post("files", data={"purpose": "fine-tune"}, files={"file": ("big.jsonl", content)})


def files_below(folder: Path) -> list[Path]:
    """Of a folder of blobs, all but its lock files."""
    return [path for path in folder.rglob("*") if path.is_file() and "locks" not in path.parts]


def test_a_full_disk_refuses_uploads_and_jobs(small_disk: Path) -> None:
    """A real file system without room: for a file that is too large, and then for a job's row as well."""
    data = small_disk / "data"
    settings = Settings(data_dir=data)
    upgrade(settings.database)
    with serve(create_app(settings)) as url, httpx2.Client(base_url=f"{url}/v1/", timeout=PATIENCE) as client:
        check_no_room(send(client, os.urandom(9 * MEGABYTE)), "this file")
        assert files_below(data / "blobs") == []
        upload = upload_to(client)
        file = upload(rows())
        filler = small_disk / "filler"
        with pytest.raises(OSError, match="No space left"), filler.open("wb", buffering=0) as full:
            while True:
                full.write(bytes(4096))
        job = {"model": AFFINE, "training_file": file}
        check_no_room(client.post("fine_tuning/jobs", json=job), "the database")
        check_no_room(send(client, bytes(9000)), "this file")
        assert len(files_below(data / "blobs")) == 1
        assert client.get("fine_tuning/jobs").json()["data"] == []
        filler.unlink()
        assert client.post("fine_tuning/jobs", json=job).status_code == 200
        assert len(client.get("fine_tuning/jobs").json()["data"]) == 1


def test_a_file_that_may_not_grow_is_refused(tmp_path: Path) -> None:
    """The same over a real socket in a process whose files are limited to 4 MB, which needs no right to mount."""
    environment = {**os.environ, "PERMAFROST_DATA_DIR": str(tmp_path / "data"), "PERMAFROST_PORT": "0"}
    command = [sys.executable, "-m", "app.cli.main", "serve", "--no-worker"]
    limit = (4 * MEGABYTE, 4 * MEGABYTE)
    with subprocess.Popen(
        command,
        cwd=ROOT,
        env=environment,
        stdout=subprocess.PIPE,
        text=True,
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, limit),
    ) as process:
        assert process.stdout is not None
        try:
            ready = next(line for line in process.stdout if line.startswith("permafrost ready"))
            with httpx2.Client(base_url=f"{ready.split()[2]}/", timeout=PATIENCE) as client:
                check_no_room(send(client, bytes(5 * MEGABYTE)), "this file")
                assert files_below(tmp_path / "data" / "blobs") == []
                assert send(client, b'{"x": [1], "y": 1}\n').status_code == 200
        finally:
            process.terminate()


def test_a_full_database_keeps_no_file_and_no_job(api: TestClient, application: FastAPI) -> None:
    """507 for the row of an upload, whose bytes go again, and for that of a job; both work once there is room."""
    db: Database = application.state.backends.database
    blobs = application.state.backends.storage.root
    file = upload_to(api)(rows())
    job = {"model": AFFINE, "training_file": file}
    with full(db):
        for number in range(500):  # what is left in the last pages has room for some
            answer = send(api, f"{number:>4000}".encode())
            if answer.status_code != 200:
                break
        check_no_room(answer, "the database")
        booked = len(api.get("files").json()["data"])
        assert len(files_below(blobs)) == booked
        for _ in range(500):
            answer = api.post("fine_tuning/jobs", json=job)
            if answer.status_code != 200:
                break
        check_no_room(answer, "the database")
        jobs = len(api.get("fine_tuning/jobs").json()["data"])
    assert api.post("fine_tuning/jobs", json=job).status_code == 200
    assert len(api.get("fine_tuning/jobs", params={"limit": 100}).json()["data"]) == min(jobs + 1, 100)
    assert send(api, b"{}\n").status_code == 200


class full:  # noqa: N801 - reads as a state where it is used
    """SQLite at a limit of pages; PostgreSQL, whose disk a test cannot fill, raises its own error for it."""

    def __init__(self, db: Database) -> None:
        self.db = db

    def __enter__(self) -> None:
        if self.db.sqlite:
            event.listen(self.db.engine, "connect", self._limit)
            self.db.engine.dispose()
            return
        with self.db.write() as session:
            session.execute(text(FULL_DISK))
            for table in ("files", "jobs"):
                session.execute(text(f"CREATE TRIGGER full_disk BEFORE INSERT ON {table} EXECUTE FUNCTION full_disk()"))

    def __exit__(self, *_: object) -> None:
        if self.db.sqlite:
            event.remove(self.db.engine, "connect", self._limit)
            self.db.engine.dispose()
            return
        with self.db.write() as session:
            session.execute(text("DROP FUNCTION full_disk CASCADE"))

    def _limit(self, connection: object, _record: object) -> None:
        pages = connection.execute("PRAGMA page_count").fetchone()[0]  # type: ignore[attr-defined]
        connection.execute(f"PRAGMA max_page_count={pages}").close()  # type: ignore[attr-defined]
