"""Questions asked at the same moment share one read, which begins after all of them: no answer is older than its
question, and the more ask, the less each costs.
"""

import asyncio
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final, Generic, TypeVar

from fastapi.concurrency import run_in_threadpool

A = TypeVar("A")

#: Reads under way for one group. Where the first meets a connection that stalls, the second goes on.
AT_ONCE: Final = 2
#: Keys in one read, so that nobody waits for the answers of very many others.
MOST: Final = 500


@dataclass(slots=True)
class _Group(Generic[A]):
    asked: dict[str, list[asyncio.Future[A | None]]] = field(default_factory=dict)
    reads: int = 0


class SingleFlight(Generic[A]):
    """Answers from `read(group, keys)`, which runs in a thread. A group neither waits nor fails for another one."""

    def __init__(self, read: Callable[[str, Sequence[str]], Mapping[str, A]]) -> None:
        self._read = read
        self._groups: dict[str, _Group[A]] = {}
        self._tasks: set[asyncio.Task[None]] = set()  # the event loop itself keeps none alive

    async def ask(self, group: str, key: str) -> A | None:
        """What a read finds under the key. Raises what it raises."""
        answer: asyncio.Future[A | None] = asyncio.get_running_loop().create_future()
        here = self._groups.setdefault(group, _Group())
        first = not here.asked
        here.asked.setdefault(key, []).append(answer)
        if first and here.reads < AT_ONCE:  # else one is about to begin, or will when one under way has ended
            here.reads += 1
            task = asyncio.create_task(self._answer(group, here))
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)
        return await answer

    async def _answer(self, group: str, here: _Group[A]) -> None:
        try:
            while here.asked:
                asked = {key: here.asked.pop(key) for key in list(here.asked)[:MOST]}
                await self._answer_these(group, asked)
        finally:
            here.reads -= 1
            if here.reads == 0:
                del self._groups[group]

    async def _answer_these(self, group: str, asked: Mapping[str, list[asyncio.Future[A | None]]]) -> None:
        found: Mapping[str, A] = {}
        problem = None
        try:
            found = await run_in_threadpool(self._read, group, list(asked))
        except Exception as error:
            problem = error
        for key, answers in asked.items():
            for answer in answers:
                if answer.done():  # whoever asked has gone
                    continue
                if problem is None:
                    answer.set_result(found.get(key))
                else:
                    answer.set_exception(problem)
