"""The doctor as a command: what it prints, and its exit codes."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from app.settings import Settings
from app.storage.blobs import Storage
from migrations.upgrade import upgrade
from tests.patience import PATIENCE

ROOT = Path(__file__).parents[4]


def doctor(data: Path, *options: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "app.cli.main", "doctor", *options]
    environment = os.environ | {"PERMAFROST_DATA_DIR": str(data)}
    return subprocess.run(
        command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=PATIENCE, check=False
    )


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """An installation with a blob that nobody needs."""
    settings = Settings(data_dir=tmp_path / "data")
    upgrade(settings.database)
    with Storage(settings.storage).writer() as writer:
        writer.write(b"orphan")
    return tmp_path / "data"


def test_looks_then_mends(data: Path) -> None:
    """1 with a hint while something is wrong, 0 once it is mended; nothing changes without --repair."""
    blobs = data / "blobs" / "sha256"
    first = doctor(data, "--older-than", "0")
    assert (
        first.returncode == 1
        and "FAIL  orphan_blob sha256/" in first.stdout
        and "--repair repairs them" in first.stdout
    )
    assert [path for path in blobs.rglob("*") if path.is_file()]
    second = doctor(data, "--older-than", "0", "--repair")
    assert second.returncode == 0 and "done  orphan_blob" in second.stdout, second.stdout
    assert not [path for path in blobs.rglob("*") if path.is_file()]
    assert "ok    books: everything agrees" in doctor(data).stdout


def test_as_json(data: Path) -> None:
    """Checks, findings and a tally, for machines."""
    done = doctor(data, "--json", "--older-than", "0")
    found = json.loads(done.stdout)
    assert done.returncode == 1
    assert {each["name"] for each in found["checks"]} >= {"database", "storage", "broker"}
    (finding,) = found["findings"]
    assert (finding["kind"], finding["level"], finding["done"]) == ("orphan_blob", "problem", None)
    assert found["books"] == {"compared": True, "reason": None, "open": 1, "mended": 0, "notes": 0}


def test_no_database_no_comparison(tmp_path: Path) -> None:
    """Without tables every blob would look like an orphan: then none is touched."""
    with Storage(Settings(data_dir=tmp_path / "data").storage).writer() as writer:
        writer.write(b"orphan")
    done = doctor(tmp_path / "data", "--repair", "--older-than", "0")
    assert done.returncode == 1 and "books: not compared" in done.stdout
    assert (tmp_path / "data" / "blobs" / writer.blob.key).exists()
