"""Which workers form a gang, and which keep devices for one."""

import pytest

from app.jobs.queue.gangs import Gang, GangHost, Need, form, keep, lacking
from app.jobs.queue.offers import CPU, Offer
from app.jobs.queue.reservations import Running

TWO = Need(machines=2, devices=2)


def host(
    name: str, *running: tuple[int, float | None], devices: int = 2, code: str = "c", product: str = CPU
) -> GangHost:
    return GangHost(name, code, devices, {product: devices}, [Running(*job) for job in running])


def formed(hosts: list[GangHost], need: Need = TWO, *, free: int = 2, held: tuple[str, ...] = ()) -> Gang | None:
    return form(hosts, need, leader="a", offer=Offer({CPU: 2}, {CPU: free}), held=held)


def test_a_gang_forms_when_as_many_workers_have_room() -> None:
    """The one that claims leads; of the others, those with least room are taken, so that large ones stay whole."""
    assert formed([host("a"), host("b", devices=4), host("c")]) == Gang(("a", "c"), 2, CPU)
    assert formed([host("a"), host("b"), host("c"), host("d")], Need(3, 2)) == Gang(("a", "b", "c"), 2, CPU)


@pytest.mark.parametrize(
    "hosts",
    [
        [host("a")],
        [host("a"), host("b", (1, 5.0))],
        [host("a"), host("b", code="other")],
        [host("a"), host("b", product="H100")],
        [host("a"), host("b", devices=1)],
        [host("b"), host("c")],
    ],
    ids=["alone", "in use", "another version", "another product", "too small", "the leader is no such worker"],
)
def test_no_gang_forms(hosts: list[GangHost]) -> None:
    """With fewer workers than the job needs that are free and alike."""
    assert formed(hosts) is None


def test_what_is_kept_for_another_job_is_left_alone() -> None:
    """Neither the leader without room, nor a worker that keeps its devices."""
    assert formed([host("a"), host("b")], free=1) is None
    assert formed([host("a"), host("b")], held=("b",)) is None
    assert formed([host("a"), host("b"), host("c")], held=("b",)) == Gang(("a", "c"), 2, CPU)


def test_the_workers_that_have_room_first_keep_it() -> None:
    """As many as the job needs, each until the last of them has room; what ends before that may run meanwhile."""
    kept = keep([host("a"), host("b", (2, 50.0)), host("c", (2, 90.0)), host("d", (2, None))], TWO)
    assert [(each.machine.name, each.starts_in) for each in kept] == [("a", 50.0), ("b", 50.0)]
    assert kept[0].admits(1, 50.0) and not kept[0].admits(1, 51.0)
    unknown = keep([host("a"), host("b", (2, None))], TWO)
    assert [each.machine.name for each in unknown] == ["a", "b"] and not unknown[0].admits(1, 1.0)


@pytest.mark.parametrize(
    "hosts", [[host("a"), host("b"), host("c", (2, 5.0))], [host("a"), host("b", code="other")], []]
)
def test_nothing_is_kept(hosts: list[GangHost]) -> None:
    """Where enough have room now, and where no gang could ever form."""
    assert keep(hosts, TWO) == []


@pytest.mark.parametrize(
    ("hosts", "says"),
    [
        ([], "of the workers alive, none can"),
        ([host("a", (2, None))], "of the workers alive, 1 can"),
        ([host("a"), host("b", code="other")], "2 are alive, of several versions or on several products, and only 1"),
    ],
)
def test_what_is_lacking(hosts: list[GangHost], says: str) -> None:
    """What a waiting job says: how many workers it needs, and why those alive do not do."""
    reason = lacking(hosts, TWO)
    assert reason and reason.startswith("2 workers with 2 devices each that form a gang") and says in reason
    assert lacking([host("a"), host("b", (2, None))], TWO) is None
