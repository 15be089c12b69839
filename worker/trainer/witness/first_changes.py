"""The first step at which each trainable tensor was seen to differ from its bytes at the start."""

from collections.abc import Iterable, Mapping
from dataclasses import asdict
from typing import Any

from torch import Tensor

from app.freeze.plan import Decision
from app.jsontypes import JsonDict
from worker.trainer.freeze.tensor_refs import TensorRef
from worker.trainer.witness.fingerprint import Fingerprint, Fingerprints, sharded
from worker.trainer.witness.observe import stored_bytes, unreadable


class FirstChanges:
    """`found` has the step by name. Only tensors that have not moved yet are compared again."""

    def __init__(self) -> None:
        self.found: dict[str, int] = {}
        self.looked_at_all = False
        self._unmoved: dict[str, Fingerprint] = {}

    @property
    def pending(self) -> bool:
        """Whether some tensor that may move has not been seen to move yet."""
        return bool(self._unmoved)

    def begin(self, decisions: Iterable[Decision], live: Mapping[str, TensorRef], prints: Fingerprints) -> None:
        for decision in decisions:
            tensor = live[decision.name].tensor
            may_move = decision.frozen_elements < decision.elements
            if may_move and tensor is not None and unreadable(tensor) is None:
                self._unmoved[decision.name] = _print(tensor, prints)

    def resume(self, live: Mapping[str, TensorRef], prints: Fingerprints) -> None:
        """After a restore: what had not moved holds its first bytes, and each rank compares its own shard of them."""
        for name in self._unmoved:
            tensor = live[name].tensor if name in live else None
            if tensor is not None and sharded(tensor):
                self._unmoved[name] = _print(tensor, prints)

    def sizes(self, live: Mapping[str, TensorRef]) -> dict[str, int]:
        """Bytes of each tensor that has not moved yet."""
        tensors = {name: live[name].tensor for name in self._unmoved if name in live}
        return {name: stored_bytes(tensor) for name, tensor in tensors.items() if tensor is not None}

    def check(
        self, live: Mapping[str, TensorRef], prints: Fingerprints, *, step: int, names: Iterable[str] | None = None
    ) -> None:
        """Compare these, or all that have not moved yet, and date those that differ now."""
        self.looked_at_all = self.looked_at_all or names is None
        for name in list(self._unmoved if names is None else names):
            known = self._unmoved[name]
            tensor = live[name].tensor if name in live else None
            if tensor is None or prints.take(tensor, known) != known:
                self.found[name] = step
                del self._unmoved[name]

    def state_dict(self) -> JsonDict:
        unmoved = {name: asdict(fingerprint) for name, fingerprint in self._unmoved.items()}
        return {"first_changed": dict(self.found), "unmoved": unmoved}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self.found = dict(state["first_changed"])
        self._unmoved = {name: Fingerprint.from_json(fingerprint) for name, fingerprint in state["unmoved"].items()}


def _print(tensor: Tensor, prints: Fingerprints) -> Fingerprint:
    return prints.take_local(tensor) if sharded(tensor) else prints.take(tensor)
