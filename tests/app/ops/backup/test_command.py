"""`permafrost backup` and `permafrost restore`, as an operator types them."""

import json
import os
import stat
import subprocess
import sys
from pathlib import Path

import pytest

from app.evidence.format.keys import load_or_create
from app.settings import Settings
from migrations.upgrade import upgrade
from tests.patience import PATIENCE

ROOT = Path(__file__).parents[4]


@pytest.mark.slow
def test_the_commands(tmp_path: Path) -> None:
    """`backup` and `restore` as an operator types them; keys are readable for their owner alone."""
    settings = Settings(data_dir=tmp_path / "data")
    upgrade(settings.database)
    load_or_create(settings.signing_key_path)
    done = permafrost(tmp_path / "data", "backup", str(tmp_path / "backup"), "--json")
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["missing"] == []
    key = tmp_path / "backup" / "keys" / "signing" / "signing.key"
    assert stat.S_IMODE(key.stat().st_mode) == 0o600
    assert stat.S_IMODE((tmp_path / "backup").stat().st_mode) & 0o077 == 0
    done = permafrost(tmp_path / "new", "restore", str(tmp_path / "backup"))
    assert done.returncode == 0, done.stderr
    assert permafrost(tmp_path / "new", "doctor", "--deep").returncode == 0
    again = permafrost(tmp_path / "new", "restore", str(tmp_path / "backup"))
    assert again.returncode == 1 and "not empty" in again.stderr and "Traceback" not in again.stderr
    without = permafrost(tmp_path / "data", "backup", str(tmp_path / "other"), "--no-keys")
    assert without.returncode == 0 and not (tmp_path / "other" / "keys").exists()
    nothing = permafrost(tmp_path / "none", "backup", str(tmp_path / "third"))
    assert nothing.returncode == 1 and "permafrost migrate" in nothing.stderr


def permafrost(data: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    environment = os.environ | {"PERMAFROST_DATA_DIR": str(data)}
    return subprocess.run(
        [sys.executable, "-m", "app.cli.main", *arguments],
        cwd=ROOT, env=environment, capture_output=True, text=True, timeout=PATIENCE, check=False,
    )  # fmt: skip
