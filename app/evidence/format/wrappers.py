"""What wrappers of a model put into the names of its tensors, as `_orig_mod.` in `bert._orig_mod.pooler.weight`."""

import re
from collections.abc import Iterable

#: A wrapper's part of a name, and what puts it there.
WRAPPERS = {
    "_orig_mod.": "torch.compile",
    "_fsdp_wrapped_module.": "FSDP",
    "_checkpoint_wrapped_module.": "activation checkpointing",
    "base_model.model.": "peft",
    "module.": "DistributedDataParallel",
}
_WRAPPER = re.compile(rf"(?:^|(?<=\.))(?:{'|'.join(map(re.escape, WRAPPERS))})")


def unwrapped(name: str) -> str:
    """The name without the parts of known wrappers, wherever they are in it."""
    return _WRAPPER.sub("", name)


def wrappers_in(names: Iterable[str]) -> dict[str, int]:
    """Wrappers' parts by the number of names that have them."""
    counts: dict[str, int] = {}
    for name in names:
        for wrapper in dict.fromkeys(_WRAPPER.findall(name)):
            counts[wrapper] = counts.get(wrapper, 0) + 1
    return counts
