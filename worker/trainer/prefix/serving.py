"""Calls that return what they returned before: the model's own forward runs, and its frozen prefix costs nothing."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_flatten, tree_unflatten

from worker.trainer.prefix.cut import Cut, Leaf, Served


class _Captured(Exception):
    """Everything that was wanted has been computed; the rest of the forward pass need not run."""


class Prefix:
    """A cut made on a live model. Outside of `served` and `capture` the model computes as before."""

    def __init__(self, model: nn.Module, cut: Cut) -> None:
        self.model = model
        self.cut = cut
        self._values: list[Tensor] | None = None  # while they are served
        self._taken: list[Tensor] | None = None  # while they are captured
        self._rows = self._width = self._at = self._used = 0
        self._wanted = len(cut.kept)
        self._plain = [(module, module.__dict__.get("forward")) for module in cut.modules]
        for module in cut.modules:
            module.forward = _Stand(self, module.forward)

    def remove(self) -> None:
        """The modules as they were."""
        for module, own in self._plain:
            module.__dict__.pop("forward", None)
            if own is not None:
                module.forward = own
        self._plain = []

    @torch.no_grad()
    def capture(self, forward: Callable[[], object], *, training: bool = False) -> list[Tensor]:
        """The kept results of one pass in eval mode (or as in training); the pass ends at the last of them."""
        modes = [(module, module.training) for module in self.model.modules()]
        self.model.train(training)
        self._taken, self._at = [], 0
        try:
            forward()
        except _Captured:
            pass
        finally:
            taken, self._taken = self._taken, None
            for module, mode in modes:
                module.training = mode
        return taken

    @contextmanager
    def served(self, values: Sequence[Tensor], *, rows: int, width: int) -> Iterator[None]:
        """Within, the cut's calls return these, in place of computing anything."""
        self._values, self._rows, self._width = list(values), rows, width
        self._at = self._used = 0
        try:
            yield
        finally:
            self._values = None

    def call(self, plain: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        if self._values is None and self._taken is None:
            return plain(*args, **kwargs)
        call = self._next(plain)
        return self._serve(call) if self._values is not None else self._take(call, plain(*args, **kwargs))

    def _next(self, plain: Callable[..., Any]) -> Served:
        """Calls come in the order of the pass that the cut was found in."""
        call = self.cut.served[self._at] if self._at < len(self.cut.served) else None
        self._at += 1
        if call is None or getattr(plain, "__self__", call.module) is not call.module:
            raise RuntimeError(f"the model's forward went another way than before: call {self._at} of a frozen module")
        return call

    def _take(self, call: Served, output: Any) -> Any:
        assert self._taken is not None
        for leaf, value in zip(call.leaves, tree_flatten(output)[0], strict=True):
            if leaf is not None and leaf.kept:
                self._taken.append(value.clone())  # the model may write over it
        if len(self._taken) == self._wanted:
            raise _Captured
        return output

    def _serve(self, call: Served) -> Any:
        leaves = [
            other if leaf is None else self._value(leaf) for leaf, other in zip(call.leaves, call.others, strict=True)
        ]
        return tree_unflatten(leaves, call.spec)

    def _value(self, leaf: Leaf) -> Tensor:
        assert self._values is not None
        if leaf.kept:
            value = self._values[self._used]
            self._used += 1
            return value
        shape = leaf.shape.filled(self._rows, self._width)
        return _nothing(leaf.dtype, self._values[0].device).expand(shape)


def _nothing(dtype: torch.dtype, device: torch.device) -> Tensor:
    """Not a number where the dtype has such, so that a use which was not foreseen cannot pass unseen."""
    return torch.full((), float("nan") if dtype.is_floating_point else 0, dtype=dtype, device=device)


class _Stand:
    """Stands in for a module's forward, in the module's own dictionary."""

    def __init__(self, prefix: Prefix, plain: Callable[..., Any]) -> None:
        self._prefix = prefix
        self._plain = plain

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        return self._prefix.call(self._plain, args, kwargs)
