"""Questions that share reads: which ones may, and that they wait for nobody else."""

import asyncio
import threading
from collections.abc import Callable, Coroutine, Sequence
from typing import Any

import pytest

from app.jobs.live.single_flight import AT_ONCE, MOST, SingleFlight

PATIENCE = 60


class Reads:
    """A read that looks at `value`, stops at a gate where its group has one, and notes what it was asked."""

    def __init__(self) -> None:
        self.value = 0
        self.asked: list[tuple[str, list[str]]] = []
        self.problem: Exception | None = None
        self._gates: dict[str, list[threading.Event]] = {}
        self._made: list[threading.Event] = []

    def __call__(self, group: str, keys: Sequence[str]) -> dict[str, str]:
        seen = self.value
        gates = self._gates.get(group)
        gate = gates.pop() if gates else None
        self.asked.append((group, list(keys)))
        if gate is not None:
            assert gate.wait(PATIENCE)
        if self.problem is not None:
            raise self.problem
        return {key: f"{key}={seen}" for key in keys if key != "nothing"}

    def gate(self, group: str, count: int = 1) -> threading.Event:
        """Where the next `count` reads of the group stop until it is set."""
        gate = threading.Event()
        self._made.append(gate)
        self._gates.setdefault(group, []).extend([gate] * count)
        return gate

    def release(self) -> None:
        for gate in self._made:
            gate.set()


def run(story: Callable[[SingleFlight[str], Reads], Coroutine[Any, Any, None]]) -> None:
    async def bounded() -> None:
        async with asyncio.timeout(PATIENCE):
            await story(SingleFlight(reads), reads)

    reads = Reads()
    try:
        asyncio.run(bounded())
    finally:
        reads.release()


async def until(condition: Callable[[], bool]) -> None:
    while not condition():
        await asyncio.sleep(0.001)


def test_who_asks_at_once_shares_one_read() -> None:
    """Fifty questions about two keys: one read of both; a key that is not there is None."""

    async def story(together: SingleFlight[str], reads: Reads) -> None:
        keys = ["a", "nothing"] * 25
        answers = await asyncio.gather(*(together.ask("g", key) for key in keys))
        assert answers == ["a=0", None] * 25
        assert [(group, sorted(keys)) for group, keys in reads.asked] == [("g", ["a", "nothing"])]

    run(story)


def test_no_answer_is_older_than_its_question() -> None:
    """Who asks while a read is under way that has looked already gets what a later read finds."""

    async def story(together: SingleFlight[str], reads: Reads) -> None:
        gate = reads.gate("g", AT_ONCE)
        early = []
        for number in range(AT_ONCE):
            early.append(asyncio.create_task(together.ask("g", "a")))
            await until(lambda number=number: len(reads.asked) > number)  # type: ignore[misc]
        reads.value = 1
        late = [asyncio.create_task(together.ask("g", "a")) for _ in range(20)]
        await asyncio.sleep(0.05)
        assert len(reads.asked) == AT_ONCE  # those who come late wait for a read that is yet to begin
        gate.set()
        assert await asyncio.gather(*early) == ["a=0"] * AT_ONCE
        assert await asyncio.gather(*late) == ["a=1"] * 20
        assert len(reads.asked) <= 2 * AT_ONCE

    run(story)


def test_a_read_that_stalls_holds_up_its_own_questions_alone() -> None:
    """Another read of the same group, and every other group, goes on meanwhile."""

    async def story(together: SingleFlight[str], reads: Reads) -> None:
        gate = reads.gate("g")
        stalled = asyncio.create_task(together.ask("g", "a"))
        await until(lambda: len(reads.asked) == 1)
        for number in range(5):
            assert await together.ask("g", f"b{number}") == f"b{number}=0"
            assert await together.ask("other", "c") == "c=0"
        assert not stalled.done()
        gate.set()
        assert await stalled == "a=0"

    run(story)


def test_a_failure_is_told_to_who_asked_and_to_nobody_later() -> None:
    """Everyone of that read gets the error; the next question is asked anew."""

    async def story(together: SingleFlight[str], reads: Reads) -> None:
        reads.problem = OSError("away")
        answers = await asyncio.gather(*(together.ask("g", "a") for _ in range(3)), return_exceptions=True)
        assert [str(each) for each in answers] == ["away"] * 3
        reads.problem = None
        assert await together.ask("g", "a") == "a=0"

    run(story)


def test_who_gives_up_takes_nobody_along() -> None:
    """Of two who share a read one is cancelled; the other gets the answer."""

    async def story(together: SingleFlight[str], reads: Reads) -> None:
        gate = reads.gate("g")
        leaves, stays = (asyncio.create_task(together.ask("g", "a")) for _ in range(2))
        await until(lambda: len(reads.asked) == 1)
        leaves.cancel()
        with pytest.raises(asyncio.CancelledError):
            await leaves
        gate.set()
        assert await stays == "a=0"

    run(story)


def test_a_read_has_a_largest_size_and_nothing_is_kept() -> None:
    """Very many keys are several reads; afterwards no group is left in memory."""

    async def story(together: SingleFlight[str], reads: Reads) -> None:
        keys = [str(number) for number in range(2 * MOST + 1)]
        answers = await asyncio.gather(*(together.ask("g", key) for key in keys))
        assert answers == [f"{key}=0" for key in keys]
        assert sorted(len(keys) for _, keys in reads.asked) == [1, MOST, MOST]
        assert together._groups == {}

    run(story)
