"""How much tensors changed: from the base to the result, and to the checkpoints on the way."""

from sqlalchemy import select

from app.evidence.tables import Parameter
from tests.conftest import Deployment
from tests.worker.supervisor.jobs import submit
from worker.supervisor.runner import Runner


def test_change_and_its_history(deployment: Deployment, runner: Runner) -> None:
    """The trained tensor has both, the frozen one neither; a torn checkpoint is left out."""
    job_id = submit(deployment)
    assert runner.run_next()
    with deployment.db.read() as session:
        rows = session.scalars(select(Parameter).where(Parameter.job_id == job_id).order_by(Parameter.position)).all()
        bias, weight = rows
    assert (bias.name, bias.changed_elements) == ("bias", 1)
    assert bias.stats is not None and bias.stats["max_ulp"] == 0x01010101
    assert [(change["step"], change["max_ulp"]) for change in bias.history] == [(2, 0x0101)]
    assert (weight.changed_elements, weight.history) == (0, [])
