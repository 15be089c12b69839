"""Fair sharing as pure functions, and as a simulation over made-up loads."""

import heapq
import itertools
from collections import Counter
from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from app.jobs.queue.fair_share import EQUAL, HALF_LIFE, PAST, Contender, ProjectShares, Usage, queue_time

START = datetime(2026, 1, 1, tzinfo=UTC)


def moment(seconds: float) -> datetime:
    return START + timedelta(seconds=seconds)


def test_usage_fades_and_grows_with_the_half_life() -> None:
    """Towards what runs; a clock that went back changes nothing."""
    assert Usage(4, 0.0).later(HALF_LIFE).smoothed == pytest.approx(2.0)
    assert Usage(0, 8.0).later(2 * HALF_LIFE).smoothed == pytest.approx(2.0)
    assert Usage(3, 3.0).later(12_345.0).smoothed == pytest.approx(3.0)
    assert Usage(3, 1.0).later(-60.0) == Usage(3, 1.0)


def test_no_credit_beyond_the_half_life() -> None:
    """A project that was idle for a year goes before a busy one no longer than one that was idle for some days."""
    busy, days, year = Usage(10, 10.0), Usage(0, 10.0).later(7 * HALF_LIFE), Usage(0, 10.0).later(365 * HALF_LIFE)
    assert days.devices - year.devices < 0.01 * busy.devices


def test_priority_is_worth_waiting_time() -> None:
    """An hour a point: a job that is three hours older goes before one with two points more, and after four."""
    older = queue_time(moment(0), 0)
    assert older < queue_time(moment(3 * 3600), 2) and older > queue_time(moment(3 * 3600), 4)
    assert queue_time(moment(60), 5, aging=0) == moment(60)


def test_equal_levels_go_by_age_then_by_name() -> None:
    """Nothing is left to chance, so two workers agree."""
    old, new, same = (
        Contender("b", Usage(), moment(0)),
        Contender("a", Usage(), moment(1)),
        Contender("a", Usage(), moment(0)),
    )
    assert EQUAL.in_order([new, old]) == [old, new]
    assert EQUAL.in_order([old, same]) == [same, old]


@given(
    queues=st.lists(
        st.tuples(st.integers(0, 6), st.integers(0, 4), st.sampled_from([0.5, 1.0, 2.0, 3.0])), min_size=2, max_size=4
    )
)
def test_positions_are_the_order_of_starts(queues: list[tuple[int, int, float]]) -> None:
    """The closed form says what playing the queue says: one job after the other, and nothing ends."""
    names = [f"p{number}" for number in range(len(queues))]
    shares = ProjectShares({name: weight for name, (_, _, weight) in zip(names, queues, strict=True)})
    waiting = {name: count for name, (count, _, _) in zip(names, queues, strict=True)}
    usage = {name: Usage(running, running / 2) for name, (_, running, _) in zip(names, queues, strict=True)}
    contenders = {name: Contender(name, usage[name], moment(number)) for number, name in enumerate(names)}

    starts: list[tuple[str, int]] = []
    for _ in range(sum(waiting.values())):
        left = {name: count - Counter(project for project, _ in starts)[name] for name, count in waiting.items()}
        at = {name: waiting[name] - count for name, count in left.items()}
        levels = [
            (round(shares.level(name, usage[name], started=at[name]), 9), contenders[name].since, name)
            for name in names
            if left[name]
        ]
        project = min(levels)[2]
        starts.append((project, at[project]))

    for place, (project, index) in enumerate(starts):
        others = (name for name in names if name != project)
        ahead = sum(min(waiting[name], shares.ahead(contenders[project], index, contenders[name])) for name in others)
        assert index + ahead == place


# ---- simulation


