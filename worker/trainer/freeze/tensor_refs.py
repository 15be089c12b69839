"""References to tensors by name, read from a module's `_parameters` or `_buffers` and not through attributes.

The scales of a quantised weight, which are neither, count as buffers of its module.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from torch import Tensor, nn

from worker.trainer.freeze.quantised_parts import Scales, holds_scales, is_made


@dataclass(frozen=True, slots=True)
class TensorRef:
    """One name of a tensor in a live model. A tied tensor has several."""

    name: str
    kind: str  # "parameter" | "buffer"
    path: str  # the owning module's own name, "" for the root
    module: nn.Module
    leaf: str

    @property
    def tensor(self) -> Tensor | None:
        """The tensor under this name now; None once the entry is removed or set to None."""
        return entries(self.module, self.kind).get(self.leaf)

    @property
    def persistent(self) -> bool:
        made = self.leaf not in self.module._buffers and is_made(self.module)  # a scale that no file holds
        return self.kind == "parameter" or (self.leaf not in self.module._non_persistent_buffers_set and not made)


def tensor_refs(model: nn.Module) -> Iterator[TensorRef]:
    """Every name once, in the order of `named_parameters`; a shared module's tensors under each of its paths."""
    for path, module in model.named_modules(remove_duplicate=False):
        for kind in ("parameter", "buffer"):
            for leaf, tensor in entries(module, kind).items():
                if tensor is not None:
                    yield TensorRef(f"{path}.{leaf}" if path else leaf, kind, path, module, leaf)


def entries(module: nn.Module, kind: str) -> Mapping[str, Tensor | None]:
    """The module's own parameters or buffers by leaf, as they are now and later."""
    if kind == "buffer" and holds_scales(module):
        return Scales(module)
    return module._parameters if kind == "parameter" else module._buffers
