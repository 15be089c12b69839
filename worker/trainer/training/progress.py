"""What a run says of itself: step reports at a bounded rate, and the curve that goes into the result."""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from typing import Any

from worker.protocol import Reporter

MIN_GAP = 0.1  # seconds between two step reports
MAX_ROWS = 2000  # of the curve

Row = dict[str, Any]


@dataclass(slots=True)
class Progress:
    """`history` is the curve: every step of a short run, evenly chosen steps of a long one, and each evaluation."""

    reporter: Reporter
    total_steps: int
    history: list[Row] = field(default_factory=list)
    _began: float = field(default_factory=time.monotonic)
    _last: float = float("-inf")
    _examples: int = 0
    _tokens: int = 0
    _since: float = field(default_factory=time.monotonic)

    def step(self, step: int, *, examples: int, tokens: int = 0, **figures: Any) -> None:
        """`tokens` without padding; 0 where data has none."""
        self._examples += examples
        self._tokens += tokens
        last = step == self.total_steps
        every = max(1, -(-self.total_steps // MAX_ROWS))
        if last or step == 1 or step % every == 0:
            self.history.append({"step": step, **figures})
        now = time.monotonic()
        if last or now - self._last >= MIN_GAP:
            elapsed = max(now - self._since, 1e-9)
            speed = {"examples_per_second": round(self._examples / elapsed, 3)}
            speed |= {"tokens_per_second": round(self._tokens / elapsed, 3)} if self._tokens else {}
            self.reporter.report("step", step=step, **figures, **speed, seconds=round(self.seconds(), 3))
            self._last = self._since = now
            self._examples = self._tokens = 0

    def evaluation(self, step: int, metrics: dict[str, float]) -> None:
        self.history.append({"step": step, **{f"valid_{name}": value for name, value in metrics.items()}})
        self.reporter.report("evaluation", step=step, metrics=metrics)

    def seconds(self) -> float:
        """Since this attempt began to train."""
        return time.monotonic() - self._began
