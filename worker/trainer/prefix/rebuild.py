"""Puts the results of a served call together again as its module returned them, once for every step."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Sequence
from dataclasses import fields
from typing import Any

from torch import Tensor
from torch.utils._pytree import TreeSpec, tree_unflatten
from transformers.utils import ModelOutput

Rebuild = Callable[[Sequence[Any]], Any]


def rebuilder(spec: TreeSpec, *, tensors: bool) -> Rebuild:
    """What makes a structure of its leaves; the shortest way that gives what torch's `tree_unflatten` gives.

    `tensors` says that every leaf is a tensor. A tensor by itself is its own structure, and an output of transformers
    whose fields are tensors is filled in without its constructor, which looks at each field several times.
    """
    if spec.is_leaf():
        return _only
    if tensors and _plain_output(spec):
        return _OutputOfTensors(spec.type, spec.context)
    return lambda leaves: tree_unflatten(leaves, spec)


def _only(leaves: Sequence[Any]) -> Any:
    (leaf,) = leaves
    return leaf


class _OutputOfTensors:
    """Makes an output of this type as its constructor does when each field is a tensor or None."""

    def __init__(self, kind: type[ModelOutput], names: Sequence[str]) -> None:
        self._kind = kind
        self._empty: dict[str, Tensor | None] = dict.fromkeys(each.name for each in fields(kind))
        order = list(self._empty)
        self._order = sorted(range(len(names)), key=lambda at: order.index(names[at]))
        self._names = list(names)

    def __call__(self, leaves: Sequence[Any]) -> ModelOutput:
        output: ModelOutput = OrderedDict.__new__(self._kind)
        attributes = vars(output)
        attributes.update(self._empty)
        for at in self._order:
            name, leaf = self._names[at], leaves[at]
            attributes[name] = leaf
            OrderedDict.__setitem__(output, name, leaf)
        return output


def _plain_output(spec: TreeSpec) -> bool:
    """Whether this is an output of transformers with nothing nested, made by the constructor that all of them share."""
    kind = spec.type
    if not (isinstance(kind, type) and issubclass(kind, ModelOutput)):
        return False
    shared = all(
        getattr(kind, name) is getattr(ModelOutput, name)
        for name in ("__post_init__", "__setattr__", "__setitem__", "__new__")
    )
    decorated = vars(kind).get("__dataclass_params__")
    generated = decorated is not None and decorated.init
    names = {each.name for each in fields(kind) if each.init and each.default is None}
    flat = bool(spec.context) and all(child.is_leaf() for child in spec.children())
    return shared and generated and flat and len(names) == len(fields(kind)) and set(spec.context) <= names
