"""What tests of the trainer share."""

import os
import tempfile
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.worker.trainer.attempts import Attempt, attempt
from worker.protocol import WorkOrder

Build = Callable[[Path], WorkOrder]
Uninterrupted = Callable[[Build], Attempt]


@pytest.fixture
def own_folders(monkeypatch: pytest.MonkeyPatch) -> None:
    """A trainer has its process to itself; here the folders that it chooses are given back."""
    monkeypatch.setattr(tempfile, "tempdir", tempfile.tempdir)
    for name in ("TMPDIR", "TORCHINDUCTOR_CACHE_DIR"):
        monkeypatch.setenv(name, os.environ.get(name, "/tmp"))


@pytest.fixture(scope="session")
def uninterrupted(tmp_path_factory: pytest.TempPathFactory) -> Uninterrupted:
    """The whole run of an order, made once for all tests that compare an interrupted one with it."""
    runs: dict[Build, Attempt] = {}

    def run(build: Build) -> Attempt:
        if build not in runs:
            root = tmp_path_factory.mktemp("uninterrupted")
            runs[build] = attempt(build(root), root)
            assert runs[build].code == 0, runs[build].reports[-1]
        return runs[build]

    return run
