"""What a witness found: the verdict, each tensor that moved and between which steps, and how closely it looked."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Self


@dataclass(frozen=True, slots=True)
class Violation:
    """A frozen tensor that moved: good after `last_good_step`, found changed after `first_bad_step`.

    Step 0 is before training. The two are neighbours when every step in between was looked at. `operation` names what
    wrote it, if that is known; else `explanation` may say in words why not. `rank` is whose copy or shard it was, where
    several processes train together.
    """

    name: str
    last_good_step: int
    first_bad_step: int
    operation: str | None = None
    what: str = "bytes changed"
    explanation: str | None = None
    rank: int | None = None

    def to_json(self) -> dict[str, Any]:
        more = {"explanation": self.explanation, "rank": self.rank}
        return {
            "name": self.name,
            "last_good_step": self.last_good_step,
            "first_bad_step": self.first_bad_step,
            "operation": self.operation,
        } | {key: value for key, value in more.items() if value is not None}

    def __str__(self) -> str:
        by = f", by {self.operation}" if self.operation else f" ({self.explanation})" if self.explanation else ""
        where = "" if self.rank is None else f" on rank {self.rank}"
        return f"{self.name}: {self.what} between steps {self.last_good_step} and {self.first_bad_step}{where}{by}"


@dataclass(frozen=True, slots=True)
class Interval:
    """SHA-256 of a scheduled tensor when a freeze began and when it ended; None where the run did not get so far."""

    from_step: int
    to_step: int | None
    before: str
    after: str | None

    def to_json(self) -> dict[str, Any]:
        return {"from_step": self.from_step, "to_step": self.to_step, "before": self.before, "after": self.after}


@dataclass(frozen=True, slots=True)
class Report:
    """`verified`: every frozen tensor had the same bytes in every check, the last at the end. Else `violated`, or
    `incomplete` with the reason. `first_changed` dates the tensors that may move: the first check that saw it."""

    verdict: str
    violations: tuple[Violation, ...]
    steps: int
    checks: int
    first_step: int
    last_step: int
    watched: int
    scheme: str
    seconds: float
    reason: str | None = None
    first_changed: dict[str, int] = field(default_factory=dict)
    intervals: dict[str, tuple[Interval, ...]] = field(default_factory=dict)

    @classmethod
    def from_json(cls, obj: Mapping[str, Any]) -> Self:
        """From what `dataclasses.asdict` makes of one."""
        intervals = {name: tuple(Interval(**each) for each in found) for name, found in obj["intervals"].items()}
        violations = tuple(Violation(**each) for each in obj["violations"])
        return cls(**{**obj, "violations": violations, "intervals": intervals})

    def to_json(self) -> dict[str, Any]:
        """The parts that go into observations.json."""
        return {
            "verdict": self.verdict,
            "reason": self.reason,
            "checks": {
                "count": self.checks,
                "first_step": self.first_step,
                "last_step": self.last_step,
                "scheme": self.scheme,
            },
            "violations": [violation.to_json() for violation in self.violations],
        }

    def __str__(self) -> str:
        head = f"{self.verdict}: {self.watched} frozen tensors, {self.checks} checks in {self.steps} steps"
        lines = [f"{head} ({self.reason})" if self.reason else head]
        return "\n".join(lines + [f"  {violation}" for violation in self.violations])


def combined(reports: Sequence[Report]) -> Report:
    """What several ranks saw of one model, each of its own copy or shard: as good as the worst of them."""
    first = reports[0]
    if len(reports) == 1:
        return first
    worst = max(reports, key=lambda each: ("verified", "incomplete", "violated").index(each.verdict))
    found = [replace(each, rank=rank) for rank, report in enumerate(reports) for each in report.violations]
    changed: dict[str, int] = {}
    for name, step in (item for report in reports for item in report.first_changed.items()):
        changed[name] = min(step, changed.get(name, step))
    return replace(
        first,
        verdict=worst.verdict,
        reason=worst.reason,
        violations=tuple(found),
        checks=min(each.checks for each in reports),
        last_step=min(each.last_step for each in reports),
        seconds=max(each.seconds for each in reports),
        first_changed=changed,
    )
