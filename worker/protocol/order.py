"""The work order: what the supervisor wants of one trainer process, as `job.json` in the attempt's folder."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any, Literal, cast, get_args

from worker.protocol.workspace import Workspace, write_json

Stage = Literal["initialise", "describe", "train"]


class ProtocolError(ValueError):
    """A work order that cannot be read."""


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
