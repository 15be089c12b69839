"""Which jobs a worker may take: by the number of devices and by their product."""

import pytest

from app.db import Database
from app.jobs.queue import lifecycle
from app.jobs.queue.offers import Offer, matches
from tests.app.jobs.jobs import new_job

MIXED = {"NVIDIA A10": 2, "NVIDIA H100 PCIe": 4}


@pytest.mark.parametrize(
    ("requested", "fits"), [(None, True), ("h100", True), ("NVIDIA H100 PCIe", True), ("A10", False)]
)
def test_a_request_is_a_part_of_the_products_name(requested: str | None, fits: bool) -> None:
    """In any case, as people write it."""
    assert matches(requested, "NVIDIA H100 PCIe") == fits


def claimed(db: Database, offer: Offer) -> str | None:
    lease = lifecycle.claim(db, worker="w", seconds=60, offer=offer)
    return lease.job_id if lease else None


@pytest.mark.parametrize(
    ("device", "devices", "fits"),
    [(None, 4, True), (None, 5, False), ("H100", 4, True), ("a10", 2, True), ("A10", 3, False), ("B200", 1, False)],
)
def test_a_worker_takes_what_it_can_run(db: Database, device: str | None, devices: int, fits: bool) -> None:
    """A group is of one product; a job that no worker can run waits, and those behind it go on."""
    job, _ = lifecycle.submit(db, new_job(device=device, devices=devices))
    small, _ = lifecycle.submit(db, new_job())
    assert claimed(db, Offer(MIXED, MIXED)) == (job.id if fits else small.id)


def test_a_job_keeps_its_position_while_its_kind_is_in_use(db: Database) -> None:
    """Those behind it do not take what it waits for; a free device of another kind is not what it requested."""
    job, _ = lifecycle.submit(db, new_job(device="H100", devices=2))
    lifecycle.submit(db, new_job())
    assert claimed(db, Offer(MIXED, {"NVIDIA A10": 2, "NVIDIA H100 PCIe": 1})) is None
    assert claimed(db, Offer(MIXED, MIXED)) == job.id


def test_mig_instances_are_taken_one_at_a_time(db: Database) -> None:
    """Two of them are not two devices of one job."""
    lifecycle.submit(db, new_job(devices=2))
    small, _ = lifecycle.submit(db, new_job(device="1g"))
    parts = {"H100 MIG 1g.10gb": 7}
    assert claimed(db, Offer(parts, parts, frozenset(parts))) == small.id
