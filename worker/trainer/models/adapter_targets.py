"""Which modules get an adapter: checks the names of a request, and chooses where neither it nor peft names any."""

from __future__ import annotations

import difflib
from collections.abc import Collection, Sequence
from typing import Any

from torch import nn
from transformers.pytorch_utils import Conv1D

from app.errors import ModelError
from app.freeze.parts import part_of, sees_and_writes
from worker.trainer.freeze.quantised_parts import is_quantised

PARAM = "model.adapter.target_modules"
#: Layers of a Mamba block whose weight is read without calling them. All blocks have the first two.
READ_BY_MAMBA = ("conv1d", "out_proj", "dt_proj")


def refuse_unknown(model: nn.Module, targets: str | Sequence[str] | None, *, param: str = PARAM) -> None:
    """Raises ModelError for the first name that matches no module; peft only does so where no name matches any."""
    if targets is None or isinstance(targets, str):  # a pattern, or peft's shorthand
        return
    paths = [path for path, _ in model.named_modules()] + [name for name, _ in model.named_parameters()]
    for target in targets:
        if any(path == target or path.endswith(f".{target}") for path in paths):
            continue
        leaves = sorted({path.rpartition(".")[2] for path in paths if not path.rpartition(".")[2].isdecimal()})
        near = difflib.get_close_matches(target.rpartition(".")[2], leaves, n=1)
        hint = f"did you mean {near[0]!r}?" if near else "give the last part of a module's name, such as 'q_proj'"
        raise ModelError(f"the model has no module called {target!r}; {hint}", param=param)


def refuse_tied_merge(model: nn.Module) -> None:
    """Raises ModelError where merging the adapters in `model` would change a weight that another module reads too."""
    readers: dict[int, list[str]] = {}
    for path, module in model.named_modules(remove_duplicate=False):
        for parameter in module._parameters.values():
            readers.setdefault(id(parameter), []).append(path)

    for path, module in model.named_modules():
        weight = getattr(getattr(module, "base_layer", None), "weight", None)
        others = [other for other in readers.get(id(weight), []) if other != f"{path}.base_layer"]
        if weight is not None and others:
            message = (
                f"the weight of {path!r} is tied to that of {others[0].removesuffix('.base_layer')!r}, so merging the "
                "adapter would change both; leave merge out, or name other target_modules"
            )
            raise ModelError(message, param="model.adapter.merge")


def linear_layers(model: nn.Module, heads: Collection[str]) -> list[str]:
    """Paths of every linear layer of the body. Heads are left out: the new ones, which train, and those of the base.

    So is a layer with a forward of its own, such as Llama 4's router, whose results an adapter cannot be added to.
    """
    embeddings: Any = getattr(model, "get_output_embeddings", lambda: None)()
    body = body_of(model)
    layers = [
        path
        for path, module in model.named_modules()
        if isinstance(module, nn.Linear | Conv1D)
        and (type(module).forward in (nn.Linear.forward, Conv1D.forward) or is_quantised(module))
        and module is not embeddings
        and path not in heads
        and path.startswith(body)
    ]
    if not layers:
        message = "the model has no linear layer beside its head; name the modules that the adapter should train"
        raise ModelError(message, param=PARAM)
    return layers


def of_language_model(model: nn.Module, heads: Collection[str], notes: list[str]) -> list[str] | None:
    """The linear layers of a vision-language model's language model; None for other models.

    Names such as `q_proj` are those of layers of the tower, too, which stays as it is unless its layers are named.
    """
    if not sees_and_writes(type(model).__name__, (name for name, _ in model.named_parameters())):
        return None
    notes.append("the adapter goes to the language model alone; name target_modules to have it elsewhere")
    return [path for path in linear_layers(model, heads) if part_of(f"{path}.weight") == "language_model"]


def body_of(model: nn.Module) -> str:
    """The prefix of the names of a transformers model's body; "" for a model without a head."""
    base = getattr(model, "base_model", model)
    path = next((path for path, module in model.named_modules() if module is base), "")
    return f"{path}." if path else ""


def outside_mamba_kernels(model: nn.Module, paths: Sequence[str]) -> list[str]:
    """The layers that no Mamba block reads by itself: such a block has a `conv1d` and an `out_proj`."""
    modules = dict(model.named_modules())
    blocks = {path for path in modules if all(f"{path}.{layer}" in modules for layer in READ_BY_MAMBA[:2])}
    read = {f"{block}.{layer}" for block in blocks for layer in READ_BY_MAMBA}
    return [path for path in paths if path not in read]
