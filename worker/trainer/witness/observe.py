"""The bytes of a live tensor, and their SHA-256, which the evidence compares. -0.0 and NaN payloads count."""

import hashlib
import os
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import torch
from torch import Tensor, nn

from worker.trainer.freeze.tensor_refs import tensor_refs

#: The dense tensors that a sparse one is stored as, by layout.
COMPONENTS = {
    torch.sparse_coo: ("_indices", "_values"),
    torch.sparse_csr: ("crow_indices", "col_indices", "values"),
    torch.sparse_bsr: ("crow_indices", "col_indices", "values"),
    torch.sparse_csc: ("ccol_indices", "row_indices", "values"),
    torch.sparse_bsc: ("ccol_indices", "row_indices", "values"),
}


def observe(model: nn.Module, names: Iterable[str] | None = None) -> dict[str, str]:
    """SHA-256 (hex) of each tensor's raw bytes in logical order, by live name; of all of them without `names`.

    Tied names are hashed once. KeyError for a name that the model does not have.
    """
    live = {slot.name: slot.tensor for slot in tensor_refs(model)}
    chosen = list(live if names is None else names)
    distinct = {id(live[name]): live[name] for name in chosen}
    with ThreadPoolExecutor(os.cpu_count()) as pool:  # hashlib releases the GIL
        digests = dict(zip(distinct, pool.map(digest, distinct.values()), strict=True))
    return {name: digests[id(live[name])] for name in chosen}


def digest(tensor: Tensor) -> str:
    return hashlib.sha256(raw(tensor)).hexdigest()


def raw(tensor: Tensor) -> memoryview:
    """The bytes as a safetensors file would hold them: row-major, any dtype, from any device.

    A dense row-major CPU tensor is not copied. A sharded tensor is gathered, so all its ranks must call together.
    A sparse one is read as its components, one after the other: the same values in another order are other bytes.
    """
    if tensor.layout in COMPONENTS:
        return memoryview(b"".join(raw(part) for part in components(tensor)))

    tensor = whole(tensor).detach()
    tensor = tensor.resolve_conj().resolve_neg().cpu().contiguous()
    if tensor.numel() == 0:
        return memoryview(b"")
    array: Any = tensor.reshape(-1).view(torch.uint8).numpy()
    return memoryview(array)


def whole(tensor: Tensor) -> Tensor:
    """The tensor itself, or a sharded one gathered from all its ranks, which must call together."""
    gather = getattr(tensor, "full_tensor", None)
    gathered: Tensor = gather() if gather is not None else tensor
    return gathered


def components(tensor: Tensor) -> list[Tensor]:
    """The dense tensors that hold a tensor's bytes: itself, unless it is sparse."""
    names = COMPONENTS.get(tensor.layout)
    return [tensor] if names is None else [getattr(tensor.detach(), name)() for name in names]


def stored_bytes(tensor: Tensor) -> int:
    return sum(part.nbytes for part in components(tensor))


def unreadable(tensor: Tensor) -> str | None:
    """Why a tensor's bytes cannot be read, or None."""
    if tensor.is_meta:
        return "it is on the meta device and has no bytes; load the model before watching it"
    if tensor.layout is not torch.strided and tensor.layout not in COMPONENTS:
        return f"its layout is {tensor.layout}, and only dense and sparse tensors have bytes to compare"
    return None
