"""What the trainer is asked for comes from the job's row, and from what this machine has."""

from tests.conftest import Deployment
from tests.worker.supervisor.jobs import job_of, submit
from worker.supervisor.devices import Device
from worker.supervisor.orders import order_of

TWO = Device("cpu", members=(Device("cpu"), Device("cpu")))


def test_only_training_uses_several_devices(deployment: Deployment) -> None:
    """Making a base, or quantising one, is the work of one process."""
    job = job_of(deployment.db, submit(deployment, devices=2, seed=7))
    made, trained = order_of(job, 3, TWO, "initialise"), order_of(job, 3, TWO, "train")
    assert (made.devices, trained.devices, trained.attempt, trained.seed) == (1, 2, 3, 7)
    assert (trained.machines, trained.meeting) == (1, None)


def test_a_machine_of_several_knows_its_number(deployment: Deployment) -> None:
    """And where all meet, through which of its networks."""
    job = job_of(deployment.db, submit(deployment, devices=4, machines=2))
    order = order_of(job, 1, TWO, "train", machines=2, machine=1, meeting="10.0.0.5:4000", interface="eth0")
    assert (order.devices, order.machines, order.machine) == (2, 2, 1)
    assert (order.meeting, order.interface) == ("10.0.0.5:4000", "eth0")
