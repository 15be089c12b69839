"""Which workers run a job on several machines together, and which keep devices for it: pure functions.

All members of a gang get their places in one transaction or none does, so nothing is held by half a gang. While too
few workers have room, as many of them as the job needs keep devices for it, as one worker does for a large job: it is
computed from the rows at each claim and never stored. Members run the same code, on devices of the same product.
"""

import math
from collections import defaultdict
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass

from app.jobs.queue.offers import Offer, matches
from app.jobs.queue.reservations import Machine, Reservation, Running


@dataclass(frozen=True, slots=True)
class Need:
    """What a job on several machines needs: so many devices on each, of a product that the request names in part."""

    machines: int
    devices: int
    device: str | None = None


@dataclass(frozen=True, slots=True)
class GangHost:
    """A worker alive that runs jobs together with others: its code, its devices by product, and what runs on them."""

    name: str
    code: str
    most: int  # devices that one job can have of it
    products: Mapping[str, int]
    running: Sequence[Running] = ()

    def machine(self, product: str) -> Machine:
        """The host as a job on this product sees it. Rows do not say on which product a job runs: on any."""
        capacity = min(self.most, self.products.get(product, 0))
        busy = sum(job.devices for job in self.running)
        return Machine(self.name, capacity, max(0, capacity - busy), self.running)


@dataclass(frozen=True, slots=True)
class Gang:
    """The workers that take a job together, its leader first, and the product on which they run it."""

    workers: tuple[str, ...]
    devices: int
    product: str


def form(
    hosts: Iterable[GangHost], need: Need, *, leader: str, offer: Offer, held: Collection[str] = ()
) -> Gang | None:
    """A gang led by the worker that offers devices; None while too few workers have room.

    `held` are workers that keep devices for a job that goes first. Of the others, those with least room are taken.
    """
    found = list(hosts)
    own = next((host for host in found if host.name == leader), None)
    if own is None:
        return None
    for product, free in sorted(offer.free_devices.items()):
        if free < need.devices or not matches(need.device, product):
            continue
        group = groups(found, need).get((own.code, product), [])
        others = [each for each in group if each.name not in (leader, *held) and each.free >= need.devices]
        if len(others) >= need.machines - 1:
            others.sort(key=lambda each: (each.free, each.name))
            names = (leader, *(each.name for each in others[: need.machines - 1]))
            return Gang(names, need.devices, product)
    return None


def keep(hosts: Iterable[GangHost], need: Need) -> list[Reservation]:
    """The reservations of a job, one for each machine; none where enough have room now, or never will.

    Of the groups of equal workers, the one that has room first; where nobody knows, the one with most free devices.
    """
    large = [_first(group, need) for group in groups(hosts, need).values() if len(group) >= need.machines]
    if not large or any(all(each.free >= need.devices for each in chosen) for chosen in large):
        return []
    chosen = min(large, key=lambda group: [_order(each, need) for each in reversed(group)])
    return [Reservation(each, need.devices, tuple(chosen)) for each in chosen]


def groups(hosts: Iterable[GangHost], need: Need) -> dict[tuple[str, str], list[Machine]]:
    """Machines that could be in one gang once they have room, by code and product."""
    found: defaultdict[tuple[str, str], list[Machine]] = defaultdict(list)
    for host in hosts:
        for product in host.products:
            machine = host.machine(product)
            if matches(need.device, product) and machine.capacity >= need.devices:
                found[host.code, product].append(machine)
    return dict(found)


def lacking(hosts: Sequence[GangHost], need: Need) -> str | None:
    """Why no gang can form for the job, whatever becomes free; None where one can."""
    largest = max((len(group) for group in groups(hosts, need).values()), default=0)
    if largest >= need.machines:
        return None
    devices = "a device" if need.devices == 1 else f"{need.devices} devices"
    kind = f" {need.device}" if need.device else ""
    needed = f"{need.machines} workers with {devices}{kind} each that form a gang (PERMAFROST_GANG_ADDRESS)"
    able = {machine.name for group in groups(hosts, need).values() for machine in group}
    if len(able) >= need.machines:
        return f"{needed}: {len(able)} are alive, of several versions or on several products, and only {largest} alike"
    return f"{needed}: of the workers alive, {len(able) or 'none'} can"


def _first(group: Sequence[Machine], need: Need) -> list[Machine]:
    """The machines of a group that have room first."""
    return sorted(group, key=lambda each: _order(each, need))[: need.machines]


def _order(machine: Machine, need: Need) -> tuple[float, int, str]:
    start = machine.room_in(need.devices)
    return math.inf if start is None else start, -machine.free, machine.name
