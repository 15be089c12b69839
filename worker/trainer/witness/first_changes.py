"""When each tensor that may move first did: the first look that saw other bytes than at the start."""

from collections.abc import Iterable, Mapping
from dataclasses import asdict
from typing import Any

from torch import Tensor

from app.freeze.plan import Decision
from worker.trainer.freeze.slots import Slot
from worker.trainer.witness.fingerprint import Fingerprint, Fingerprints, sharded


class FirstChanges:
    """`found` has the step by name; what has not moved yet is looked at again."""

    def __init__(self) -> None:
        self.found: dict[str, int] = {}
        self.looked = False  # at all of them, once
        self._unmoved: dict[str, Fingerprint] = {}

    @property
    def waits(self) -> bool:
        """Whether there is a tensor that may move and has not yet been seen to."""
        return bool(self._unmoved)

    def begin(self, decisions: Iterable[Decision], live: Mapping[str, Slot], prints: Fingerprints) -> None:
        for decision in decisions:
            tensor = live[decision.name].tensor
            if decision.frozen_elements < decision.elements and tensor is not None:
                self._unmoved[decision.name] = _print(tensor, prints)

    def take_up(self, live: Mapping[str, Slot], prints: Fingerprints) -> None:
        """After a restore: what had not moved is as it was at the start, and each rank looks at its own shard of it."""
        for name in self._unmoved:
            tensor = live[name].tensor if name in live else None
            if tensor is not None and sharded(tensor):
                self._unmoved[name] = _print(tensor, prints)

    def sizes(self, live: Mapping[str, Slot]) -> dict[str, int]:
        """Bytes of each tensor that has not moved yet."""
        tensors = {name: live[name].tensor for name in self._unmoved if name in live}
        return {name: tensor.nbytes for name, tensor in tensors.items() if tensor is not None}

    def look(
        self, live: Mapping[str, Slot], prints: Fingerprints, *, step: int, names: Iterable[str] | None = None
    ) -> None:
        self.looked = self.looked or names is None
        for name in list(self._unmoved if names is None else names):
            known = self._unmoved[name]
            tensor = live[name].tensor if name in live else None
            if tensor is None or prints.take(tensor, known) != known:
                self.found[name] = step
                del self._unmoved[name]

    def state_dict(self) -> dict[str, Any]:
        unmoved = {name: asdict(print_) for name, print_ in self._unmoved.items()}
        return {"first_changed": dict(self.found), "unmoved": unmoved}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self.found = dict(state["first_changed"])
        self._unmoved = {name: Fingerprint.from_json(print_) for name, print_ in state["unmoved"].items()}


def _print(tensor: Tensor, prints: Fingerprints) -> Fingerprint:
    return prints.take_local(tensor) if sharded(tensor) else prints.take(tensor)
