"""The tensors of a model by the names they had when watching began, also after an adapter was wrapped around them."""

import re

from torch import nn

from worker.trainer.freeze.tensor_refs import TensorRef, tensor_refs

#: Attributes under which peft keeps the module that it wrapped: of a tuner layer, of a `modules_to_save` copy, of
#: tokens that train beside an adapter.
WRAPPED = frozenset({"base_layer", "original_module", "token_adapter"})
#: And of an attention layer that reads adaption prompts.
_ADAPTED_ATTENTION = re.compile(r"attn\.model\.")


def live_tensors(model: nn.Module) -> dict[str, TensorRef]:
    """Every slot by its live name, and those inside a wrapper also by the name they have without it.

    `query.base_layer.weight` is found as `query.weight` too, unless the model has a tensor of that name.
    """
    by_name = {slot.name: slot for slot in tensor_refs(model)}
    for name, slot in list(by_name.items()):
        if (plain := unwrapped_name(name)) != name:
            by_name.setdefault(plain, slot)
    return by_name


def unwrapped_name(name: str) -> str:
    """Without the segments that a wrapper adds."""
    plain = ".".join(segment for segment in name.split(".") if segment not in WRAPPED)
    return _ADAPTED_ATTENTION.sub("attn.", plain)


def own_model(model: nn.Module) -> nn.Module:
    """The user's module inside `torch.compile` and data-parallel wrappers, whose prefixes are not part of a name."""
    wrappers = {"OptimizedModule": "_orig_mod", "DistributedDataParallel": "module", "DataParallel": "module"}
    while (attribute := wrappers.get(type(model).__name__)) is not None:
        model = getattr(model, attribute)
    return model
