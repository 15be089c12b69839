"""Early stopping: ends a run whose validation loss no longer falls, and remembers the step where it was lowest."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

from app.jsontypes import JsonDict
from worker.trainer.training.objectives import Metrics


@dataclass(slots=True)
class Patience:
    """Ends a run after `limit` evaluations in a row without a new lowest loss. Without a limit it does nothing."""

    limit: int | None
    step: int = 0  # of the lowest loss; 0 before the first evaluation
    misses: int = 0
    metrics: Metrics = field(default_factory=dict)

    def take(self, step: int, metrics: Metrics) -> bool:
        """Whether this evaluation is the best one so far."""
        if self.limit is None:
            return False
        lower = math.isfinite(metrics["loss"]) and (not self.step or metrics["loss"] < self.metrics["loss"])
        if not lower:
            self.misses += 1
            return False
        self.step, self.misses, self.metrics = step, 0, dict(metrics)
        return True

    @property
    def over(self) -> bool:
        return self.limit is not None and self.misses >= self.limit

    def to_json(self) -> JsonDict:
        return asdict(self)

    @classmethod
    def from_json(cls, obj: Mapping[str, Any]) -> Patience:
        return cls(**obj)
