"""A worker that is idle finds its invitation by looking."""

import threading

from app.jobs.queue import lifecycle, workers
from app.jobs.queue.offers import CPU, Offer
from tests.conftest import Deployment
from tests.patience import PATIENCE
from tests.worker.supervisor.jobs import submit
from worker.supervisor.gang.door import Door


def invited(deployment: Deployment) -> None:
    submit(deployment, devices=2, machines=2)
    for name in ("a", "b"):
        workers.register(deployment.db, name, devices=1, kind=CPU, products={CPU: 1}, gang_address="x", code="c")
    assert lifecycle.claim(deployment.db, worker="a/1", seconds=60, offer=Offer(gangs=True))


def test_an_invitation_is_answered(deployment: Deployment) -> None:
    """Of this worker alone, and not while all of its devices are in use."""
    started = threading.Event()
    door = Door(deployment.db, "b", free=lambda: True, start=started.set)
    assert not door.look()
    invited(deployment)
    assert not Door(deployment.db, "b", free=lambda: False, start=started.set).look()
    assert not Door(deployment.db, "a", free=lambda: True, start=started.set).look()
    assert not started.is_set()
    assert door.look() and started.is_set()


def test_it_looks_until_it_is_closed(deployment: Deployment) -> None:
    """By itself, and closing it ends the thread, also where it was never opened."""
    started = threading.Event()
    door = Door(deployment.db, "b", free=lambda: True, start=started.set)
    door.open()
    invited(deployment)
    assert started.wait(PATIENCE)
    door.close()
    Door(deployment.db, "b", free=lambda: True, start=started.set).close()
