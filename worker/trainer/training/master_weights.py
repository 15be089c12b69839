"""fp32 master copies of the half-precision weights that train, so that small updates are not lost to rounding.

bf16 has 8 bits of precision: next to a weight of 1.0 an update below 0.004 rounds to nothing. So the optimizer updates
a copy in fp32, which is rounded into the weight after each step (Micikevicius et al. 2018, "Mixed Precision Training").
Frozen weights need no copy.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext

import torch
from torch import Tensor, nn

HALF = (torch.bfloat16, torch.float16)


class MasterWeights:
    """`copies` are the master copies by the names that the optimizer's parameters have; empty for fp32 weights."""

    def __init__(self, parameters: Sequence[tuple[str, nn.Parameter]]) -> None:
        self._parameters = {name: parameter for name, parameter in parameters if parameter.dtype in HALF}
        self.copies = {name: parameter.detach().float() for name, parameter in self._parameters.items()}
        self._versions = {name: parameter._version for name, parameter in self._parameters.items()}

    def updating(self) -> AbstractContextManager[None]:
        """Inside, parameters with a gradient are their master copies, and the gradients are in fp32.

        Afterwards the weights are the rounded copies, in their own memory, and have no gradients.
        """
        names = [name for name, parameter in self._parameters.items() if parameter.grad is not None]
        return self._in_place(names) if names else nullcontext()  # in fp32 there are none, at every step

    def loading(self) -> AbstractContextManager[None]:
        """Inside, all parameters are their master copies: an optimizer casts the state that it loads to their dtype."""
        return self._in_place(list(self._parameters))

    def load(self, saved: Mapping[str, Tensor]) -> None:
        """Replace the copies by those of a checkpoint. Without any there, this run trains without, as that one did."""
        if set(saved) != set(self._parameters):
            self._parameters, self.copies = {}, {}
            return
        for name, parameter in self._parameters.items():
            self.copies[name] = saved[name].to(parameter.device)
            self._versions[name] = parameter._version

    @contextmanager
    def _in_place(self, names: list[str]) -> Iterator[None]:
        weights = {name: self._parameters[name].data for name in names}
        try:
            for name, weight in weights.items():
                parameter = self._parameters[name]
                gradient, parameter.grad = parameter.grad, None
                parameter.data = self._up_to_date(name, weight)
                parameter.grad = None if gradient is None else gradient.float()
            yield
        finally:
            for name, weight in weights.items():
                parameter = self._parameters[name]
                parameter.grad = None
                self.copies[name] = parameter.data
                parameter.data = weight.copy_(parameter.data)
                self._versions[name] = parameter._version

    def _up_to_date(self, name: str, weight: Tensor) -> Tensor:
        """The copy, with the values that something else wrote to the weight, such as an embedding's max_norm."""
        copy = self.copies[name]
        if self._parameters[name]._version == self._versions[name]:
            return copy
        return torch.where(copy.to(weight.dtype) != weight, weight.float(), copy)
