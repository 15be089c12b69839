"""Reports: what a trainer says about its run, a JSON line each in `reports.jsonl`; and its exit codes."""

from __future__ import annotations

import json
import os
import threading
import time
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from worker.protocol.workspace import finite

EXIT_DONE = 0
EXIT_FAILED = 1  # after a "failed" report; without one the process crashed
EXIT_NO_ROOM = 73  # the disk is full; what was saved before is intact
EXIT_STOPPED = 75  # asked to stop (SIGTERM), and a checkpoint is on disk: run it again to go on
EXIT_DEVICE_LOST = 76  # the device does not answer any more; nothing is wrong with the job
EXIT_SIGNALLED = 128  # plus the signal's number: a rank of several was killed, and the others with it

#: Seconds between log lines about steps, at least; the curve has every step.
STEP_LINE_SECONDS = 1.0

Report = dict[str, Any]


class Reporter:
    """Appends reports to `reports.jsonl`, a complete JSON line per write: a kill tears the last line at most.

    Threads may share it. Unless `aloud` is false, the main reports are printed too, for the job's log.
    """

    def __init__(self, path: Path, *, aloud: bool = True) -> None:
        self._aloud = aloud
        self._lock = threading.Lock()
        self._step_printed_at = float("-inf")
        self._fd = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o644)
        if _ends_torn(path):
            os.write(self._fd, b"\n")

    def report(self, type: str, /, **content: Any) -> None:
        """Append one report. Numbers that are not finite become null: JSON has no NaN."""
        line = json.dumps(finite({"type": type, **content}), ensure_ascii=False, separators=(",", ":"), allow_nan=False)
        with self._lock:
            _write_all(self._fd, line.encode("utf-8", "replace") + b"\n")
            self._print(type, content)

    def _print(self, type: str, content: Mapping[str, Any]) -> None:
        if not self._aloud:
            return
        if type == "step":
            if time.monotonic() - self._step_printed_at < STEP_LINE_SECONDS:
                return
            self._step_printed_at = time.monotonic()
        if line := _log_line(type, content):
            moment = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
            print(f"{moment} {line}", flush=True)

    def stage(self, stage: str) -> None:
        self.report("stage", stage=stage)

    def event(self, message: str, *, level: str = "info", **data: Any) -> None:
        self.report("event", level=level, message=message, data=data)

    def close(self) -> None:
        os.close(self._fd)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def read_reports(path: Path, offset: int = 0, *, limit: int = 16 << 20) -> tuple[list[Report], int]:
    """The complete reports from byte `offset` on, at most `limit` bytes of them, and the offset to go on from.

    A torn last line is left for the next call. A complete line that is not a report becomes a warning event.
    """
    try:
        with path.open("rb") as file:
            file.seek(offset)
            chunk = file.read(limit)
    except FileNotFoundError:
        return [], offset
    end = chunk.rfind(b"\n") + 1
    if end == 0 and len(chunk) == limit:  # one line longer than the limit: step over what was read of it
        return [_unreadable(chunk)], offset + limit
    return [_parse(line) for line in chunk[:end].splitlines() if line.strip()], offset + end


def _log_line(type: str, content: Mapping[str, Any]) -> str:
    """A report as a line of the log; empty for those that are not printed."""
    if type == "stage":
        return f"stage: {content['stage']}"
    if type in ("event", "failed"):
        return f"{content.get('level', 'error' if type == 'failed' else 'info')}: {content.get('message')}"
    if type == "memory":
        return f"memory in MB: {', '.join(f'{name} {value / 1e6:.1f}' for name, value in content.items())}"
    if type == "checkpoint":
        return f"checkpoint after step {content.get('step')}"
    if type in ("step", "evaluation"):
        figures = content.get("metrics") or {name: value for name, value in content.items() if name != "step"}
        shown = " ".join(f"{name}={value:.6g}" for name, value in figures.items() if isinstance(value, int | float))
        return f"{type} {content.get('step')}: {shown}"
    return f"violation: {content.get('name')}" if type == "violation" else ""


def _parse(line: bytes) -> Report:
    try:
        report = json.loads(line)
    except (ValueError, RecursionError):
        return _unreadable(line)
    return report if isinstance(report, dict) and isinstance(report.get("type"), str) else _unreadable(line)


def _unreadable(line: bytes) -> Report:
    text = line[:200].decode("utf-8", "replace")
    return {
        "type": "event",
        "level": "warn",
        "message": "the trainer wrote a report that cannot be read",
        "data": {"line": text},
    }


def _ends_torn(path: Path) -> bool:
    with path.open("rb") as file:
        if file.seek(0, os.SEEK_END) == 0:
            return False
        file.seek(-1, os.SEEK_END)
        return file.read(1) != b"\n"


def _write_all(fd: int, line: bytes) -> None:
    written = os.write(fd, line)
    while written < len(line):  # a full disk or a signal can shorten a write to a file
        written += os.write(fd, line[written:])
