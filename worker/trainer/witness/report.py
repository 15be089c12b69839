"""What a witness found: the verdict, each tensor that moved and between which steps, and how closely it looked."""

from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True, slots=True)
class Violation:
    """A frozen tensor that moved: good after `last_good_step`, found changed after `first_bad_step`.

    Step 0 is before training. The two are neighbours when every step in between was looked at. `operation` names what
    wrote it, if that is known; else `explanation` may say in words why not.
    """

    name: str
    last_good_step: int
    first_bad_step: int
    operation: str | None = None
    what: str = "bytes changed"
    explanation: str | None = None

    def to_json(self) -> dict[str, Any]:
        return {
            "name": self.name,
            "last_good_step": self.last_good_step,
            "first_bad_step": self.first_bad_step,
            "operation": self.operation,
        } | ({"explanation": self.explanation} if self.explanation else {})

    def __str__(self) -> str:
        by = f", by {self.operation}" if self.operation else f" ({self.explanation})" if self.explanation else ""
        return f"{self.name}: {self.what} between steps {self.last_good_step} and {self.first_bad_step}{by}"


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
