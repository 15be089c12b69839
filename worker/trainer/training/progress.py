"""Step reports at a bounded rate, and the curve that goes into the result."""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from typing import Any

from worker.protocol import Reporter
from worker.trainer.training.job import TrainingJob

MIN_GAP = 0.1  # seconds between two step reports
MAX_POINTS = 2000  # of the curve

Point = dict[str, Any]


@dataclass(slots=True)
class TrainingProgress:
    """`history` is the curve: every step of a short run, evenly spaced steps of a long one, and each evaluation."""

    reporter: Reporter
    total_steps: int
    history: list[Point] = field(default_factory=list)
    _began: float = field(default_factory=time.monotonic)
    _reported: float = float("-inf")
    _examples: int = 0  # since the last report, as are the tokens
    _tokens: int = 0

    def step(self, step: int, job: TrainingJob, **figures: Any) -> None:
        """Record a step, and report it unless the last report was a moment ago."""
        positions = job.sampler.positions(step)
        self._examples += len(positions)
        self._tokens += 0 if job.training.lengths is None else int(job.training.lengths[positions].sum())
        figures = {"epoch": round(step / job.sampler.steps_per_epoch, 4), **figures}

        last = step == self.total_steps
        spacing = max(1, -(-self.total_steps // MAX_POINTS))
        if last or step == 1 or step % spacing == 0:
            self.history.append({"step": step, **figures})
        if last or time.monotonic() - self._reported >= MIN_GAP:
            self._report(step, figures)

    def evaluation(self, step: int, metrics: dict[str, float]) -> None:
        self.history.append({"step": step, **{f"valid_{name}": value for name, value in metrics.items()}})
        self.reporter.report("evaluation", step=step, metrics=metrics)

    def seconds(self) -> float:
        """Since this attempt began to train."""
        return time.monotonic() - self._began

    def _report(self, step: int, figures: Point) -> None:
        now = time.monotonic()
        elapsed = max(now - max(self._reported, self._began), 1e-9)
        speed = {"examples_per_second": round(self._examples / elapsed, 3)}
        speed |= {"tokens_per_second": round(self._tokens / elapsed, 3)} if self._tokens else {}
        self.reporter.report("step", step=step, **figures, **speed, seconds=round(self.seconds(), 3))
        self._reported = now
        self._examples = self._tokens = 0
