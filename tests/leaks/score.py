"""The gauntlet's score, printed at the end of any session that ran some of it, with or without xdist."""

from collections.abc import Iterator
from typing import Any


def pytest_terminal_summary(terminalreporter: Any) -> None:
    caught, leaks = _passed(terminalreporter, "leak")
    silent, controls = _passed(terminalreporter, "control")
    if leaks or controls:
        line = f"leak gauntlet: {caught}/{leaks} caught, {controls - silent}/{controls} false alarms"
        terminalreporter.write_line(line, green=caught == leaks and silent == controls)


def _passed(reporter: Any, kind: str) -> tuple[int, int]:
    """How many cases of this kind passed, and how many ran. The property travels with a worker's report."""
    outcomes: dict[str, bool] = {}
    for category, report in _reports(reporter):
        for key, value in report.user_properties:
            if key == kind:
                outcomes[value] = outcomes.get(value, True) and category == "passed"
    return sum(outcomes.values()), len(outcomes)


def _reports(reporter: Any) -> Iterator[tuple[str, Any]]:
    for category in ("passed", "failed", "error"):
        for report in reporter.stats.get(category, []):
            if getattr(report, "user_properties", None):
                yield category, report
