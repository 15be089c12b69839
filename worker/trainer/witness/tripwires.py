"""Cheap signs that a tensor may have been written to, looked at every step. Hints, not proof, in either direction.

Fused optimizers and `.data` write without moving `_version`; a copy of a tensor onto itself moves it without a change.
A hint asks for a look at the bytes, and nothing else.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from worker.trainer.freeze.slots import Slot, entries
from worker.trainer.witness.fingerprint import shard, sharded

# A tensor whose counter moves every step without a change (it is copied onto itself, say) is left to the timed checks.
_PATIENCE = 8


@dataclass(slots=True)
class Wire:
    """How one live entry looked when its bytes were last known."""

    held: dict[str, Tensor | None]
    leaf: str
    tensor: Tensor | None
    pointer: int
    version: int
    dtype: torch.dtype | None
    shape: tuple[int, ...]
    requires_grad: bool
    sharded: bool = False
    false_alarms: int = 0

    @classmethod
    def on(cls, slot: Slot) -> "Wire":
        wire = cls(entries(slot.module, slot.kind), slot.leaf, None, 0, 0, None, (), False)
        wire.arm()
        return wire

    def arm(self) -> None:
        """Remember how it looks now."""
        tensor = self.tensor = self.held.get(self.leaf)
        if tensor is not None:
            self.sharded = sharded(tensor)
            self.pointer, self.version = shard(tensor).data_ptr(), _version(tensor)
            self.dtype, self.shape, self.requires_grad = tensor.dtype, tuple(tensor.shape), tensor.requires_grad

    def tripped(self) -> bool:
        tensor = self.held.get(self.leaf)
        if tensor is not self.tensor:
            return True
        if tensor is None:
            return False
        return (
            (self.false_alarms < _PATIENCE and _version(tensor) != self.version)
            or (shard(tensor) if self.sharded else tensor).data_ptr() != self.pointer
            or tensor.dtype is not self.dtype
            or tensor.shape != self.shape
            or tensor.requires_grad is not self.requires_grad
        )


def _version(tensor: Tensor) -> int:
    try:
        return tensor._version
    except RuntimeError:  # an inference tensor keeps no count
        return -1
