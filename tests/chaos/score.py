"""What `make chaos` prints at its end, made of what the tests of this very session have recorded."""

from collections import defaultdict
from collections.abc import Iterator
from statistics import median
from typing import Any, Final

from tests.chaos.faults import FAULTS

#: Names of the properties that a test records.
FAULT: Final = "chaos fault"
JOBS: Final = "chaos jobs"  # [accepted, ended, doubled, resumed, resumed with equal digests]
BACK: Final = "chaos seconds until it ran again"
BACK_AT_DEFAULTS: Final = "chaos seconds until it ran again, with the default lease"
ANSWER: Final = "chaos seconds to answer a submit without a broker"
SHARE: Final = "chaos checkpoint share"


def pytest_addoption(parser: Any) -> None:
    group = parser.getgroup("chaos")
    said = "jobs of the random chaos test; PERMAFROST_CHAOS_SEED repeats one"
    group.addoption("--chaos-jobs", type=int, default=6, help=said)


def pytest_terminal_summary(terminalreporter: Any) -> None:
    recorded: dict[str, list[Any]] = defaultdict(list)
    failed: set[int] = set()
    for category, name, value in _properties(terminalreporter):
        recorded[name].append(value)
        if name == FAULT and category != "passed":
            failed.add(value)
    if not recorded[FAULT]:
        return
    tried = set(recorded[FAULT])
    accepted, ended, doubled, resumed, equal = map(sum, zip(*(recorded[JOBS] or [[0] * 5]), strict=True))
    lines = [
        ("faults tried", f"{len(tried)} of {len(FAULTS)}"),
        ("faults survived", f"{len(tried - failed)} of {len(tried)}"),
        ("jobs accepted", f"{accepted}"),
        ("jobs lost", f"{accepted - ended}"),
        ("jobs doubled", f"{doubled}"),
        ("resumed runs with equal digests", f"{equal} of {resumed}"),
        ("from a killed worker to the job running again", _seconds(recorded[BACK], "lease of 8 s")),
        ("  with the default lease of 60 s", _seconds(recorded[BACK_AT_DEFAULTS], "")),
        ("answer to a submit while the broker is away or silent", _seconds(recorded[ANSWER], "")),
        ("checkpoints' share of training time at the default interval", _share(recorded[SHARE])),
    ]
    terminalreporter.section("chaos")
    for name, value in lines:
        terminalreporter.write_line(f"{name:62} {value}")
    for number in sorted(failed):
        terminalreporter.write_line(f"NOT SURVIVED {number}: {FAULTS[number]}", red=True)
    if rest := FAULTS.keys() - tried:
        terminalreporter.write_line(f"not tried in this session: {', '.join(map(str, sorted(rest)))}")


def _properties(reporter: Any) -> Iterator[tuple[str, str, Any]]:
    """Of each test once: its teardown's report has all that it recorded, and its worst outcome counts."""
    tests: dict[str, dict[str, Any]] = {}
    for category in ("passed", "failed", "error", ""):
        for report in reporter.stats.get(category, []):
            if getattr(report, "user_properties", None):
                seen = tests.setdefault(report.nodeid, {"category": "passed", "properties": []})
                seen["category"] = category if category in ("failed", "error") else seen["category"]
                if len(report.user_properties) > len(seen["properties"]):
                    seen["properties"] = report.user_properties
    for seen in tests.values():
        for name, value in seen["properties"]:
            if str(name).startswith("chaos"):
                yield seen["category"], name, value


def _seconds(values: list[float], remark: str) -> str:
    if not values:
        return "not measured in this session"
    remark = f", {remark}" if remark else ""
    return f"{median(values):.2f} s (median of {len(values)}{remark})"


def _share(values: list[float]) -> str:
    return f"{100 * median(values):.3f} %" if values else "not measured in this session"
