"""Layers of bitsandbytes that leave their weight and their bias as they are stored. Imports the package.

Its own layers write to frozen tensors in a forward pass: a 4-bit layer in eval mode on a CPU with AVX512-BF16 repacks
its codes and rounds its scales to bfloat16, and both kinds cast their bias to the dtype of the input. The arithmetic
here is the same.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Sequence
from typing import Any

import bitsandbytes
import torch
from bitsandbytes.nn import Linear4bit as _Linear4bit
from bitsandbytes.nn import Linear8bitLt as _Linear8bitLt
from torch import Tensor, nn
from torch.utils.flop_counter import register_flop_formula

# One line per layer and step says that int8 layers compute in float16.
logging.getLogger("bitsandbytes.autograd._functions").setLevel(logging.ERROR)


class Linear4bit(_Linear4bit):  # type: ignore[misc]  # the package is not installed everywhere
    """A linear layer over 4-bit codes."""

    def forward(self, x: Tensor) -> Tensor:
        """Like the package's layer, which computes in `compute_dtype` and answers in the input's."""
        dtype = self.compute_dtype or x.dtype
        weight: Any = self.weight
        bias = None if self.bias is None else self.bias.to(dtype)
        found: Tensor = bitsandbytes.matmul_4bit(x.to(dtype), weight, bias=bias, quant_state=weight.quant_state)
        return found.to(x.dtype)


class Linear8bitLt(_Linear8bitLt):  # type: ignore[misc]  # as above
    """A linear layer over 8-bit codes."""

    def forward(self, x: Tensor) -> Tensor:
        """Like the package's layer, whose bias is cast to the input's dtype."""
        self.state.is_training = self.training
        weight: Any = self.weight
        if weight.CB is not None:
            self.init_8bit_state()
        bias = None if self.bias is None else self.bias.to(x.dtype)
        found: Tensor = bitsandbytes.matmul(x, weight, bias=bias, state=self.state)
        return found


def _products(inputs: Sequence[int], outputs: int) -> int:
    """Operations of a linear layer: two for each number of the input and each output."""
    return 2 * math.prod(inputs) * outputs


# What is frozen is computed once where it is a good part of a pass, which torch counts by the operations that it knows.
@register_flop_formula(torch.ops.bitsandbytes.gemm_4bit)
def _four_bits(inputs: Any, codes: Any, shape: Any, *others: Any, **options: Any) -> int:
    return _products(inputs, shape[0])


@register_flop_formula(torch.ops.bitsandbytes.int8_mixed_scaled_mm)
def _mixed_eight_bits(inputs: Any, rounded: Any, codes: Any, *others: Any, **options: Any) -> int:
    return _products(inputs, codes[0])


@register_flop_formula(torch.ops.bitsandbytes.int8_scaled_mm)
def _eight_bits(inputs: Any, codes: Any, *others: Any, **options: Any) -> int:
    return _products(inputs, codes[0])


_OWN: dict[Any, Any] = {_Linear4bit: Linear4bit, _Linear8bitLt: Linear8bitLt}


def replace_layers(model: nn.Module) -> None:
    """Gives every quantised layer of the model the class above, which keeps its tensors and its name."""
    for module in model.modules():
        own = _OWN.get(type(module))
        if own is not None:
            module.__class__ = own
