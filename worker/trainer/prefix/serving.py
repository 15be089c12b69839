"""Runs a model's own forward while its frozen prefix returns stored results in place of computing them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from functools import lru_cache
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_flatten

from worker.trainer.prefix.cut import Cut, Served
from worker.trainer.prefix.rebuild import rebuilder
from worker.trainer.prefix.shapes import Leaf


class _Captured(Exception):
    """All kept results have been computed, so the rest of the forward pass is skipped."""


class Prefix:
    """A cut applied to a live model, which computes as usual outside of `served` and `capture`.

    `reads_inputs`: a pass inside `served` reads the batch's inputs.
    """

    def __init__(self, model: nn.Module, cut: Cut) -> None:
        self.model = model
        self.cut = cut
        self.reads_inputs = cut.reads_inputs
        self._values: list[Tensor] | None = None  # the results to serve, inside `served`
        self._captured: list[Tensor] | None = None  # the results so far, inside `capture`
        self._rows = self._width = self._calls = self._used = 0
        self._wanted = len(cut.kept)
        self._rebuild = [rebuilder(call.spec, tensors=None not in call.leaves) for call in cut.served]
        self._own_forwards = [(module, module.__dict__.get("forward")) for module in cut.modules]
        for module in cut.modules:
            module.forward = _ServedForward(self, module.forward)

    def remove(self) -> None:
        """Give the modules their own forwards back."""
        for module, own in self._own_forwards:
            module.__dict__.pop("forward", None)
            if own is not None:
                module.forward = own
        self._own_forwards = []

    @torch.no_grad()
    def capture(self, forward: Callable[[], object], *, training: bool = False) -> list[Tensor]:
        """The kept results of one pass in eval mode (or in training mode), which ends at the last of them."""
        modes = [(module, module.training) for module in self.model.modules()]
        self.model.train(training)
        self._captured, self._calls = [], 0
        try:
            forward()
        except _Captured:
            pass
        finally:
            captured, self._captured = self._captured, None
            for module, mode in modes:
                module.training = mode
        return captured

    def served(self, values: Sequence[Tensor], *, rows: int, width: int) -> AbstractContextManager[None]:
        """Inside, the cut's calls return `values` and compute nothing. `rows` and `width` are those of the batch."""
        return _Serving(self, list(values), rows, width)

    def serve(self, values: list[Tensor] | None, rows: int = 0, width: int = 0) -> None:
        """Begin to return `values`, as `served` says; None ends it."""
        self._values, self._rows, self._width = values, rows, width
        self._calls = self._used = 0

    def call(self, forward: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        if self._values is None and self._captured is None:
            return forward(*args, **kwargs)
        call = self._next_call(forward)
        return self._serve(call) if self._values is not None else self._capture(call, forward(*args, **kwargs))

    def _next_call(self, forward: Callable[..., Any]) -> Served:
        """RuntimeError unless calls come in the order of the pass in which the cut was found."""
        call = self.cut.served[self._calls] if self._calls < len(self.cut.served) else None
        self._calls += 1
        if call is None or getattr(forward, "__self__", call.module) is not call.module:
            message = f"the model's forward went another way than before: call {self._calls} of a frozen module"
            raise RuntimeError(message)
        return call

    def _capture(self, call: Served, output: Any) -> Any:
        assert self._captured is not None
        for leaf, value in zip(call.leaves, tree_flatten(output)[0], strict=True):
            if leaf is not None and leaf.kept:
                self._captured.append(value.clone())  # the model may write over it
        if len(self._captured) == self._wanted:
            raise _Captured
        return output

    def _serve(self, call: Served) -> Any:
        leaves = [
            other if leaf is None else self._value(leaf) for leaf, other in zip(call.leaves, call.others, strict=True)
        ]
        return self._rebuild[self._calls - 1](leaves)

    def _value(self, leaf: Leaf) -> Tensor:
        assert self._values is not None
        if leaf.kept:
            value = self._values[self._used]
            self._used += 1
            return value
        return _placeholder(leaf, self._values[0].device, self._rows, self._width)


@lru_cache(maxsize=256)
def _placeholder(leaf: Leaf, device: torch.device, rows: int, width: int) -> Tensor:
    """For a result that nothing should read: NaN where the dtype has it, so that an unforeseen use shows."""
    nothing = float("nan") if leaf.dtype.is_floating_point else 0
    return torch.full((), nothing, dtype=leaf.dtype, device=device).expand(leaf.shape.filled(rows, width))


class _Serving(AbstractContextManager[None]):
    """A class, since a generator's way in and out takes as long as the arithmetic of a small head's layer."""

    def __init__(self, prefix: Prefix, values: list[Tensor], rows: int, width: int) -> None:
        self._prefix = prefix
        self._given = (values, rows, width)

    def __enter__(self) -> None:
        self._prefix.serve(*self._given)

    def __exit__(self, *error: object) -> None:
        self._prefix.serve(None)


class _ServedForward:
    """Replaces a module's forward, as an entry of the module's own `__dict__`."""

    def __init__(self, prefix: Prefix, forward: Callable[..., Any]) -> None:
        self._prefix = prefix
        self._forward = forward

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        return self._prefix.call(self._forward, args, kwargs)
