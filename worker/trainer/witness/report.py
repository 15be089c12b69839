"""The result of an audit: a verdict, each frozen tensor that moved and between which steps, and how often it looked."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Self

from app.jsontypes import JsonDict

VERDICTS = ("verified", "incomplete", "violated")  # from best to worst


@dataclass(frozen=True, slots=True)
class Violation:
    """A frozen tensor that moved: unchanged after `last_good_step`, found changed after `first_bad_step`.

    Step 0 is the state before training. The two steps are neighbours when every step in between was checked.
    `operation` names what wrote the tensor, if known; otherwise `explanation` may say why it is not known. `rank` is
    the process whose copy or shard moved, where several train together.
    """

    name: str
    last_good_step: int
    first_bad_step: int
    operation: str | None = None
    what: str = "bytes changed"
    explanation: str | None = None
    rank: int | None = None

    def to_json(self) -> JsonDict:
        optional = {"explanation": self.explanation, "rank": self.rank}
        return {
            "name": self.name,
            "last_good_step": self.last_good_step,
            "first_bad_step": self.first_bad_step,
            "operation": self.operation,
        } | {key: value for key, value in optional.items() if value is not None}

    def __str__(self) -> str:
        cause = f", by {self.operation}" if self.operation else f" ({self.explanation})" if self.explanation else ""
        where = "" if self.rank is None else f" on rank {self.rank}"
        return f"{self.name}: {self.what} between steps {self.last_good_step} and {self.first_bad_step}{where}{cause}"


@dataclass(frozen=True, slots=True)
class IntervalDigests:
    """SHA-256 of a scheduled tensor when a freeze began and when it ended; None if the run ended before that."""

    from_step: int
    to_step: int | None
    before: str
    after: str | None

    def to_json(self) -> JsonDict:
        return {"from_step": self.from_step, "to_step": self.to_step, "before": self.before, "after": self.after}


@dataclass(frozen=True, slots=True)
class WitnessReport:
    """What a witness can say about the run so far. Printing it gives the verdict and a line per violation.

    - `verdict`: "verified" when every frozen tensor had the same bytes, dtype and shape in every check, the last one at
      the end; "violated" when one had not; "incomplete", with a `reason`, when the run did not end normally.
    - `steps`: optimizer steps counted; `checks`: how often every frozen byte was compared, the first time after
      `first_step` and the last time after `last_step`.
    - `watched`: frozen tensors, ties counted once. `seconds`: time that the witness itself has taken.
    - `first_changed`: for each tensor that may move, the first checked step at which it differed from the start. A
      tensor that is missing here has not moved.
    - `intervals`: for each tensor that is frozen for part of the run, its digests at both ends of each freeze.
    - `followed`: names under which a wrapped module's tensors were found, by the name they had when watching began.
    """

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
    intervals: dict[str, tuple[IntervalDigests, ...]] = field(default_factory=dict)
    followed: dict[str, str] = field(default_factory=dict)

    @classmethod
    def from_json(cls, obj: Mapping[str, Any]) -> Self:
        """From the dict that `dataclasses.asdict` makes of a report."""
        intervals = {
            name: tuple(IntervalDigests(**interval) for interval in rows) for name, rows in obj["intervals"].items()
        }
        violations = tuple(Violation(**violation) for violation in obj["violations"])
        return cls(**{**obj, "violations": violations, "intervals": intervals})

    def to_json(self) -> JsonDict:
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
        lines += [f"  {violation}" for violation in self.violations]
        if self.followed:
            old, new = next(iter(self.followed.items()))
            lines.append(f"  {len(self.followed)} tensors followed into a wrapper ('{old}' is now '{new}')")
        return "\n".join(lines)


def combine_reports(reports: Sequence[WitnessReport]) -> WitnessReport:
    """One report for several ranks that each watched their own copy or shard: the worst verdict, every violation."""
    first = reports[0]
    if len(reports) == 1:
        return first

    worst = max(reports, key=lambda report: VERDICTS.index(report.verdict))
    violations = [
        replace(violation, rank=rank) for rank, report in enumerate(reports) for violation in report.violations
    ]
    first_changed: dict[str, int] = {}
    for report in reports:
        for name, step in report.first_changed.items():
            first_changed[name] = min(step, first_changed.get(name, step))

    return replace(
        first,
        verdict=worst.verdict,
        reason=worst.reason,
        violations=tuple(violations),
        checks=min(report.checks for report in reports),
        last_step=min(report.last_step for report in reports),
        seconds=max(report.seconds for report in reports),
        first_changed=first_changed,
    )
