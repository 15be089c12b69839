"""SIGTERM means: finish this optimizer step, write a checkpoint, leave. The handler only takes a note of it."""

from __future__ import annotations

import signal
from types import FrameType, TracebackType
from typing import Any, Self


class Stopped(Exception):
    """Training ended early because it was asked to; `step` is the last finished one."""

    def __init__(self, step: int) -> None:
        super().__init__(f"stopped after step {step}")
        self.step = step


class StopRequest:
    """Whether somebody asked. A context manager: the old handler comes back at the end."""

    def __init__(self) -> None:
        self.asked = False
        self._before: Any = None

    def raise_if_asked(self, step: int = 0) -> None:
        if self.asked:
            raise Stopped(step)

    def __enter__(self) -> Self:
        self._before = signal.signal(signal.SIGTERM, self._note)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        signal.signal(signal.SIGTERM, self._before)

    def _note(self, number: int, frame: FrameType | None) -> None:
        self.asked = True
