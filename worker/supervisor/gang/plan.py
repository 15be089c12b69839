"""What the leader of a gang tells its members: where all meet, and what each of them has to start from."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any, Self

from app.jsontypes import JsonDict


@dataclass(frozen=True, slots=True)
class TravellingCheckpoint:
    """The files of a checkpoint in the storage, from which any machine can go on: (name, blob, SHA-256) each."""

    step: int
    files: tuple[tuple[str, str, str], ...]


@dataclass(frozen=True, slots=True)
class GangPlan:
    """One attempt's plan. The members compare code and base with their own before they train."""

    endpoint: str
    code: str
    base: str
    base_root: str | None
    checkpoint: TravellingCheckpoint | None = None

    def to_json(self) -> JsonDict:
        return asdict(self)

    @classmethod
    def from_json(cls, content: Mapping[str, Any]) -> Self:
        saved = content["checkpoint"]
        files = tuple((str(name), str(blob), str(sha256)) for name, blob, sha256 in saved["files"]) if saved else ()
        checkpoint = TravellingCheckpoint(int(saved["step"]), files) if saved else None
        root = content["base_root"]
        return cls(content["endpoint"], content["code"], content["base"], root, checkpoint)


@dataclass(frozen=True, slots=True)
class MemberOutcome:
    """How a member's part ended: its trainer's exit code and last report, or what went wrong before there was one."""

    code: int | None = None
    failed: JsonDict | None = None
    error: str | None = None

    def to_json(self) -> JsonDict:
        return asdict(self)

    @classmethod
    def from_json(cls, content: Mapping[str, Any]) -> Self:
        return cls(content.get("code"), content.get("failed"), content.get("error"))
