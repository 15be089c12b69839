"""Requests that arrive at the same moment share one read of the database.

The read begins after all requests that it answers, so no answer is older than its request.
"""

import asyncio
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final, Generic, TypeVar

from fastapi.concurrency import run_in_threadpool

A = TypeVar("A")

#: Reads under way at once for one group: when one is stuck on a stalled connection, the other goes on.
AT_ONCE: Final = 2
#: Keys in one read, so that a request does not wait for very many others.
MOST: Final = 500


@dataclass(slots=True)
class _Group(Generic[A]):
    waiting: dict[str, list[asyncio.Future[A | None]]] = field(default_factory=dict)
    reads: int = 0


class SingleFlight(Generic[A]):
    """Answers requests by `read(group, keys)`, which runs in a thread; groups neither wait nor fail for each other."""

    def __init__(self, read: Callable[[str, Sequence[str]], Mapping[str, A]]) -> None:
        self._read = read
        self._groups: dict[str, _Group[A]] = {}
        self._tasks: set[asyncio.Task[None]] = set()  # the event loop keeps only weak references

    async def ask(self, group: str, key: str) -> A | None:
        """What a read finds under the key; None if nothing. Raises what the read raises."""
        answer: asyncio.Future[A | None] = asyncio.get_running_loop().create_future()
        state = self._groups.setdefault(group, _Group())
        first = not state.waiting
        state.waiting.setdefault(key, []).append(answer)

        # Otherwise a read is about to begin, or will begin when one under way has ended.
        if first and state.reads < AT_ONCE:
            state.reads += 1
            task = asyncio.create_task(self._serve(group, state))
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)
        return await answer

    async def _serve(self, group: str, state: _Group[A]) -> None:
        try:
            while state.waiting:
                batch = {key: state.waiting.pop(key) for key in list(state.waiting)[:MOST]}
                await self._answer(group, batch)
        finally:
            state.reads -= 1
            if state.reads == 0:
                del self._groups[group]

    async def _answer(self, group: str, batch: Mapping[str, list[asyncio.Future[A | None]]]) -> None:
        results: Mapping[str, A] = {}
        problem = None
        try:
            results = await run_in_threadpool(self._read, group, list(batch))
        except Exception as error:  # noqa: BLE001 - every waiter gets it
            problem = error

        for key, answers in batch.items():
            for answer in answers:
                if answer.done():  # the request was cancelled
                    continue
                if problem is None:
                    answer.set_result(results.get(key))
                else:
                    answer.set_exception(problem)
