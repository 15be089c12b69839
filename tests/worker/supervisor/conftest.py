"""A runner whose trainers need no torch."""

from collections.abc import Iterator

import pytest

from tests.conftest import Deployment
from tests.worker.supervisor.jobs import make_runner
from worker.supervisor.process.child import Forkserver
from worker.supervisor.runner import Runner

STUB_TRAINER = "tests.worker.supervisor.stub_trainer"


@pytest.fixture(scope="module")
def forkserver(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Forkserver]:
    home = tmp_path_factory.mktemp("forkserver")
    with Forkserver(home=home, entry=f"{STUB_TRAINER}:run", preload=[STUB_TRAINER]) as forkserver:
        yield forkserver


@pytest.fixture
def runner(deployment: Deployment, forkserver: Forkserver) -> Runner:
    return make_runner(deployment, forkserver)
