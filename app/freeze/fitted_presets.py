"""Presets of the form that submits a job: freeze policies that are made for the tensors of one model."""

import re
from collections import Counter
from collections.abc import Collection, Sequence
from typing import Final

from app.errors import InvalidRequest
from app.freeze.tensors import TensorInfo
from app.jsontypes import JsonDict

#: What each preset does, in the order of a form.
PRESETS: Final = {
    "everything": "Train everything; with an adapter, the adapter",
    "head": "Train the head, freeze the rest",
    "layers": "Freeze the first layers",
    "embeddings": "Freeze the embeddings",
    "biases": "Train the biases alone",
}


def policy(
    preset: str, tensors: Sequence[TensorInfo], *, initialised: Collection[str] = (), layers: int = 1
) -> JsonDict:
    """The policy as a request has it. `layers` is how many the preset `layers` freezes.

    `initialised` names the tensors of a new head. Raises InvalidRequest where the model has no part of this kind.
    """
    if preset == "everything":
        return {}
    if preset == "head":
        return _head(tensors, initialised)
    if preset == "layers":
        return {"rules": [_rule("first-layers", "freeze", {"layers": {"path": _stack(tensors), "first": layers}})]}
    if preset == "embeddings":
        return {"freeze": _named(tensors, [t for t in tensors if _is_embedding(t)], what="embeddings")}
    if preset == "biases":
        return {"train": [*_named(tensors, [t for t in tensors if _is_bias(t)], what="biases"), *sorted(initialised)]}
    raise InvalidRequest(f"no preset is named {preset!r}; there are {', '.join(PRESETS)}", param="preset")


def _head(tensors: Sequence[TensorInfo], initialised: Collection[str]) -> JsonDict:
    """Everything below the largest part is frozen; of a model that is one part, all but its last layer."""
    sizes: Counter[str] = Counter()
    for tensor in tensors:
        sizes[tensor.name.partition(".")[0]] += tensor.elements
    tied = {alias.partition(".")[0] for tensor in tensors for alias in tensor.aliases}
    backbone = sizes.most_common(1)[0][0] if sizes else ""
    if len(sizes) > 1 and not tied - {backbone}:
        inside = any(tensor.name.startswith(f"{backbone}.") for tensor in tensors)
        return {"freeze": [f"{backbone}.**" if inside else backbone]}
    if initialised:
        return {"train": sorted(initialised)}
    last = _rule("last-layer", "train", {"layers": {"path": _stack(tensors), "last": 1}})
    return {"default": "freeze", "rules": [last]}


def _stack(tensors: Sequence[TensorInfo]) -> str:
    """The module whose numbered children hold most of the tensors."""
    paths: Counter[str] = Counter()
    for tensor in tensors:
        if match := re.match(r"(.+?)\.\d+\.", tensor.name):
            paths[match[1]] += 1
    if not paths:
        raise InvalidRequest("this model has no numbered layers; write the policy as JSON", param="preset")
    return paths.most_common(1)[0][0]


def _named(tensors: Sequence[TensorInfo], found: Sequence[TensorInfo], *, what: str) -> list[str]:
    """The names of tensors, and of what is tied to them: a tie has one decision."""
    if not found:
        raise InvalidRequest(f"this model has no {what}; write the policy as JSON", param="preset")
    return [name for tensor in found for name in (tensor.name, *tensor.aliases)]


def _is_embedding(tensor: TensorInfo) -> bool:
    return bool(tensor.module_types) and tensor.module_types[-1].rpartition(".")[2].endswith("Embedding")


def _is_bias(tensor: TensorInfo) -> bool:
    return tensor.kind == "parameter" and tensor.name.rpartition(".")[2] == "bias"


def _rule(name: str, action: str, select: JsonDict) -> JsonDict:
    return {"id": name, "action": action, "select": select}
