"""Reservations of large jobs and backfill behind them."""

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.jobs.queue.reservations import Machine, Reservation, Running, reserve


def machine(name: str, free: int, *running: tuple[int, float | None], capacity: int = 4) -> Machine:
    return Machine(name, capacity, free, [Running(*job) for job in running])


@pytest.mark.parametrize(
    ("machines", "reserved"),
    [
        ([machine("a", 0, (4, 50.0)), machine("b", 2, (2, 90.0))], "a"),
        ([machine("a", 0, (4, None)), machine("b", 2, (2, 90.0))], "b"),
        ([machine("a", 1, (3, None)), machine("b", 2, (2, None))], "b"),
        ([machine("b", 2, (2, None)), machine("a", 2, (2, None))], "a"),
        ([machine("a", 0, (4, 50.0)), machine("b", 4)], None),
        ([machine("a", 1, (1, 5.0), capacity=2)], None),
        ([], None),
    ],
    ids=["first to have room", "unknown comes last", "most free", "by name", "free elsewhere", "too small", "none"],
)
def test_the_machine_that_has_room_first(machines: list[Machine], reserved: str | None) -> None:
    """Of those that are large enough, and only where no machine has the devices free."""
    found = reserve(machines, 4)
    assert (found.machine.name if found else None) == reserved


def test_what_is_admitted() -> None:
    """What ends before the large job starts, and what leaves it enough devices even then."""
    kept = Reservation(machine("a", 2, (4, 60.0), (2, 500.0), capacity=8), 4)
    assert kept.starts_in == 60.0
    assert kept.admits(2, 60.0) and not kept.admits(3, 61.0) and not kept.admits(3, None)
    assert kept.admits(2, None)  # six are free in a minute
    assert not Reservation(machine("a", 2, (2, None)), 4).admits(1, 0.0)


@given(
    running=st.lists(st.tuples(st.integers(1, 3), st.floats(1.0, 100.0)), max_size=5),
    small=st.lists(st.tuples(st.integers(1, 4), st.floats(1.0, 200.0)), max_size=8),
    spare=st.integers(0, 4),
    devices=st.integers(2, 8),
)
def test_backfill_delays_the_large_job_by_nothing(
    running: list[tuple[int, float]], small: list[tuple[int, float]], spare: int, devices: int
) -> None:
    """Where estimates are true, however many small jobs are admitted one after the other."""
    busy = sum(used for used, _ in running)
    here = machine("a", spare, *running, capacity=max(busy + spare, devices))
    here = replace(here, free=here.capacity - busy)
    kept = reserve([here], devices)
    if kept is None:
        return
    promised = kept.starts_in
    assert promised is not None
    for used, seconds in small:
        if used <= here.free and Reservation(here, devices).admits(used, seconds):
            here = replace(here, free=here.free - used, running=[*here.running, Running(used, seconds)])
        assert Reservation(here, devices).starts_in == promised
