"""Modules that are frozen as a whole for the whole run act as fixed functions: dropout inside them is off."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from torch import Tensor, nn

from worker.trainer.freeze.pin import moves_by_itself
from worker.trainer.freeze.tensor_refs import tensor_refs

OFF = "dropout inside modules that are frozen as a whole is off: what is frozen acts as a fixed function"
ON = "dropout inside modules that are frozen as a whole is on, as in what trains (frozen_dropout)"


def sentence(*, frozen_dropout: bool) -> str:
    """The choice and its reason, in one line."""
    return ON if frozen_dropout else OFF


def fixed_modules(model: nn.Module, frozen: Iterable[Tensor]) -> list[nn.Module]:
    """The largest modules whose parameters are all among the `frozen` tensors, none inside another.

    A module is left out whose own forward pass would move a buffer that the policy lets move, such as the statistics
    of a BatchNorm under `"buffers": "track"`.
    """
    still = {id(tensor) for tensor in frozen}
    moving = {
        id(ref.tensor)
        for ref in tensor_refs(model)
        if id(ref.tensor) not in still and (ref.kind == "parameter" or moves_by_itself(ref))
    }
    return list({id(module): module for module in _fixed(model, moving)}.values())


def _fixed(module: nn.Module, moving: set[int]) -> Iterator[nn.Module]:
    if next(module.parameters(), None) is None:
        return
    if not any(id(tensor) in moving for tensor in (*module.parameters(), *module.buffers())):
        yield module
        return
    for child in module.children():
        yield from _fixed(child, moving)
