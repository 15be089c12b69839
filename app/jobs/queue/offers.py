"""What a worker offers to jobs: how many devices of each product, and how many of them are free."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final

from sqlalchemy import ColumnElement, and_, func, literal, or_

from app.jobs.queue.tables import Job

#: The product of a slot on the CPU.
CPU: Final = "cpu"


def matches(requested: str | None, product: str) -> bool:
    """Whether a product is what a job requested: a part of its name, in any case. None is any product."""
    return requested is None or requested.lower() in product.lower()


#: The devices by product, the partitions among them, and whether it is a worker for gangs.
OfferKey = tuple[tuple[tuple[str, int], ...], frozenset[str], bool]


@dataclass(frozen=True, slots=True)
class Offer:
    """Devices of a worker by product. `partitions` are products of MIG instances, of which a job has one at most."""

    devices: Mapping[str, int] = field(default_factory=lambda: {CPU: 1})
    free_devices: Mapping[str, int] = field(default_factory=lambda: {CPU: 1})
    partitions: frozenset[str] = frozenset()
    gangs: bool = False  # whether it runs jobs together with other workers

    def most(self, requested: str | None) -> int:
        """The largest number of devices that one job can have, all of one product."""
        return self._largest(self.devices, requested)

    def free(self, requested: str | None, *, devices: int) -> bool:
        """Whether so many devices are free for one job now."""
        return self.most_free(requested) >= devices

    def most_free(self, requested: str | None) -> int:
        """How many devices one job could have now, all of one product."""
        return self._largest(self.free_devices, requested)

    @property
    def now(self) -> "Offer":
        """What is free, as if it were all that the worker has."""
        return Offer(self.free_devices, self.free_devices, self.partitions, self.gangs)

    @property
    def key(self) -> "OfferKey":
        """What `condition` depends on, for caches."""
        return tuple(sorted(self.devices.items())), self.partitions, self.gangs

    def condition(self) -> ColumnElement[bool]:
        """Which jobs this worker could run once all its devices are free, as a condition of a query."""
        anywhere = and_(Job.device.is_(None), Job.devices <= self._for_all_machines(self.most(None)))
        fits = or_(anywhere, *[self._named(product) for product in self.devices])
        return fits if self.gangs else and_(fits, Job.machines == 1)

    def _named(self, product: str) -> ColumnElement[bool]:
        named = literal(product.lower()).contains(func.lower(Job.device))
        return and_(named, Job.devices <= self._for_all_machines(self._together(product, self.devices[product])))

    def _for_all_machines(self, most: int) -> ColumnElement[int]:
        """The devices of a job of which each machine has so many at most."""
        return literal(most) * Job.machines if self.gangs else literal(most)

    def _largest(self, devices: Mapping[str, int], requested: str | None) -> int:
        fitting = ((product, count) for product, count in devices.items() if matches(requested, product))
        return max((self._together(product, count) for product, count in fitting), default=0)

    def _together(self, product: str, count: int) -> int:
        return min(count, 1) if product in self.partitions else count
