"""Cheap signs, read after every step, that a tensor may have been written to. Hints only, not proof either way.

Fused optimizers and `.data` write without moving `_version`; copying a tensor onto itself moves it without a change.
The one consequence of a hint is that the tensor's bytes are compared.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from worker.trainer.freeze.tensor_refs import TensorRef
from worker.trainer.freeze.tensor_refs import entries as slot_entries
from worker.trainer.witness.fingerprint import shard, sharded
from worker.trainer.witness.observe import components

# After so many false alarms the version counter is ignored: some tensors are copied onto themselves every step.
_FALSE_ALARMS = 8


@dataclass(slots=True)
class Tripwire:
    """Identity, address and properties of one live tensor when its bytes were last compared."""

    entries: dict[str, Tensor | None]
    leaf: str
    tensor: Tensor | None
    pointer: int
    version: int
    dtype: torch.dtype | None
    shape: tuple[int, ...]
    requires_grad: bool
    special: bool = False  # sharded or sparse: its address has to be looked up
    false_alarms: int = 0

    @classmethod
    def on(cls, slot: TensorRef) -> "Tripwire":
        wire = cls(slot_entries(slot.module, slot.kind), slot.leaf, None, 0, 0, None, (), False)
        wire.arm()
        return wire

    def arm(self) -> None:
        """Remember the tensor's properties as they are now."""
        tensor = self.tensor = self.entries.get(self.leaf)
        if tensor is not None:
            self.special = sharded(tensor) or tensor.layout is not torch.strided
            self.pointer, self.version = _address(tensor), _version(tensor)
            self.dtype, self.shape, self.requires_grad = tensor.dtype, tuple(tensor.shape), tensor.requires_grad

    def tripped(self) -> bool:
        tensor = self.entries.get(self.leaf)
        if tensor is not self.tensor:
            return True
        if tensor is None:
            return False
        return (
            (self.false_alarms < _FALSE_ALARMS and _version(tensor) != self.version)
            or (_address(tensor) if self.special else tensor.data_ptr()) != self.pointer
            or tensor.dtype is not self.dtype
            or tensor.shape != self.shape
            or tensor.requires_grad is not self.requires_grad
        )


def _address(tensor: Tensor) -> int:
    """Of its bytes; of the values of a sparse tensor, of this rank's part of a sharded one."""
    return components(shard(tensor))[-1].data_ptr()


def _version(tensor: Tensor) -> int:
    try:
        return tensor._version
    except RuntimeError:  # an inference tensor keeps no count
        return -1
