"""Stopping on SIGTERM: finish the optimizer step, write a checkpoint, end. The handler only sets a flag."""

from __future__ import annotations

import signal
from types import FrameType, TracebackType
from typing import Any, Self


class TrainingStopped(Exception):
    """Training ended early on request; `step` is the last finished one."""

    def __init__(self, step: int) -> None:
        super().__init__(f"stopped after step {step}")
        self.step = step


class StopRequest:
    """Whether SIGTERM has arrived. A context manager that puts the previous handler back at the end."""

    def __init__(self) -> None:
        self.requested = False
        self._before: Any = None

    def raise_if_requested(self, step: int = 0) -> None:
        if self.requested:
            raise TrainingStopped(step)

    def __enter__(self) -> Self:
        self._before = signal.signal(signal.SIGTERM, self._handle)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        signal.signal(signal.SIGTERM, self._before)

    def _handle(self, number: int, frame: FrameType | None) -> None:
        self.requested = True
