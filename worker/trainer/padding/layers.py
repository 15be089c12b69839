"""A model's layers run on one row of real tokens; everything before and after them sees padded rows as ever.

So positions, masks, poolers and heads need no knowledge of it, and no rule per architecture is written here.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils._pytree import tree_map_only

from worker.trainer.data.batch import IGNORED, Batch
from worker.trainer.padding.attention import GROUPED, NAME, REPLACED
from worker.trainer.padding.layout import Layout, layout

MOST = 0.9  # a batch with more real tokens than this share of its positions is computed as it is


class NoLayersError(ValueError):
    """A model has no single stack of layers whose attention could be replaced."""


class PaddingFreeLayers:
    """Hooks on a model's layers, which do nothing outside of `computing`.

    With `next_token` the output layer computes only the positions whose next token carries loss.
    """

    def __init__(self, model: nn.Module, *, next_token: bool) -> None:
        stack = _stack(model)
        self._configs = _configs(model)
        self._copies: dict[int, tuple[Tensor, Tensor]] = {}
        self.next_token = next_token
        self._hooks = [layer.register_forward_pre_hook(self._enter, with_kwargs=True) for layer in stack]
        self._hooks.append(stack[-1].register_forward_hook(self._leave))
        if next_token:
            self._hooks.append(_output_layer(model).register_forward_pre_hook(self._choose))

    def remove(self) -> None:
        for hook in self._hooks:
            hook.remove()
        self._hooks = []

    @contextmanager
    def computing(self, batch: Batch) -> Iterator[Batch]:
        """Inside, forward and backward passes over the batch that is given leave its padding out."""
        found = self._layout(batch)
        if found is None:
            yield batch
            return

        GROUPED.layout = found
        for config in self._configs:
            config._attn_implementation_internal = NAME
        try:
            yield replace(batch, learned_only=self.next_token)
        finally:
            GROUPED.layout = None
            self._copies = {}
            for config in self._configs:
                config._attn_implementation_internal = REPLACED

    @contextmanager
    def pausing(self) -> Iterator[None]:
        """Inside, passes compute with padding again."""
        found, GROUPED.layout = GROUPED.layout, None
        try:
            yield
        finally:
            GROUPED.layout = found

    def _layout(self, batch: Batch) -> Layout | None:
        """None where there is little padding or none."""
        mask = batch.inputs.get("attention_mask")
        if mask is None or mask.ndim != 2:
            return None
        lengths = mask.sum(dim=1).cpu().numpy()
        if lengths.sum() > MOST * mask.numel() or not lengths.min():
            return None

        learned = None
        if self.next_token:
            following = F.pad(batch.targets[:, 1:], (0, 1), value=IGNORED)
            learned = (following.flatten() != IGNORED).nonzero()[:, 0].cpu().numpy()
        return layout(lengths, batch.width, device=mask.device, learned=learned)

    def _enter(self, layer: nn.Module, args: Any, kwargs: Any) -> Any:
        found = GROUPED.layout
        return tree_map_only(Tensor, lambda tensor: self._in_a_row(tensor, found), (args, kwargs)) if found else None

    def _in_a_row(self, tensor: Tensor, found: Layout) -> Tensor:
        """What is given per position of padded rows, per real token: states, and the angles of rotary positions."""
        if tensor.ndim not in (2, 3) or tensor.shape[1] != found.width:
            return tensor
        if len(tensor) == found.rows:
            return found.real.remove(tensor.flatten(0, 1))[None]
        if len(tensor) != 1:
            return tensor
        if tensor.requires_grad:
            return tensor.index_select(1, found.places)
        if id(tensor) not in self._copies:  # each layer gets the same one
            self._copies[id(tensor)] = (tensor, tensor.index_select(1, found.places))
        return self._copies[id(tensor)][1]

    def _leave(self, layer: nn.Module, args: Any, output: Any) -> Any:
        found = GROUPED.layout
        return tree_map_only(Tensor, lambda tensor: _padded(tensor, found), output) if found else None

    def _choose(self, layer: nn.Module, args: Any) -> Any:
        found = GROUPED.layout
        if found is None or found.learned is None:
            return None
        return (found.learned.remove(args[0].flatten(0, 1))[None], *args[1:])


def _padded(tensor: Tensor, found: Layout) -> Tensor:
    if tensor.ndim != 3 or tensor.shape[:2] != (1, found.tokens):
        return tensor
    filled = found.real.fill(tensor[0])
    return filled.view(found.rows, found.width, *filled.shape[1:])


def _stack(model: nn.Module) -> nn.ModuleList:
    """The one list of layers that is in no other list. NoLayersError where there are none or several."""
    stacks: dict[str, nn.ModuleList] = {}
    for name, module in model.named_modules():
        inside = any(name.startswith(f"{outer}.") for outer in stacks)
        if isinstance(module, nn.ModuleList) and len(module) and not inside:
            stacks[name] = module
    if len(stacks) != 1:
        raise NoLayersError(f"it has {len(stacks)} lists of layers, and one is needed")
    config: Any = getattr(model, "config", None)
    if any(getattr(config, name, 0) for name in ("layerdrop", "encoder_layerdrop", "decoder_layerdrop")):
        raise NoLayersError("it leaves out layers at random")
    return next(iter(stacks.values()))


def _configs(model: nn.Module) -> list[Any]:
    """Every config that names the attention of some module."""
    found = {id(config): config for module in model.modules() if (config := getattr(module, "config", None))}
    using = [config for config in found.values() if getattr(config, "_attn_implementation", None) == REPLACED]
    if not using:
        raise NoLayersError("its attention is not torch's, called through transformers' interface")
    return using


def _output_layer(model: nn.Module) -> nn.Module:
    get: Any = getattr(model, "get_output_embeddings", lambda: None)
    layer = get()
    if not isinstance(layer, nn.Module):
        raise NoLayersError("it has no output layer of its own")
    return layer
