"""The work order of one trainer process: what its job's row says, on the devices that it has."""

from typing import Any

from app.jobs.queue.tables import Job
from app.specs.data import DataSpec
from worker.protocol import Stage, WorkOrder
from worker.supervisor.devices import Device


def order_of(
    job: Job, attempt: int, device: Device, stage: Stage, *, data: DataSpec | None = None, **gang: Any
) -> WorkOrder:
    """The order of a stage; `gang` is this machine's part where several train the job (`WorkOrder.machines`)."""
    return WorkOrder(
        job_id=job.id,
        attempt=attempt,
        stage=stage,
        model=job.spec,
        task=job.task,
        data=data or job.data_spec,
        hyperparameters=job.hyperparameter_spec,
        policy=job.policy,
        evidence=job.evidence_spec,
        seed=job.seed,
        device=device.name,
        devices=device.count if stage == "train" else 1,
        strategy=job.strategy,
        **gang,
    )
