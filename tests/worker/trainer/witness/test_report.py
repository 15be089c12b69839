"""What a witness reports, as text, as JSON and for several ranks."""

import json
from dataclasses import asdict
from typing import Any

from worker.trainer.witness.report import IntervalDigests, Violation, WitnessReport, combine_reports


def report(verdict: str = "verified", *violations: Violation, checks: int = 3, **fields: object) -> WitnessReport:
    figures: dict[str, Any] = {
        "steps": 10,
        "first_step": 0,
        "last_step": 10,
        "watched": 2,
        "scheme": "xxh3-128",
        "seconds": 0.5,
    }
    return WitnessReport(verdict, violations, checks=checks, **({"scheme": "xxh3-128"} | figures | fields))


def test_text_has_the_verdict_and_a_line_per_violation() -> None:
    """With the operation where it is known, with the explanation where it is not, and with the rank."""
    named = Violation("a.weight", 0, 1, "aten::add_ at train.py:3 in step")
    unknown = Violation("b.weight", 2, 5, None, "gone", "not shown", rank=1)
    assert str(report("violated", named, unknown)).splitlines() == [
        "violated: 2 frozen tensors, 3 checks in 10 steps",
        "  a.weight: bytes changed between steps 0 and 1, by aten::add_ at train.py:3 in step",
        "  b.weight: gone between steps 2 and 5 on rank 1 (not shown)",
    ]
    assert str(report("incomplete", reason="not begun")).endswith("in 10 steps (not begun)")


def test_json_round_trip() -> None:
    """Ranks exchange reports as JSON."""
    intervals = {"a": (IntervalDigests(0, 5, "00", None),)}
    one = report("violated", Violation("a", 0, 1), intervals=intervals, first_changed={"b": 3}, followed={"a": "c.a"})
    assert WitnessReport.from_json(json.loads(json.dumps(asdict(one)))) == one


def test_of_several_ranks_the_worst_counts() -> None:
    """The worst verdict, all violations with their rank, the earliest changes, the fewest checks."""
    good = report(checks=5, first_changed={"a": 4, "b": 2}, last_step=9)
    bad = report("violated", Violation("x", 1, 2), first_changed={"a": 3}, seconds=0.7)
    both = combine_reports([good, bad])
    assert (both.verdict, both.checks, both.last_step, both.seconds) == ("violated", 3, 9, 0.7)
    assert [(violation.name, violation.rank) for violation in both.violations] == [("x", 1)]
    assert both.first_changed == {"a": 3, "b": 2}
    assert combine_reports([good, report("incomplete", reason="stopped")]).reason == "stopped"
