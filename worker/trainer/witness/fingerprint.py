"""A keyed fingerprint of live bytes, cheap enough for checks during training. It finds drift; the evidence is SHA-256.

xxh3_128 with a secret seed on the CPU and for sparse tensors, the multilinear hash on other devices.
"""

import secrets
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
import xxhash
from torch import Tensor

from worker.trainer.witness.multilinear import multilinear
from worker.trainer.witness.observe import raw, whole
from worker.trainer.witness.sharded_hash import multilinear_of_shards, split_by_rows

XXH3 = "xxh3-128"
MULTILINEAR = "multilinear-64x2"


@dataclass(frozen=True, slots=True)
class Fingerprint:
    """Two tensors with one fingerprint have the same dtype, shape and (but for 2^-62) bytes."""

    dtype: str
    shape: tuple[int, ...]
    value: str
    scheme: str
    local: bool  # of this rank's shard only

    @classmethod
    def from_json(cls, state: Mapping[str, Any]) -> "Fingerprint":
        return cls(**{**state, "shape": tuple(state["shape"])})

    def difference(self, other: "Fingerprint") -> str:
        """In words, how `other`, taken later, differs from this one."""
        if self.dtype != other.dtype:
            return f"dtype changed from {self.dtype} to {other.dtype}"
        if self.shape != other.shape:
            return f"shape changed from {list(self.shape)} to {list(other.shape)}"
        return "bytes changed"


@dataclass(frozen=True)
class Fingerprints:
    """Takes fingerprints under a secret drawn for the session, so that no input can be made to collide."""

    secret: bytes = field(default_factory=lambda: secrets.token_bytes(16), repr=False)

    def take(self, tensor: Tensor, like: Fingerprint | None = None) -> Fingerprint:
        """`like` is an earlier fingerprint to compare with: it decides the scheme, and whole tensor or own shard.

        The fingerprint of a sharded tensor is that of the whole, so all its ranks must call together. Their sums are
        added up; where the scheme has no sums, or the split is not by rows, the tensor is gathered instead.
        """
        if like is not None and like.local:
            return self.take_local(tensor)
        scheme = like.scheme if like else MULTILINEAR
        if sharded(tensor) and scheme == MULTILINEAR and split_by_rows(tensor):
            value = _hex(multilinear_of_shards(tensor, self.secret))
            return Fingerprint(str(tensor.dtype), tuple(tensor.shape), value, scheme, local=False)
        return self._of(whole(tensor), like.scheme if like else None, local=False)

    def take_local(self, tensor: Tensor) -> Fingerprint:
        """Of this rank's shard."""
        return self._of(shard(tensor), None, local=True)

    def _of(self, tensor: Tensor, scheme: str | None, *, local: bool) -> Fingerprint:
        tensor = tensor.detach()
        on_host = tensor.device.type == "cpu" or tensor.layout is not torch.strided
        scheme = scheme or (XXH3 if on_host else MULTILINEAR)
        return Fingerprint(str(tensor.dtype), tuple(tensor.shape), self._value(tensor, scheme), scheme, local)

    def _value(self, tensor: Tensor, scheme: str) -> str:
        if scheme == XXH3:
            return xxhash.xxh3_128_hexdigest(raw(tensor), seed=int.from_bytes(self.secret[:8], "little"))
        data = tensor.resolve_conj().resolve_neg().contiguous().reshape(-1).view(torch.uint8)
        return _hex(multilinear(data, self.secret))


def _hex(lanes: Iterable[int]) -> str:
    return "".join(f"{lane:016x}" for lane in lanes)


def sharded(tensor: Tensor) -> bool:
    return hasattr(tensor, "full_tensor")


def shard(tensor: Tensor) -> Tensor:
    """This rank's part of a sharded tensor; any other tensor as it is."""
    local: Tensor = getattr(tensor, "_local_tensor", tensor)
    return local
