"""Two workers with folders of their own, on one machine: its loopback addresses stand for two."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.conftest import Deployment
from tests.worker.supervisor.gang.pairs import Pair, make_pair
from worker.supervisor.process.child import Forkserver


@pytest.fixture(scope="module")
def forkserver(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Forkserver]:
    with Forkserver(home=tmp_path_factory.mktemp("forkserver")) as forkserver:
        forkserver.warm()
        yield forkserver


@pytest.fixture
def pair(deployment: Deployment, forkserver: Forkserver, tmp_path: Path) -> Pair:
    return make_pair(deployment, forkserver, tmp_path)
