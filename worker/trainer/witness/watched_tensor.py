"""One live name under watch: the fingerprints of its frozen bytes, and the last step at which they were confirmed."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

from torch import Tensor

from app.freeze.plan import Decision
from app.jsontypes import JsonDict
from worker.trainer.freeze.schedule import frozen_after
from worker.trainer.witness.fingerprint import Fingerprint, Fingerprints, sharded
from worker.trainer.witness.report import IntervalDigests


@dataclass(slots=True)
class WatchedTensor:
    """A whole tensor, or the frozen rows of one. While it is frozen (`open`), `known` has a fingerprint per part.

    A tied tensor is watched under each of its names.
    """

    name: str
    decision: Decision
    known: tuple[Fingerprint, ...] = ()
    whole: tuple[Fingerprint, ...] = ()  # of a sharded tensor, whose `known` are of this rank's shard
    last_good: int = 0
    violated: bool = False
    intervals: list[IntervalDigests] = field(default_factory=list)

    @property
    def open(self) -> bool:
        return bool(self.known)

    def begins(self, step: int) -> bool:
        """Whether a freeze begins with the update after `step`."""
        return not self.open and frozen_after(self.decision, step)

    def ends(self, step: int) -> bool:
        """Whether `step` was the last update of the freeze that is open."""
        return self.open and any(stop == step for _, stop in self.decision.intervals)

    def fingerprints(self, tensor: Tensor, prints: Fingerprints) -> tuple[Fingerprint, ...]:
        """Of the frozen parts as they are now, made with the scheme and extent of those in `known`."""
        parts = self._frozen_parts(tensor)
        likes = self.known if len(self.known) == len(parts) else (None,) * len(parts)
        return tuple(prints.take(part, like) for part, like in zip(parts, likes, strict=True))

    def difference(self, tensor: Tensor, prints: Fingerprints) -> str | None:
        """In words, how the tensor differs from what is known of it; None when it does not."""
        return first_difference(self.known, self.fingerprints(tensor, prints))

    def watch_own_shard(self, tensor: Tensor, prints: Fingerprints) -> None:
        """From here on compare only this rank's shard: the whole has been read by all ranks together once."""
        if sharded(tensor) and not all(part.local for part in self.known):
            self.whole = self.known
            self.known = tuple(prints.take_local(part) for part in self._frozen_parts(tensor))

    def close(self) -> None:
        self.known = self.whole = ()

    def state_dict(self) -> JsonDict:
        return {
            "known": [asdict(part) for part in self.whole or self.known],
            "last_good": self.last_good,
            "violated": self.violated,
            "intervals": [asdict(interval) for interval in self.intervals],
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self.known = tuple(Fingerprint.from_json(part) for part in state["known"])
        self.last_good, self.violated = state["last_good"], state["violated"]
        self.intervals = [IntervalDigests(**interval) for interval in state["intervals"]]

    def _frozen_parts(self, tensor: Tensor) -> list[Tensor]:
        rows = self.decision.frozen_rows
        if not rows or tuple(tensor.shape) != self.decision.shape:
            return [tensor]
        return [tensor.detach()[start:stop] for start, stop in rows]


def first_difference(known: tuple[Fingerprint, ...], now: tuple[Fingerprint, ...]) -> str | None:
    if len(known) != len(now):
        return "shape changed"
    return next((before.difference(after) for before, after in zip(known, now, strict=True) if before != after), None)
