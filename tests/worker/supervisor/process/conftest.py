"""A forkserver for small trainers, and a folder for one of them."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.worker.supervisor.process.trainers import TRAINERS
from worker.supervisor.process.child import Forkserver


@pytest.fixture
def forkserver(tmp_path: Path) -> Iterator[Forkserver]:
    with Forkserver(home=tmp_path / "home", preload=[TRAINERS]) as forkserver:
        yield forkserver


@pytest.fixture
def workspace(tmp_path: Path) -> Path:
    folder = tmp_path / "workspace"
    folder.mkdir()
    return folder
