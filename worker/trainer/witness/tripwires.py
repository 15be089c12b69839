"""Cheap signs, read after every step, that a tensor may have been written to. Hints only, not proof either way.

Fused optimizers and `.data` write without moving `_version`; copying a tensor onto itself moves it without a change.
The one consequence of a hint is that the tensor's bytes are compared.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from operator import attrgetter, is_
from typing import Any

import torch
from torch import Tensor

from worker.trainer.freeze.tensor_refs import TensorRef
from worker.trainer.freeze.tensor_refs import entries as slot_entries
from worker.trainer.witness.fingerprint import shard, sharded
from worker.trainer.witness.observe import components

# After so many false alarms the version counter is ignored: some tensors are copied onto themselves every step.
_FALSE_ALARMS = 8
#: Steps between looks at what no write changes without the object, the address or the counter.
PROPERTY_STEPS = 8


@dataclass(slots=True)
class Tripwire:
    """Identity, address and properties of one live tensor when its bytes were last compared."""

    entries: Mapping[str, Tensor | None]
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


class Signs:
    """What all tripwires look at, in lists that are read without a Python loop, since mostly nothing has moved."""

    def __init__(self, wires: Iterable[Tripwire]) -> None:
        wires = list(wires)
        plain = [wire for wire in wires if _plain(wire)]
        self._others = [wire for wire in wires if not _plain(wire)]
        self._entries: list[Any] = [wire.entries for wire in plain]  # each a dict
        self._leaves = [wire.leaf for wire in plain]
        self._tensors: list[Tensor] = [wire.tensor for wire in plain if wire.tensor is not None]
        self._pointers = [wire.pointer for wire in plain]
        self._versions = [wire.version for wire in plain]
        self._properties = [(wire.dtype, wire.shape, wire.requires_grad) for wire in plain]
        self._turn = 0

    def unmoved(self) -> bool:
        """Whether no tripwire hints at a write. Dtype, shape and `requires_grad` are looked at every few steps."""
        self._turn += 1
        return (
            all(map(is_, map(dict.get, self._entries, self._leaves), self._tensors))
            and list(map(_VERSION, self._tensors)) == self._versions
            and list(map(Tensor.data_ptr, self._tensors)) == self._pointers
            and (self._turn % PROPERTY_STEPS != 0 or list(map(_PROPERTIES, self._tensors)) == self._properties)
            and not any(wire.tripped() for wire in self._others)
        )


_VERSION = attrgetter("_version")
_PROPERTIES = attrgetter("dtype", "shape", "requires_grad")


def _plain(wire: Tripwire) -> bool:
    """Whether every sign counts, and is read in the ordinary way."""
    counts = wire.false_alarms < _FALSE_ALARMS and wire.version >= 0
    return counts and wire.tensor is not None and not wire.special and type(wire.entries) is dict


def _address(tensor: Tensor) -> int:
    """Of its bytes; of the values of a sparse tensor, of this rank's part of a sharded one."""
    return components(shard(tensor))[-1].data_ptr()


def _version(tensor: Tensor) -> int:
    try:
        return tensor._version
    except RuntimeError:  # an inference tensor keeps no count
        return -1
