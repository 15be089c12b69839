"""One live name under watch: what its frozen bytes were, and when they were last seen so."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

from torch import Tensor

from app.freeze.plan import Decision
from worker.trainer.freeze.schedule import frozen_after
from worker.trainer.witness.fingerprint import Fingerprint, Fingerprints, sharded
from worker.trainer.witness.report import Interval


@dataclass(slots=True)
class Watch:
    """A whole tensor or the frozen rows of one; open while it is within a freeze, when `known` holds its bytes' prints.

    A tied tensor is watched under each of its names.
    """

    name: str
    decision: Decision
    known: tuple[Fingerprint, ...] = ()
    whole: tuple[Fingerprint, ...] = ()  # of a sharded tensor, whose `known` are of this rank's shard
    last_good: int = 0
    violated: bool = False
    intervals: list[Interval] = field(default_factory=list)

    @property
    def open(self) -> bool:
        return bool(self.known)

    def begins(self, step: int) -> bool:
        """Not yet open, and frozen for the update after `step`."""
        return not self.open and frozen_after(self.decision, step)

    def ends(self, step: int) -> bool:
        """Open, and `step` was the last update of its freeze."""
        return self.open and any(stop == step for _, stop in self.decision.intervals)

    def take(self, tensor: Tensor, prints: Fingerprints) -> tuple[Fingerprint, ...]:
        """Fingerprints of the frozen parts as they are now, of the same kind as those known."""
        parts = self._parts(tensor)
        likes = self.known if len(self.known) == len(parts) else (None,) * len(parts)
        return tuple(prints.take(part, like) for part, like in zip(parts, likes, strict=True))

    def localise(self, tensor: Tensor, prints: Fingerprints) -> None:
        """The whole was read, or compared, once by all ranks together; now each watches its own shard, alone."""
        if sharded(tensor) and not all(part.local for part in self.known):
            self.whole = self.known
            self.known = tuple(prints.take_local(part) for part in self._parts(tensor))

    def close(self) -> None:
        self.known = self.whole = ()

    def state_dict(self) -> dict[str, Any]:
        return {
            "known": [asdict(part) for part in self.whole or self.known],
            "last_good": self.last_good,
            "violated": self.violated,
            "intervals": [asdict(interval) for interval in self.intervals],
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self.known = tuple(Fingerprint.from_json(print_) for print_ in state["known"])
        self.last_good, self.violated = state["last_good"], state["violated"]
        self.intervals = [Interval(**interval) for interval in state["intervals"]]

    def _parts(self, tensor: Tensor) -> list[Tensor]:
        rows = self.decision.frozen_rows
        if not rows or tuple(tensor.shape) != self.decision.shape:
            return [tensor]
        return [tensor.detach()[start:stop] for start, stop in rows]


def difference(known: tuple[Fingerprint, ...], found: tuple[Fingerprint, ...]) -> str | None:
    """In words, what is not as it was; None when nothing is."""
    if len(known) != len(found):
        return "shape changed"
    return next((a.difference(b) for a, b in zip(known, found, strict=True) if a != b), None)