class Fleet:
    """Devices and projects that always have jobs; what ran is added up by project."""

    def __init__(self, devices: int, weights: dict[str, float], seconds: dict[str, float]) -> None:
        self.shares = ProjectShares(weights)
        self.seconds = seconds
        self.free = devices
        self.now = 0.0
        self.usage = {name: Usage() for name in weights}
        self.changed = dict.fromkeys(weights, 0.0)
        self.used = dict.fromkeys(weights, 0.0)
        self.starts: dict[str, list[float]] = {name: [] for name in weights}
        self._ends: list[tuple[float, int, str]] = []
        self._numbers = itertools.count()

    def run(self, until: float) -> None:
        while self.now < until:
            while self.free:
                self._start()
            self.now, _, project = heapq.heappop(self._ends)
            self._change(project, -1)
            self.free += 1

    def share(self, project: str) -> float:
        for name in self.usage:
            self._change(name, 0)  # what runs counts as far as it got
        return self.used[project] / sum(self.used.values())

    def _start(self) -> None:
        fresh = {name: self._fresh(name) for name in self.usage}
        chosen = self.shares.in_order(Contender(name, fresh[name], START) for name in fresh)[0].project
        self._change(chosen, 1)
        self.starts[chosen].append(self.now)
        self.free -= 1
        heapq.heappush(self._ends, (self.now + self.seconds[chosen], next(self._numbers), chosen))

    def _fresh(self, name: str) -> Usage:
        return self.usage[name].later(self.now - self.changed[name])

    def _change(self, name: str, devices: int) -> None:
        fresh = self._fresh(name)
        self.used[name] += fresh.running * (self.now - self.changed[name])
        self.usage[name], self.changed[name] = Usage(fresh.running + devices, fresh.smoothed), self.now


@pytest.mark.parametrize("devices", [1, 2, 8, 500])
@pytest.mark.parametrize("seconds", [(600.0, 600.0, 600.0), (300.0, 1800.0, 900.0)], ids=["equal", "unequal"])
def test_backlogged_projects_get_shares_by_weight(devices: int, seconds: tuple[float, ...]) -> None:
    """Within 5 % of the weights on one device as on 500, however long the jobs of each project are."""
    weights = {"a": 3.0, "b": 2.0, "c": 1.0}
    fleet = Fleet(devices, weights, dict(zip(weights, seconds, strict=True)))
    fleet.run(4 * 86_400.0 if devices < 500 else 2 * 3_600.0)
    for project, weight in weights.items():
        assert fleet.share(project) == pytest.approx(weight / 6.0, rel=0.05)


@settings(max_examples=10)
@given(
    devices=st.integers(1, 12),
    weights=st.lists(st.floats(0.5, 8.0), min_size=2, max_size=5),
    seconds=st.lists(st.floats(60.0, 1800.0), min_size=5, max_size=5),
)
def test_nobody_starves(devices: int, weights: list[float], seconds: list[float]) -> None:
    """Every project starts jobs again and again, none waits longer than the turns of all others take.

    By its weight a project is due after `total / weight` turns; twice that, of the longest jobs, is never passed.
    """
    names = [f"p{number}" for number in range(len(weights))]
    fleet = Fleet(devices, dict(zip(names, weights, strict=True)), dict(zip(names, seconds, strict=False)))
    longest = max(fleet.seconds[name] for name in names)
    fleet.run(100 * longest)
    for name, weight in zip(names, weights, strict=True):
        due = longest * (2.0 + 2.0 * sum(weights) / weight / devices * longest / fleet.seconds[name])
        gaps = [later - earlier for earlier, later in itertools.pairwise([0.0, *fleet.starts[name], fleet.now])]
        assert max(gaps) <= max(due, longest * 2.0 * (PAST + 1.0)), (name, max(gaps), due)


def test_a_project_that_comes_late_catches_up_and_no_more() -> None:
    """It takes what comes free until its past equals the others', and then its share."""
    fleet = Fleet(8, {"early": 1.0, "late": 1.0}, {"early": 600.0, "late": 600.0})
    late = fleet.usage.pop("late")
    fleet.run(86_400.0)
    fleet.usage["late"], fleet.changed["late"] = late, fleet.now
    before = dict(fleet.used)
    fleet.run(6 * 86_400.0)
    since = {name: seconds - before[name] for name, seconds in fleet.used.items()}
    assert 0.5 < since["late"] / sum(since.values()) < 0.6
    assert fleet.now - fleet.starts["early"][-1] < 3_600.0
