"""What tests of the trainer share."""

import os
import tempfile

import pytest


@pytest.fixture
def own_folders(monkeypatch: pytest.MonkeyPatch) -> None:
    """A trainer has its process to itself; here the folders that it chooses are given back."""
    monkeypatch.setattr(tempfile, "tempdir", tempfile.tempdir)
    for name in ("TMPDIR", "TORCHINDUCTOR_CACHE_DIR"):
        monkeypatch.setenv(name, os.environ.get(name, "/tmp"))
