"""The work order: what the supervisor wants of one trainer process, as `job.json` in the attempt's folder."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any, Final, Literal, cast, get_args

from app.freeze.policy import Policy
from app.jsontypes import JsonDict
from app.specs.data import DataSpec
from app.specs.evidence import EvidenceSpec
from app.specs.hyperparameters import Hyperparameters
from app.specs.models import ModelSpec, read_model
from worker.protocol.workspace import Workspace, write_json

Stage = Literal["initialise", "describe", "make", "train"]


class ProtocolError(ValueError):
    """A work order that cannot be read."""


@dataclass(frozen=True, slots=True, kw_only=True)
class WorkOrder:
    """One attempt at one job. Paths inside are relative to the workspace."""

    job_id: str
    stage: Stage
    model: ModelSpec
    attempt: int = 1
    task: str | None = None
    data: DataSpec = field(default_factory=DataSpec)
    hyperparameters: Hyperparameters = field(default_factory=Hyperparameters)
    policy: Policy = field(default_factory=Policy)
    evidence: EvidenceSpec = field(default_factory=EvidenceSpec)
    seed: int = 0
    device: str = "auto"  # "auto", "cpu", "cuda", "cuda:0", ...
    devices: int = 1  # processes on this machine, each with a device of its own
    machines: int = 1  # that train it together, this one among them as number `machine`
    machine: int = 0
    meeting: str | None = None  # address:port at which they meet, of the first machine
    interface: str | None = None  # the network interface of this machine through which they talk
    strategy: str = "ddp"  # "ddp": a replica on each; "fsdp": each holds a part
    prefix_room: int = 0  # bytes that this attempt may add to the results that jobs share
    until: int | None = None  # the run ends after this step, with a checkpoint of it; absent: when it is done

    def to_json(self) -> JsonDict:
        specs = {name: getattr(self, name).to_json() for name in _READERS}
        return {each.name: specs.get(each.name, getattr(self, each.name)) for each in fields(self)}

    @classmethod
    def from_json(cls, obj: Mapping[str, Any]) -> WorkOrder:
        """The order in `obj`; ProtocolError for a missing or unknown field. A newer supervisor must not half-work.

        InvalidRequest, with `param`, for a spec in it that cannot be read.
        """
        known = {each.name for each in fields(cls)}
        unknown = sorted(set(obj) - known)
        if unknown:
            raise ProtocolError(f"work order has unknown fields {unknown}; known are {sorted(known)}")
        missing = sorted({"job_id", "stage", "model"} - set(obj))
        if missing:
            raise ProtocolError(f"work order lacks {missing}")
        if obj["stage"] not in get_args(Stage):
            raise ProtocolError(f"work order's stage {obj['stage']!r} is not one of {list(get_args(Stage))}")
        specs = {name: read(obj[name]) for name, read in _READERS.items() if name in obj}
        return cls(**{**obj, **specs})

    def save(self, workspace: Path) -> Path:
        """Write `job.json` into the workspace, whole or not at all."""
        path = Workspace(workspace).order
        write_json(path, self.to_json(), indent=None)
        return path

    @classmethod
    def load(cls, workspace: Path) -> WorkOrder:
        return cls.from_json(cast("JsonDict", json.loads(Workspace(workspace).order.read_text("utf-8"))))


_READERS: Final[Mapping[str, Callable[[Any], Any]]] = {
    "model": read_model,
    "data": DataSpec.from_json,
    "hyperparameters": Hyperparameters.from_json,
    "policy": Policy.from_json,
    "evidence": EvidenceSpec.from_json,
}
