"""The bytes of a live tensor, and their SHA-256: what the evidence compares. -0.0 and NaN payloads count."""

import hashlib
import os
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import torch
from torch import Tensor, nn

from worker.trainer.freeze.slots import slots


def observe(model: nn.Module, names: Iterable[str] | None = None) -> dict[str, str]:
    """SHA-256 (hex) of each tensor's raw bytes in logical order, by live name; every name when none are given.

    Tied names are hashed once. KeyError for a name that the model does not have.
    """
    live = {slot.name: slot.tensor for slot in slots(model)}
    wanted = list(live if names is None else names)
    distinct = {id(live[name]): live[name] for name in wanted}
    with ThreadPoolExecutor(os.cpu_count()) as pool:  # hashlib releases the GIL
        digests = dict(zip(distinct, pool.map(digest, distinct.values()), strict=True))
    return {name: digests[id(live[name])] for name in wanted}


def digest(tensor: Tensor) -> str:
    return hashlib.sha256(raw(tensor)).hexdigest()


def raw(tensor: Tensor) -> memoryview:
    """The bytes as a safetensors file would hold them: row-major, any dtype, from any device.

    A dense row-major CPU tensor is not copied. A sharded tensor is gathered, so all its ranks must ask together.
    """
    tensor = whole(tensor).detach()
    tensor = tensor.resolve_conj().resolve_neg().cpu().contiguous()
    if tensor.numel() == 0:
        return memoryview(b"")
    array: Any = tensor.reshape(-1).view(torch.uint8).numpy()
    return memoryview(array)


def whole(tensor: Tensor) -> Tensor:
    gather = getattr(tensor, "full_tensor", None)
    gathered: Tensor = gather() if gather is not None else tensor
    return gathered
