"""A backup's folder: manifests of other versions are refused."""

import json
from pathlib import Path

import pytest

from app.ops.backup.dump import BackupError
from app.ops.backup.folder import BackupManifest


def test_manifests_of_other_versions_are_refused(tmp_path: Path) -> None:
    """Better than guessing what a field means."""
    (tmp_path / "manifest.json").write_text(json.dumps({"schema": 99}))
    with pytest.raises(BackupError, match="manifest schema 99"):
        BackupManifest.load(tmp_path)
