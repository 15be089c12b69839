"""Which project gets the next device: weighted max-min fairness over devices, as pure functions.

Only devices are scarce, so dominant-resource fairness comes down to weighted max-min: the next job is one of the
project that has the least, by its weight. What a project has is what runs now and, so that fairness holds over time as
well, an average of what ran before, which fades with a half-life. See docs/decisions/0194.
"""

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from typing import Final

from app.settings import Settings

#: Seconds after which a device-hour of the past counts half. Long beside jobs, so that one device is shared by turns.
HALF_LIFE: Final = 86_400.0
#: How often the average of the past counts beside the devices of this moment. Large, so that few devices are shared by
#: turns and not by the numbers of the moment; what runs now decides where projects have the same past.
PAST: Final = 15.0
#: Seconds of waiting that one point of priority is worth, inside a project.
AGING: Final = 3_600.0


@dataclass(frozen=True, slots=True)
class Usage:
    """What a project has: devices that run its jobs now, and the smoothed number of them in the past."""

    running: int = 0
    smoothed: float = 0.0

    def later(self, seconds: float, *, half_life: float = HALF_LIFE) -> "Usage":
        """The usage after this time, in which nothing started or ended."""
        kept = 2.0 ** (-max(0.0, seconds) / half_life)
        return Usage(self.running, self.smoothed * kept + self.running * (1.0 - kept))

    @property
    def devices(self) -> float:
        """Present and past as one number."""
        return max(0, self.running) + PAST * self.smoothed


@dataclass(frozen=True, slots=True)
class Contender:
    """A project that has a job for the worker that asks; `since` is the age of that job, the tie-break."""

    project: str
    usage: Usage
    since: datetime

    def with_devices(self, devices: int) -> "Contender":
        """The same project once a job of it runs on so many devices."""
        return replace(self, usage=replace(self.usage, running=self.usage.running + devices))


@dataclass(frozen=True, slots=True)
class ProjectShares:
    """How devices are shared between projects: weights, 1 where none is given, and limits; "*" is any other project."""

    weights: Mapping[str, float] = field(default_factory=dict)
    limits: Mapping[str, int] = field(default_factory=dict)

    @classmethod
    def of(cls, settings: Settings) -> "ProjectShares":
        return cls(settings.weights, settings.device_limits)

    def weight(self, project: str) -> float:
        return self.weights.get(project, self.weights.get("*", 1.0))

    def limit(self, project: str) -> int | None:
        """How many devices may run the project's jobs at once; None: any number."""
        return self.limits.get(project, self.limits.get("*"))

    def allows(self, project: str, usage: Usage, devices: int) -> bool:
        """Whether the project may have so many devices more."""
        limit = self.limit(project)
        return limit is None or usage.running + devices <= limit

    def level(self, project: str, usage: Usage, *, started: float = 0.0) -> float:
        """How much the project has by its weight, once it has `started` so many devices more; the lowest goes next."""
        return (usage.devices + started) / self.weight(project)

    def rank(self, contender: Contender) -> tuple[float, datetime, str]:
        """The key by which the next project is chosen. Equal levels: the older job goes first."""
        return self.level(contender.project, contender.usage), contender.since, contender.project

    def behind(self, contender: Contender, others: Iterable[Contender]) -> bool:
        """Whether one of the others goes before this one."""
        return any(self.rank(other) < self.rank(contender) for other in others)

    def in_order(self, contenders: Iterable[Contender]) -> list[Contender]:
        return sorted(contenders, key=self.rank)

    def ahead(self, ours: Contender, index: int, other: Contender) -> int:
        """How many jobs of another project start before ours, of which `index` jobs of our own project go first.

        As many as that project can start, one device each, until its level passes the one at which ours starts.
        """
        level = self.level(ours.project, ours.usage, started=index)
        room = round(level * self.weight(other.project) - other.usage.devices, 6)
        at_same_level = room >= 0 and room == math.floor(room)
        older = (other.since, other.project) < (ours.since, ours.project)
        return max(0, math.ceil(room) + (at_same_level and older))


#: Every project has the same weight.
EQUAL: Final = ProjectShares()


def queue_time(created_at: datetime, priority: int, *, aging: float = AGING) -> datetime:
    """By which jobs of a project are ordered: the time of submission, earlier by so much for each point of priority.

    All jobs age alike, so the order of two of them never changes; and none waits for ever behind later, urgent ones.
    """
    return created_at - timedelta(seconds=priority * aging)
