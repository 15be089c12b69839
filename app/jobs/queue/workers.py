"""Which workers are alive, and why a waiting job cannot start now."""

from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime, timedelta
from typing import Final

from sqlalchemy import delete, select
from sqlalchemy.orm import Session

from app.db import Database, now
from app.jobs.queue.offers import matches
from app.jobs.queue.tables import Job, Worker

#: A worker registers at least this often, between rounds of maintenance too.
REGISTER_SECONDS: Final = 20.0
#: A worker that has not registered for this long is taken to be gone: it has missed three times.
PRESENT: Final = timedelta(minutes=1)
FORGOTTEN: Final = timedelta(days=1)


def register(
    db: Database,
    worker: str,
    *,
    devices: int,
    kind: str,
    products: Mapping[str, int] | None = None,
    memory: Mapping[str, Sequence[int]] | None = None,
    gang_address: str | None = None,
    code: str | None = None,
) -> None:
    """Records that this worker is alive, with so many devices of a kind (`cpu`, `cuda`), counted by product.

    `memory` is bytes in use and in all by the device's name in CUDA. A worker that runs jobs together with others has a
    `gang_address`, and the digest of its `code`.
    """
    with db.write() as session:
        at = now(session)
        used = {name: list(sizes) for name, sizes in (memory or {}).items()}
        row = Worker(id=worker, devices=devices, kind=kind, products=dict(products or {}), memory=used, seen_at=at)
        row.gang_address, row.code = gang_address, code
        session.merge(row)
        session.execute(delete(Worker).where(Worker.seen_at < at - FORGOTTEN))


def remove(db: Database, worker: str) -> None:
    """Records that this worker has stopped."""
    with db.write() as session:
        session.execute(delete(Worker).where(Worker.id == worker))


def lacking(session: Session, jobs: Sequence[Job], *, at: datetime) -> dict[str, str]:
    """What no worker alive has, for those of the waiting jobs that need it; by id, in one query."""
    present = select(Worker.devices, Worker.products).where(Worker.seen_at > at - PRESENT)
    alive = [(devices, dict(products)) for devices, products in session.execute(present)]

    needs = {(job.device, job.devices): _lacking(job.device, job.devices, alive) for job in jobs}
    reasons = ((job.id, needs[job.device, job.devices]) for job in jobs)
    return {job_id: reason for job_id, reason in reasons if reason is not None}


def _lacking(device: str | None, devices: int, alive: Sequence[tuple[int, dict[str, int]]]) -> str | None:
    """Why no worker alive can run a job with so many devices of this kind; None where one can."""
    needed = _needed(device, devices)
    if not alive:
        return f"{needed}: no worker is alive now; start one with `permafrost worker`"

    sizes = [most if device is None else most_of(device, most, products) for most, products in alive]
    if max(sizes) >= devices:
        return None
    if device is not None and not max(sizes):
        return f"{needed}: the workers alive have {_listed(products for _, products in alive)}"
    others = "the only worker alive has" if len(alive) == 1 else f"the largest of {len(alive)} workers has"
    return f"{needed}: {others} {max(sizes)}"


def most_of(device: str, most: int, products: Mapping[str, int]) -> int:
    """How many devices of a kind one job can have of a worker with these products."""
    return max((min(most, count) for product, count in products.items() if matches(device, product)), default=0)


def _needed(device: str | None, devices: int) -> str:
    if devices == 1:
        return "a worker" if device is None else f"a worker with a device {device}"
    return f"a worker with {devices} devices" if device is None else f"a worker with {devices} devices {device}"


def _listed(workers: Iterable[Mapping[str, int]]) -> str:
    return ", ".join(sorted({product for products in workers for product in products})) or "none"
