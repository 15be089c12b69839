"""Step reports at a bounded rate, and the curve that goes into the result."""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from worker.protocol import Reporter
from worker.trainer.training.job import TrainingJob
from worker.trainer.witness.witness import Witness

MIN_GAP = 0.1  # seconds between two step reports
MAX_POINTS = 2000  # of the curve

Point = dict[str, Any]


@dataclass(slots=True)
class TrainingProgress:
    """`history` is the curve: every step of a short run, evenly spaced steps of a long one, and each evaluation."""

    reporter: Reporter
    total_steps: int
    witness: Witness | None = None  # whose part of the time is reported
    history: list[Point] = field(default_factory=list)
    _began: float = field(default_factory=time.monotonic)
    _reported: float = float("-inf")
    _since: list[int] = field(default_factory=list)  # steps since the last report

    def step(self, step: int, job: TrainingJob, **figures: Any) -> None:
        """Record a step, and report it unless the last report was a moment ago."""
        self._since.append(step)
        figures = {"epoch": round(step / job.sampler.steps_per_epoch, 4), **figures}

        last = step == self.total_steps
        spacing = max(1, -(-self.total_steps // MAX_POINTS))
        if last or step == 1 or step % spacing == 0:
            self.history.append({"step": step, **figures})
        if last or time.monotonic() - self._reported >= MIN_GAP:
            self._report(step, job, figures)

    def evaluation(self, step: int, metrics: dict[str, float]) -> None:
        self.history.append({"step": step, **{f"valid_{name}": value for name, value in metrics.items()}})
        self.reporter.report("evaluation", step=step, metrics=metrics)

    def seconds(self) -> float:
        """Since this attempt began to train."""
        return time.monotonic() - self._began

    def _report(self, step: int, job: TrainingJob, figures: Point) -> None:
        now = time.monotonic()
        elapsed = max(now - max(self._reported, self._began), 1e-9)
        positions = np.concatenate([job.sampler.positions(each) for each in self._since])
        speed = {"examples_per_second": round(len(positions) / elapsed, 3)}
        speed["steps_per_second"] = round(len(self._since) / elapsed, 3)
        if self.witness is not None:
            speed["witness_share"] = round(min(1.0, self.witness.seconds / max(self.seconds(), 1e-9)), 5)
        if job.training.lengths is not None:
            speed["tokens_per_second"] = round(int(job.training.lengths[positions].sum()) / elapsed, 3)
        self.reporter.report("step", step=step, **figures, **speed, seconds=round(self.seconds(), 3))
        self._reported = now
        self._since = []
