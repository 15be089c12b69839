"""Ties of a model whose weights were not read: transformers decides by their values where files hold both names."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import torch
from safetensors import safe_open
from torch import nn

from worker.trainer.models import names

_ROWS = 4096  # that are compared at a time


def tie_as_loading_does(model: nn.Module, folder: Path, codes: Mapping[str, str]) -> None:
    """Ties what is tied once the weights are loaded: two names with equal values in the files, or not found there.

    On the meta device transformers leaves them apart. `codes` has the names in the files.
    """
    ties: dict[str, str] = getattr(model, "all_tied_weights_keys", None) or {}
    prefix = names.prefix_of(model)
    for target, source in list(ties.items()):
        parent, _, name = target.rpartition(".")
        state = model.state_dict(keep_vars=True)
        if source not in state or target not in state or state[target] is state[source]:
            continue
        stored = [names.name_in_base(each, prefix, codes) for each in (target, source)]
        if stored[0] is not None and stored[1] is not None and not _equal(folder, stored[0], stored[1]):
            del ties[target]
            continue
        setattr(model.get_submodule(parent), name, state[source])


def _equal(folder: Path, first: str, second: str) -> bool:
    """Whether two stored tensors have the same values."""
    if first == second:
        return True
    where: dict[str, Path] = {}
    for path in folder.glob("*.safetensors"):
        with safe_open(path, framework="pt") as file:
            where |= {name: path for name in (first, second) if name in file.keys()}  # noqa: SIM118 - no mapping
    with safe_open(where[first], framework="pt") as one, safe_open(where[second], framework="pt") as other:
        slices = one.get_slice(first), other.get_slice(second)
        if slices[0].get_shape() != slices[1].get_shape() or slices[0].get_dtype() != slices[1].get_dtype():
            return False
        rows = (slices[0].get_shape() or [1])[0]
        return all(torch.equal(slices[0][at : at + _ROWS], slices[1][at : at + _ROWS]) for at in range(0, rows, _ROWS))
