"""A job as trackers show it: its name, times, parameters, curves and verdict.

The supervisor writes it, and the process that sends it reads it.
"""

import math
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from typing import Any

from app.jsontypes import JsonDict


@dataclass(frozen=True, slots=True)
class TrackedJob:
    """One ended job. Times are milliseconds since 1970; parameters have dotted names."""

    id: str
    status: str
    model: str | None
    verdict: str | None
    suffix: str | None
    started: int
    ended: int | None
    params: dict[str, str]
    #: Points as the API answers them: `step`, `split`, `values`.
    metrics: list[JsonDict]

    @classmethod
    def from_json(cls, document: JsonDict) -> "TrackedJob":
        return cls(**document)

    def to_json(self) -> JsonDict:
        return asdict(self)

    @property
    def name(self) -> str:
        return self.suffix or self.id

    @property
    def succeeded(self) -> bool:
        return self.status == "succeeded"

    @property
    def facts(self) -> dict[str, str]:
        """What a run shows of its job beside the parameters: by which it is found again, and what was proved."""
        named = {"permafrost.job": self.id, "permafrost.model": self.model, "permafrost.verdict": self.verdict}
        return {name: value for name, value in named.items() if value}

    @property
    def configuration(self) -> dict[str, str]:
        return self.params | self.facts

    def by_step(self) -> Iterator[tuple[int, dict[str, float]]]:
        """The curves as one row a step, in order: values by `split/name`, without those that are no numbers."""
        rows: dict[int, dict[str, float]] = {}
        for point in self.metrics:
            rows.setdefault(point["step"], {}).update(finite(point))
        yield from sorted(rows.items())


def finite(point: JsonDict) -> dict[str, float]:
    """A point's values by `split/name`, without those that are no numbers."""
    values: Mapping[str, Any] = point["values"]
    return {
        f"{point['split']}/{name}": value
        for name, value in values.items()
        if isinstance(value, int | float) and math.isfinite(value)
    }
