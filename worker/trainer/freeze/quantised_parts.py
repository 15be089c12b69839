"""Tensors of a quantised weight that a module holds outside of its parameters and buffers: its scales.

bitsandbytes keeps them in attributes of the weight, where `named_parameters` and `named_buffers` do not see them. They
are read where the forward pass reads them, under the names that files give them. The package itself is not imported.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch import Tensor, nn

_PACKED = "weight_packed"
_FOUR_BITS, _EIGHT_BITS = "Params4bit", "Int8Params"
_LAID_OUT = "_permafrost_laid_out"  # in a module's __dict__: scales of a model without bytes
_UNPACKED = "_permafrost_unpacked"  # of such a weight
_MADE = "_permafrost_made"  # in a module's __dict__: its weight was quantised while loading, and no file holds it
_DECODED = "_permafrost_decoded"  # in a module's __dict__: names of its weights that loading decoded from codes
_FORM = "_permafrost_form"  # in a module's __dict__: what its description was made from, and the description


class Scales(Mapping[str, "Tensor | None"]):
    """The buffers and scales of one module by name, looked up anew each time."""

    def __init__(self, module: nn.Module) -> None:
        self._module = module

    def __getitem__(self, name: str) -> Tensor | None:
        buffers = self._module._buffers
        return buffers[name] if name in buffers else _parts(self._module)[name]

    def __iter__(self) -> Iterator[str]:
        yield from self._module._buffers
        yield from _parts(self._module)

    def __len__(self) -> int:
        return len(self._module._buffers) + len(_parts(self._module))


def holds_scales(module: nn.Module) -> bool:
    """Whether the module's weight is quantised, with scales that are neither parameters nor buffers."""
    return _LAID_OUT in module.__dict__ or type(module._parameters.get("weight")).__name__ in (_FOUR_BITS, _EIGHT_BITS)


def holds_codes(module: nn.Module) -> bool:
    """Whether the module's weight is packed, in parameters of its own."""
    return _PACKED in module._parameters


def is_quantised(module: nn.Module) -> bool:
    """Whether the module's weight is quantised, in one of these ways, or was decoded from one that is stored so."""
    return holds_scales(module) or holds_codes(module) or bool(decoded_weights(module))


def lay_out_packed(module: nn.Module, parts: Mapping[str, Tensor], *, unpacked: tuple[int, ...]) -> None:
    """Makes a plain layer one with a packed weight, whose tensors are `parts` by their names in it."""
    module.__class__ = type("CompressedLinear", (type(module),), {})
    del module._parameters["weight"]
    for leaf, tensor in parts.items():
        module._parameters[leaf] = nn.Parameter(tensor, requires_grad=False)
    mark_unpacked(module, unpacked)


def mark_unpacked(module: nn.Module, shape: tuple[int, ...]) -> None:
    """Notes the shape of the weight that a module's packed codes stand for."""
    setattr(module._parameters[_PACKED], _UNPACKED, shape)


def scales(model: nn.Module) -> Iterator[Tensor]:
    """The scales of every module in `model`."""
    for module in model.modules():
        if holds_scales(module):
            yield from _parts(module).values()


def mark_made(module: nn.Module) -> None:
    """Notes that the weight was quantised while loading: files have the plain weight, and none of its scales."""
    module.__dict__[_MADE] = True


def is_made(module: nn.Module) -> bool:
    """Whether the module's weight was quantised while it was loaded."""
    return _MADE in module.__dict__


def mark_decoded(module: nn.Module, leaf: str) -> None:
    """Notes that a weight of the module was decoded while loading: files have its codes."""
    module.__dict__[_DECODED] = (*decoded_weights(module), leaf)


def decoded_weights(module: nn.Module) -> tuple[str, ...]:
    """Names in the module of its weights that loading decoded."""
    found: tuple[str, ...] = module.__dict__.get(_DECODED, ())
    return found


def made_weight(module: nn.Module, leaf: str) -> str | None:
    """The weight of the module, made of stored tensors while loading, that a tensor of it is a part of, if any."""
    if is_made(module):
        return None if leaf == "bias" else "weight"
    return leaf if leaf in decoded_weights(module) else None


