"""Gives each tensor of a loaded model the dtype that its files store it in.

transformers loads a model in one dtype, apart from a few modules that a class keeps in float32. Files often mix dtypes:
bfloat16 matrices beside float32 norms, routers, or the `A_log` of a state space model.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from pathlib import Path

import torch
from safetensors import safe_open
from torch import Tensor, nn

from app.errors import ModelError
from app.evidence.format.block_scaled import is_coded
from worker.trainer.freeze.inventory import DTYPE_CODES, tensors
from worker.trainer.models import names

FLOATS = {"F32": torch.float32, "BF16": torch.bfloat16, "F16": torch.float16, "F64": torch.float64}

Read = Callable[[str], Tensor]


def restore(model: nn.Module, codes: Mapping[str, str], read: Read | None) -> list[str]:
    """Replaces the data of every tensor whose dtype is not the stored one. Returns their names in the files.

    `codes` are the dtype codes of the stored tensors, by name. `read` gives one of them; without it, on the meta
    device, only the dtype changes.
    """
    state = model.state_dict(keep_vars=True)
    live_codes = {DTYPE_CODES.get(tensor.dtype) for tensor in state.values() if tensor.is_floating_point()}
    if live_codes | {code for code in codes.values() if code in FLOATS} == live_codes and len(live_codes) <= 1:
        return []

    restored: list[str] = []
    for live, pieces in stored_pieces(model, codes).items():
        tensor = state[live]
        stored = {FLOATS.get(codes[name]) for name, _ in pieces}
        dtype = next(iter(stored))
        if len(stored) > 1 or dtype is None or dtype == tensor.dtype or not tensor.is_floating_point():
            continue
        data = torch.empty_like(tensor, dtype=dtype)
        if read is not None:
            for name, rows in pieces:
                _write(data, read(name), rows)
        tensor.data = data
        restored += [name for name, _ in pieces]
    return restored


def refuse_whole_numbers(model: nn.Module, codes: Mapping[str, str]) -> None:
    """Raises ModelError where the files hold whole numbers for weights, which a quantised model's are."""
    whole = {name for name, code in codes.items() if code.startswith(("I", "U")) and not is_coded(name, code)}
    whole -= _counters(model, codes)
    if not whole:
        return
    state = model.state_dict(keep_vars=True)
    for live, pieces in stored_pieces(model, codes).items():
        stored = next((name for name, _ in pieces if name in whole), None)
        if stored is not None and state[live].is_floating_point():
            message = (
                f"tensor {stored!r} is stored as {codes[stored]}, whole numbers in place of weights: a quantised form, "
                "which cannot be trained; take the model's plain weights (bfloat16 or float32), or save a dequantised "
                "copy"
            )
            raise ModelError(message, param="model", code="quantised_model")


def _counters(model: nn.Module, codes: Mapping[str, str]) -> set[str]:
    """Names in the files of the model's own whole numbers, such as position ids, also of those that it does not save.

    Only these are there in most models, and working out which name is stored for which tensor takes longer.
    """
    prefix = names.prefix_of(model)
    live = [name for name, tensor in model.named_buffers() if not tensor.is_floating_point()]
    return {found for name in live if (found := names.name_in_base(name, prefix, codes)) is not None}


def reader(files: Iterable[Path]) -> Read:
    """A function that reads single tensors, by name, from these safetensors files."""
    where: dict[str, Path] = {}
    for path in files:
        with safe_open(path, framework="pt") as file:
            where |= dict.fromkeys(file.keys(), path)

    def read(name: str) -> Tensor:
        with safe_open(where[name], framework="pt") as file:
            tensor: Tensor = file.get_tensor(name)
            return tensor

    return read


def stored_pieces(model: nn.Module, codes: Mapping[str, str]) -> dict[str, list[tuple[str, names.RowRange | None]]]:
    """For each live tensor that the files hold entirely, the names there, with the rows where they are parts."""
    prefix = names.prefix_of(model)
    inventory = tensors(model)
    pieces: dict[str, list[tuple[str, names.RowRange | None]]] = {}
    unknown: set[str] = set()
    for stored in names.stored_form(model, inventory, base={}):
        name = names.name_in_base(stored.name, prefix, codes)
        if name is None or (stored.part and stored.rows is None):
            unknown.add(stored.live)
        else:
            pieces.setdefault(stored.live, []).append((name, stored.rows))
    return {live: found for live, found in pieces.items() if live not in unknown and live}


def _write(target: Tensor, source: Tensor, rows: names.RowRange | None) -> None:
    with torch.no_grad():
        if rows is None:
            target.copy_(source)
            return
        width = target.shape[-1] if target.dim() > 1 else 1
        target.view(-1, width)[slice(*rows)].copy_(source.reshape(-1, width))
