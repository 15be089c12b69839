"""Dotted globs, always matched against a whole name."""

import re
from collections.abc import Callable

MAX_LENGTH = 500


def check_glob(pattern: str) -> None:
    """Raises ValueError for a pattern that is not a glob of whole segments."""
    if not pattern or len(pattern) > MAX_LENGTH:
        raise ValueError(f"a pattern has 1 to {MAX_LENGTH} characters")
    for segment in pattern.split("."):
        if not segment:
            raise ValueError(f"'{pattern}' has an empty segment: no dot may stand first, last or beside another")
        if "**" in segment and segment != "**":
            raise ValueError(f"in '{pattern}' the '**' must stand alone between dots, as in 'encoder.**'")


def literal_prefix(pattern: str) -> str:
    """The leading segments without a wildcard, so that an index can narrow the search."""
    segments = pattern.split(".")
    count = next((i for i, segment in enumerate(segments) if "*" in segment), len(segments))
    return ".".join(segments[:count])


def literal_end(pattern: str) -> str:
    """The literal text at the end of every match: comparing it first rules out most names at a tenth of the cost."""
    return pattern.rpartition("*")[2].removeprefix(".")


def compile_glob(pattern: str) -> Callable[[str], bool]:
    """`*` is one segment or a part of one, `**` any number of segments, also none; the whole name must match.

    Between two `**` the leftmost match is always as good as any other, so it is atomic: no pattern backtracks
    more than a name is long.
    """
    if "*" not in pattern:
        return pattern.__eq__
    runs = _runs(pattern)
    expression = _run(runs[0])
    for run in runs[1:-1]:
        expression += rf"(?>(?:[^.]+\.)*?{_run(run)})"
    if len(runs) > 1:
        expression += r"(?:[^.]+\.)*" + _run(runs[-1])
    fullmatch = re.compile(expression).fullmatch
    return lambda name: fullmatch(name + ".") is not None


def _runs(pattern: str) -> list[list[str]]:
    """The segments between the `**`s; the first run is anchored at the start, the last at the end."""
    runs: list[list[str]] = [[]]
    for segment in pattern.split("."):
        if segment != "**":
            runs[-1].append(segment)
        elif len(runs) == 1 or runs[-1]:  # `**.**` is `**`
            runs.append([])
    return runs


def _run(segments: list[str]) -> str:
    return "".join(_segment(segment) + r"\." for segment in segments)


def _segment(segment: str) -> str:
    if segment == "*":
        return r"[^.]+"
    first, *rest = segment.split("*")
    if not rest:
        return re.escape(segment)
    middle = "".join(rf"(?>[^.]*?{re.escape(part)})" for part in rest[:-1] if part)
    return f"{re.escape(first)}{middle}[^.]*{re.escape(rest[-1])}"