def digest_of(parts: Mapping[str, str]) -> str:
    """One SHA-256 (hex) of a made weight: its own where it is one tensor.

    Of a quantised weight it is made of those of its codes (`weight`) and scales, by their names in it.
    """
    if len(parts) == 1:
        return next(iter(parts.values()))
    lines = "".join(f"{parts[name]}  {name}\n" for name in sorted(parts))
    return hashlib.sha256(lines.encode()).hexdigest()


def follow(model: nn.Module) -> None:
    """After a model was moved: brings along what an 8-bit layer leaves behind.

    torch moves the data of a parameter and keeps the object, whose attributes stay where they were. A 4-bit weight
    moves its scales itself.
    """
    for module in model.modules():
        weight: Any = module._parameters.get("weight")
        if type(weight).__name__ == _EIGHT_BITS and weight.SCB is not None:
            weight.CB, weight.SCB = weight.data, weight.SCB.to(weight.device)


def shape_of(tensor: Tensor) -> tuple[int, ...] | None:
    """The shape of the weight that a tensor holds the codes of; None where it is no such tensor or has that shape."""
    if (known := getattr(tensor, _UNPACKED, None)) is not None:
        return None if tuple(known) == tuple(tensor.shape) else tuple(known)
    state = getattr(tensor, "quant_state", None) if type(tensor).__name__ == _FOUR_BITS else None
    shape = getattr(state, "shape", None)
    return None if shape is None else tuple(shape)


def lay_out(
    module: nn.Module, kind: str, codes: Tensor, parts: Mapping[str, Tensor], *, unpacked: tuple[int, ...]
) -> None:
    """Makes a plain layer one with a quantised weight, of a class called `kind`: for names and shapes, not to run."""
    module.__class__ = type(kind, (_LaidOut, type(module)), {})
    weight = nn.Parameter(codes, requires_grad=False)
    setattr(weight, _UNPACKED, unpacked)
    module._parameters["weight"] = weight
    module.__dict__[_LAID_OUT] = dict(parts)


class _LaidOut(nn.Module):
    """A layer whose state dict has its scales, as that of bitsandbytes' layers has."""

    def _save_to_state_dict(self, destination: Any, prefix: str, keep_vars: bool) -> None:
        super()._save_to_state_dict(destination, prefix, keep_vars)
        destination.update({f"{prefix}{name}": tensor for name, tensor in _parts(self).items()})


def _parts(module: nn.Module) -> dict[str, Tensor]:
    if _LAID_OUT in module.__dict__:
        laid_out: dict[str, Tensor] = module.__dict__[_LAID_OUT]
        return laid_out
    weight: Any = module._parameters["weight"]
    if type(weight).__name__ == _EIGHT_BITS:
        # The first forward pass moves it from the weight to the layer's state.
        scale = weight.SCB if weight.SCB is not None else getattr(getattr(module, "state", None), "SCB", None)
        return {} if scale is None else {"SCB": scale, "weight_format": _format(module)}
    state = weight.quant_state
    return {} if state is None else {f"weight.{name}": tensor for name, tensor in _of_state(module, state).items()}


def _format(module: nn.Module) -> Tensor:
    """The number of the row-major layout, which is the only one; bitsandbytes makes a new tensor each time."""
    kept: Tensor = module.__dict__.setdefault(_FORM, torch.tensor(0, dtype=torch.uint8))
    return kept


def _of_state(module: nn.Module, state: Any) -> Mapping[str, Tensor]:
    found = {"absmax": state.absmax, "quant_map": state.code}
    if state.nested:
        found |= {"nested_absmax": state.state2.absmax, "nested_quant_map": state.state2.code}
    return found | _description(module, state)


def _description(module: nn.Module, state: Any) -> dict[str, Tensor]:
    """What files hold of block size, shape, dtype and offset, as bytes: made again only when one of them changes."""
    offset = state.offset
    facts = (state.quant_type, state.blocksize, state.shape, state.dtype)
    nested = (state.state2.blocksize, state.state2.dtype) if state.nested else ()
    now = (*facts, *nested, id(offset), None if offset is None else offset._version)
    known = module.__dict__.get(_FORM)
    if known is None or known[0] != now:
        packed = state.as_dict(packed=True)
        known = (now, {name: tensor for name, tensor in packed.items() if name.startswith("quant_state.")})
        module.__dict__[_FORM] = known
    made: dict[str, Tensor] = known[1]
    return made
