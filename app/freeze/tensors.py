"""Descriptions of tensors for policies: names, shape, dtype, kind, and the classes of the modules around them."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from app.jsontypes import JsonDict

# Bits per element of the safetensors dtype codes.
DTYPE_BITS = {
    "F4": 4, "F6_E2M3": 6, "F6_E3M2": 6, "BOOL": 8, "U8": 8, "I8": 8, "F8_E5M2": 8, "F8_E4M3": 8, "F8_E8M0": 8,
    "F8_E4M3FNUZ": 8, "F8_E5M2FNUZ": 8, "I16": 16, "U16": 16, "F16": 16, "BF16": 16, "I32": 32, "U32": 32, "F32": 32,
    "I64": 64, "U64": 64, "F64": 64, "C64": 64, "C128": 128,
}  # fmt: skip


@dataclass(frozen=True, slots=True)
class TensorInfo:
    """One tensor of a live model under its own name; `aliases` are other names with the same storage."""

    name: str
    shape: tuple[int, ...]
    dtype: str
    kind: str = "parameter"
    aliases: tuple[str, ...] = ()
    module_types: tuple[str, ...] = ()  # class names of the enclosing modules, the root first
    persistent: bool = True  # False: a buffer that no saved file holds
    unpacked: tuple[int, ...] | None = None  # of the codes of a quantised weight: the shape of the weight

    @property
    def elements(self) -> int:
        return math.prod(self.shape)

    @property
    def nbytes(self) -> int:
        return nbytes(self.elements, self.dtype)

    def to_json(self) -> JsonDict:
        return {
            "name": self.name,
            "shape": list(self.shape),
            "dtype": self.dtype,
            "kind": self.kind,
            "aliases": list(self.aliases),
            "module_types": list(self.module_types),
            "persistent": self.persistent,
        } | ({} if self.unpacked is None else {"unpacked": list(self.unpacked)})

    @classmethod
    def from_json(cls, obj: Mapping[str, Any]) -> TensorInfo:
        return cls(
            name=obj["name"],
            shape=tuple(obj["shape"]),
            dtype=obj["dtype"],
            kind=obj.get("kind", "parameter"),
            aliases=tuple(obj.get("aliases", ())),
            module_types=tuple(obj.get("module_types", ())),
            persistent=obj.get("persistent", True),
            unpacked=tuple(obj["unpacked"]) if obj.get("unpacked") is not None else None,
        )


def nbytes(elements: int, dtype: str) -> int:
    """Bytes of so many elements of a safetensors dtype. Raises ValueError for an unknown dtype."""
    if dtype not in DTYPE_BITS:
        raise ValueError(f"unknown dtype {dtype!r}; there are {', '.join(DTYPE_BITS)}")
    return (elements * DTYPE_BITS[dtype] + 7) // 8
