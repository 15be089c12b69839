"""Replaces a module's class by a subclass of it in which reading `module.weight` gives, say, the detached weight.

`_parameters` stays as it is, so names, ties and state_dict do not change. Two modules of one class with the same
patched leaves share the subclass, so torch.compile sees one class for a stack of equal layers.
"""

import functools
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor, nn

ROWS = "_permafrost_rows"  # in a module's __dict__: leaf -> SplitParameter
_PLAIN = "_permafrost_plain"  # on the patched class: the class beneath


@dataclass(slots=True)
class ClassPatch:
    """How a patched module behaves: leaves read detached, leaves joined from trainable rows, always in eval, inert.

    `fixed`: it stays in eval with everything in it.
    """

    detached: set[str] = field(default_factory=set)
    joined: set[str] = field(default_factory=set)
    eval: bool = False
    inert: bool = False
    fixed: bool = False


def patch_class(module: nn.Module, patch: ClassPatch) -> None:
    unpatch_class(module)
    plain: Any = type(module)
    module.__class__ = _patched_class(
        plain, tuple(sorted(patch.detached)), tuple(sorted(patch.joined)), patch.eval, patch.inert, patch.fixed
    )
    if patch.fixed:
        module.train()
    if patch.eval:
        module.training = False


def unpatch_class(module: nn.Module) -> None:
    plain = vars(type(module)).get(_PLAIN)
    if plain is not None:
        module.__class__ = plain


@functools.cache
def _patched_class(
    plain: type, detached: tuple[str, ...], joined: tuple[str, ...], pinned: bool, inert: bool, fixed: bool
) -> type:
    body: dict[str, Any] = {
        _PLAIN: plain,
        "__module__": plain.__module__,
        "__qualname__": plain.__qualname__,
        "__doc__": plain.__doc__,
    }
    body |= {leaf: property(_detached_reader(leaf)) for leaf in detached}
    body |= {leaf: property(_joined_reader(leaf)) for leaf in joined}
    if joined:
        body["_apply"] = _apply_and_rebind(plain)
    if fixed:
        body["train"] = _never_train(plain)
    elif pinned:
        body["train"] = _train_but_stay(plain)
    if inert:
        body["forward"] = _pass_through
    if issubclass(plain, nn.RNNBase) and (detached or joined):
        body["_flat_weights"] = property(_read_flat_weights, _keep_flat_weights)
    return type(plain)(plain.__name__, (plain,), body)


def _detached_reader(leaf: str) -> Any:
    def read(module: nn.Module) -> Tensor | None:
        weight = module._parameters[leaf]
        return None if weight is None else weight.detach()

    return read


def _joined_reader(leaf: str) -> Any:
    def read(module: nn.Module) -> Tensor:
        joined: Tensor = module.__dict__[ROWS][leaf].joined()
        return joined

    return read


def _train_but_stay(plain: type) -> Any:
    """A `train()` that reaches the children and leaves the module itself in eval, where its statistics stay."""

    def train(module: nn.Module, mode: bool = True) -> nn.Module:
        plain.train(module, mode)  # type: ignore[attr-defined]
        module.training = False
        return module

    return train


def _never_train(plain: type) -> Any:
    """A `train()` that is an `eval()`, except for what needs the other mode for the gradient that passes through it."""

    def train(module: nn.Module, mode: bool = True) -> nn.Module:
        plain.train(module, False)  # type: ignore[attr-defined]
        for part in module.modules() if mode else ():
            part.training = _backward_needs_training(part)
        return module

    return train


def _backward_needs_training(module: nn.Module) -> bool:
    """Layers that recompute their activations do so in training only; so does cuDNN's backward of recurrent ones."""
    if isinstance(module, nn.RNNBase):
        return not module.dropout and next(module.parameters()).is_cuda
    return bool(getattr(module, "gradient_checkpointing", False))


def _pass_through(module: nn.Module, x: Tensor) -> Tensor:
    return x


def _apply_and_rebind(plain: type) -> Any:
    """An `_apply` after which trainable rows are views of the new memory that `.to()` and `.half()` give the tensor."""

    def _apply(module: nn.Module, fn: Any, recurse: bool = True) -> nn.Module:
        plain._apply(module, fn, recurse)  # type: ignore[attr-defined]
        for leaf, rows in module.__dict__[ROWS].items():
            rows.rebind(module._parameters[leaf])
        return module

    return _apply


def _read_flat_weights(module: Any) -> list[Tensor]:
    """The weights of a recurrent layer read as attributes; torch keeps a list of them that would bypass the patch."""
    return [getattr(module, name) for name in module._flat_weights_names]


def _keep_flat_weights(module: Any, weights: list[Tensor]) -> None:
    module.__dict__["_flat_weights"] = weights
