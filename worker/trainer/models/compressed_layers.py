"""Layers over weights that compressed-tensors packed, which leave them packed. Imports the package.

The package's own way is to unpack the whole model in its first forward pass, in place: codes are gone then, and floats
are there instead. Here a weight is unpacked by the package for a moment, in each pass forward and backward.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from compressed_tensors.compressors import BaseCompressor
from torch import Tensor, nn

from app.evidence.format.compressed import CODES, FORMAT
from worker.trainer.freeze.quantised_parts import holds_codes, mark_unpacked

_HOOK = "ct_decompress_hook"


class CompressedLinear(nn.Linear):
    """A linear layer over packed codes."""

    @property
    def weight(self) -> Any:  # type: ignore[override]  # no plain weight is kept
        """The packed codes: peft asks a layer's weight for its device."""
        return self._parameters[CODES]

    def forward(self, x: Tensor) -> Tensor:
        """(..., inputs) to (..., outputs), in the input's dtype."""
        product: Tensor = _Product.apply(x, self)  # type: ignore[no-untyped-call]
        return product if self.bias is None else product + self.bias.to(product.dtype)

    def unpacked(self, dtype: torch.dtype) -> Tensor:
        """The weight that codes and scales stand for."""
        parts = {name: tensor.detach() for name, tensor in self._parameters.items() if tensor is not None}
        compressor: Any = BaseCompressor.get_value_from_registry(FORMAT)
        weight: Tensor = compressor.decompress(parts, self.quantization_scheme)["weight"]
        return weight.to(dtype)


class _Product(torch.autograd.Function):
    """The product with a weight that no pass keeps: the gradient's pass unpacks it again."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, layer: CompressedLinear) -> Tensor:
        ctx.layer = layer
        return F.linear(x, layer.unpacked(x.dtype))

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None]:
        (gradient,) = gradients
        return gradient @ ctx.layer.unpacked(gradient.dtype), None


def replace_packed_layers(model: nn.Module) -> None:
    """Gives every layer with packed codes the class above, and takes away what would unpack them in a first pass."""
    hook = model.__dict__.pop(_HOOK, None)
    if hook is not None:
        hook.remove()
    for module in model.modules():
        if not holds_codes(module):
            continue
        module.__class__ = CompressedLinear
        module.__dict__.pop("forward", None)
        parts = module._parameters
        for leaf, tensor in parts.items():
            if tensor is not None and leaf != "bias":
                tensor.requires_grad_(False)
        shape = parts["weight_shape"]
        assert shape is not None and parts[CODES] is not None
        mark_unpacked(module, tuple(int(size) for size in shape.tolist()))
