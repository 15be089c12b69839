"""One cluster for each process of tests; whatever a test breaks in it is mended, and the books are balanced."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.chaos.books import balance
from tests.chaos.cluster import Cluster
from tests.chaos.runs import Gates, new_gates, order
from tests.chaos.score import FAULT, JOBS

HERE = Path(__file__).parent
FAILED = pytest.StashKey[bool]()


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if HERE in item.path.parents:
            item.add_marker(pytest.mark.chaos)
            if item.get_closest_marker("timeout") is None:
                item.add_marker(pytest.mark.timeout(900))  # each wait has its own limit, and there are several


@pytest.fixture(scope="session")
def shared_cluster() -> Iterator[Cluster]:
    cluster = Cluster()
    try:
        yield cluster
    finally:
        cluster.close()


@pytest.fixture(scope="session")
def undisturbed(shared_cluster: Cluster) -> str:
    """The result root of the run that nobody disturbs."""
    with new_gates(shared_cluster) as gates:
        job = shared_cluster.ended(shared_cluster.submit(order(shared_cluster, gates)))
    assert job["status"] == "succeeded", shared_cluster.story(job["id"])
    shared_cluster.jobs.clear()
    return str(shared_cluster.get(f"fine_tuning/jobs/{job['id']}/evidence")["result_root"])


@pytest.fixture(autouse=True)
def tried(request: pytest.FixtureRequest, record_property: Any) -> None:
    """Which faults a test brings about, for the score."""
    for mark in request.node.iter_markers("fault"):
        for number in mark.args:
            record_property(FAULT, number)


@pytest.fixture
def cluster(
    shared_cluster: Cluster, undisturbed: str, request: pytest.FixtureRequest, record_property: Any
) -> Iterator[Cluster]:
    """The cluster, whole at first; at the end repaired, with its books balanced over all jobs of the test."""
    shared_cluster.repair()
    shared_cluster.jobs.clear()
    yield shared_cluster
    shared_cluster.repair()
    if request.node.stash.get(FAILED, False):
        shared_cluster.jobs.clear()
        return
    found = balance(shared_cluster, undisturbed=undisturbed)
    record_property(JOBS, [found.accepted, found.ended, found.doubled, found.resumed, found.equal])
    assert not found.problems, "\n\n".join(found.problems)


@pytest.fixture
def gates(shared_cluster: Cluster) -> Iterator[Gates]:
    with new_gates(shared_cluster) as made:
        yield made


@pytest.hookimpl(hookwrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Iterator[None]:
    outcome = yield
    report = outcome.get_result()  # type: ignore[attr-defined]
    if report.when == "call":
        item.stash[FAILED] = report.failed
