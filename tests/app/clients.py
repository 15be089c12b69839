"""The official SDK's asynchronous client behind the face of the synchronous one: a test says a thing once for both."""

import asyncio
import inspect
from collections.abc import Iterator
from typing import Any

from openai import AsyncOpenAI, AsyncStream
from openai._base_client import AsyncPaginator
from openai._resource import AsyncAPIResource


class Blocking:
    """Calls what an `AsyncOpenAI` (or one of its resources) has, and waits. Lists and streams are iterated plainly."""

    def __init__(self, target: Any, loop: asyncio.AbstractEventLoop) -> None:
        object.__setattr__(self, "_target", target)
        object.__setattr__(self, "_loop", loop)

    def __getattr__(self, name: str) -> Any:
        found = getattr(self._target, name)
        if isinstance(found, AsyncAPIResource) or name.startswith("with_r"):
            return Blocking(found, self._loop)
        if not callable(found):
            return found

        def call(*arguments: Any, **options: Any) -> Any:
            if options.get("stream_cls") is not None:
                options["stream_cls"] = AsyncStream[options["stream_cls"].__args__[0]]  # type: ignore[misc]
            return self._resolved(found(*arguments, **options))

        return call

    def __setattr__(self, name: str, value: Any) -> None:
        setattr(self._target, name, value)

    def _resolved(self, found: Any) -> Any:
        if isinstance(found, AsyncPaginator):
            return _Pages(self._loop.run_until_complete(_wait(found)), self._loop)
        if inspect.isawaitable(found):
            found = self._loop.run_until_complete(_wait(found))
        if isinstance(found, AsyncOpenAI):
            return Blocking(found, self._loop)
        return _Items(found, self._loop) if isinstance(found, AsyncStream) else found


class _Items:
    def __init__(self, source: Any, loop: asyncio.AbstractEventLoop) -> None:
        self._source, self._loop = source, loop

    def __iter__(self) -> Iterator[Any]:
        return self

    def __next__(self) -> Any:
        try:
            return self._loop.run_until_complete(_wait(self._source.__anext__()))
        except StopAsyncIteration:
            raise StopIteration from None


class _Pages:
    """The first page of a list, and when iterated the others behind it."""

    def __init__(self, page: Any, loop: asyncio.AbstractEventLoop) -> None:
        self._page, self._loop = page, loop

    def __iter__(self) -> Iterator[Any]:
        return iter(self._loop.run_until_complete(self._all()))

    def __getattr__(self, name: str) -> Any:
        return getattr(self._page, name)

    async def _all(self) -> list[Any]:
        return [each async for each in self._page]


async def _wait(found: Any) -> Any:
    return await found
