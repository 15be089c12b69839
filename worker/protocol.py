"""What the supervisor and the trainer say to each other: a work order, then reports, as files in one workspace folder.

Standard library only: both sides import it, and the supervisor must stay without torch.
"""

from __future__ import annotations

import json
import math
import os
import threading
import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from types import TracebackType
from typing import Any, Literal, Self, cast, get_args

EXIT_DONE = 0
EXIT_FAILED = 1  # after a "failed" report; without one the process crashed
EXIT_NO_ROOM = 73  # the disk is full; what was saved before is intact
EXIT_STOPPED = 75  # asked to stop (SIGTERM), and a checkpoint is on disk: run it again to go on
EXIT_DEVICE_LOST = 76  # the device does not answer any more; nothing is wrong with the job
EXIT_SIGNALLED = 128  # plus the signal's number: a rank of several was killed, and the others with it

#: At most one line of the log so often about steps; the curve has them all.
STEP_LINE_SECONDS = 1.0

Stage = Literal["initialise", "describe", "train"]
Report = dict[str, Any]


class ProtocolError(ValueError):
    """A work order that cannot be read."""


@dataclass(frozen=True, slots=True)
class Workspace:
    """The names of things in one attempt's folder."""

    root: Path

    @property
    def order(self) -> Path:
        return self.root / "job.json"

    @property
    def base(self) -> Path:
        return self.root / "base"

    @property
    def adapter(self) -> Path:
        """Of a job that trains an adapter on: its weights, as an earlier job left them."""
        return self.root / "adapter" / "adapter_model.safetensors"

    @property
    def data(self) -> Path:
        return self.root / "data"

    @property
    def reports(self) -> Path:
        return self.root / "reports.jsonl"

    @property
    def checkpoints(self) -> Path:
        return self.root / "checkpoints"

    @property
    def log(self) -> Path:
        return self.root / "log.txt"

    @property
    def out(self) -> Path:
        return self.root / "out"

    @property
    def changed(self) -> Path:
        return self.out / "model.changed.safetensors"

    @property
    def initial(self) -> Path:
        return self.out / "model.initial.safetensors"

    @property
    def result(self) -> Path:
        return self.out / "result.json"

    @property
    def observations(self) -> Path:
        return self.out / "observations.json"

    @property
    def files(self) -> Path:
        return self.out / "files"

    @property
    def form(self) -> Path:
        """How a model is made of a checkpoint; `form_files` go beside its weights."""
        return self.out / "form.json"

    @property
    def form_files(self) -> Path:
        return self.out / "form"

    @property
    def manifest(self) -> Path:
        return self.out / "manifest.json"

    def create(self) -> Self:
        """Make the folders that do not exist yet."""
        for folder in (self.root, self.base, self.data, self.checkpoints, self.out, self.files, self.form_files):
            folder.mkdir(parents=True, exist_ok=True)
        return self


@dataclass(frozen=True, slots=True, kw_only=True)
class WorkOrder:
    """One attempt at one job. Paths inside are relative to the workspace.

    `data` holds `training`, `validation` (or null), `format`, `features`, `target`; `hyperparameters` may hold "auto".
    """

    job_id: str
    stage: Stage
    model: dict[str, Any]
    attempt: int = 1
    task: str | None = None
    data: dict[str, Any] = field(default_factory=dict)
    hyperparameters: dict[str, Any] = field(default_factory=dict)
    policy: dict[str, Any] = field(default_factory=lambda: {"default": "train", "rules": []})
    evidence: dict[str, Any] = field(default_factory=lambda: {"overhead_budget": 0.01})
    seed: int = 0
    device: str = "auto"  # "auto", "cpu", "cuda", "cuda:0", ...
    devices: int = 1  # processes on this machine, each with a device of its own
    strategy: str = "ddp"  # "ddp": a replica on each; "fsdp": each holds a part

    def to_json(self) -> dict[str, Any]:
        return asdict(self)

    @classmethod
    def from_json(cls, obj: Mapping[str, Any]) -> WorkOrder:
        """The order in `obj`; ProtocolError for a missing or unknown field. A newer supervisor must not half-work."""
        known = {each.name for each in fields(cls)}
        unknown = sorted(set(obj) - known)
        if unknown:
            raise ProtocolError(f"work order has unknown fields {unknown}; known are {sorted(known)}")
        missing = sorted({"job_id", "stage", "model"} - set(obj))
        if missing:
            raise ProtocolError(f"work order lacks {missing}")
        if obj["stage"] not in get_args(Stage):
            raise ProtocolError(f"work order's stage {obj['stage']!r} is none of {list(get_args(Stage))}")
        return cls(**obj)

    def save(self, workspace: Path) -> Path:
        """Write `job.json` into the workspace, whole or not at all."""
        path = Workspace(workspace).order
        write_json(path, self.to_json())
        return path

    @classmethod
    def load(cls, workspace: Path) -> WorkOrder:
        return cls.from_json(cast("dict[str, Any]", json.loads(Workspace(workspace).order.read_text("utf-8"))))


class Reporter:
    """Appends reports to `reports.jsonl`, a complete JSON line per write: a kill tears the last line at most.

    Threads may share it. What people would look for in a log is printed as well, so that the log tells its story.
    """

    def __init__(self, path: Path, *, aloud: bool = True) -> None:
        self._aloud = aloud
        self._lock = threading.Lock()
        self._told_step = float("-inf")
        self._fd = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o644)
        if _ends_torn(path):
            os.write(self._fd, b"\n")

    def report(self, type: str, /, **content: Any) -> None:
        """Append one report. Numbers that are not finite become null: JSON has no NaN."""
        line = json.dumps(
            _finite({"type": type, **content}), ensure_ascii=False, separators=(",", ":"), allow_nan=False
        )
        with self._lock:
            _write_all(self._fd, line.encode("utf-8", "replace") + b"\n")
            self._tell(type, content)

    def _tell(self, type: str, content: Mapping[str, Any]) -> None:
        if not self._aloud:
            return
        if type == "step":
            if time.monotonic() - self._told_step < STEP_LINE_SECONDS:
                return
            self._told_step = time.monotonic()
        if words := _in_words(type, content):
            moment = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
            print(f"{moment} {words}", flush=True)

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

    A torn last line waits for its end. A complete line that is no JSON object becomes a warning event.
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


def write_json(path: Path, content: Any) -> None:
    """Write JSON to `path` through a temporary file, fsync and rename."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    with temporary.open("w", encoding="utf-8") as file:
        json.dump(_finite(content), file, ensure_ascii=False, indent=1, allow_nan=False)
        file.flush()
        os.fsync(file.fileno())
    temporary.replace(path)


def _in_words(type: str, content: Mapping[str, Any]) -> str:
    """A line for the log; empty for what nobody would look for there."""
    if type == "stage":
        return f"stage: {content['stage']}"
    if type in ("event", "failed"):
        return f"{content.get('level', 'error' if type == 'failed' else 'info')}: {content.get('message')}"
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


def _finite(value: Any) -> Any:
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, Mapping):
        return {str(key): _finite(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_finite(item) for item in value]
    return value


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
