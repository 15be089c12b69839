"""Modules that change their own tensors in a forward pass, and how each kind is prevented from it.

Batch and instance norm (running statistics), spectral norm (power iteration) and I-BERT's activation ranges move in
training mode only, so they stay in eval; observers move even in eval, so they pass their input through; an embedding
with `max_norm` rewrites its rows on every read, so the renormalisation is off.
"""

from collections.abc import Iterable
from dataclasses import dataclass

from torch import nn

from worker.trainer.freeze.tensor_refs import TensorRef

_SPECTRAL_HOOK = "torch.nn.utils.spectral_norm.SpectralNorm"
_SPECTRAL_PARAMETRIZATION = "torch.nn.utils.parametrizations._SpectralNorm"
_ACTIVATION_RANGES = "transformers.models.ibert.quant_modules.QuantAct"
_OBSERVER = "torch.ao.quantization.observer.ObserverBase"
_FAKE_QUANTIZE = "torch.ao.quantization.fake_quantize.FakeQuantizeBase"


@dataclass(frozen=True, slots=True)
class Pin:
    """How one module is pinned: it stays in `eval`, is `inert` (passes its input through), or loses its `max_norm`."""

    module: nn.Module
    path: str
    eval: bool = False
    inert: bool = False
    max_norm: float | None = None

    @property
    def warning(self) -> str | None:
        if self.max_norm is None:
            return None
        return (
            f"'{self.path}' has max_norm={self.max_norm:g}, which rewrites its frozen rows on every read; it is off"
            " while they are frozen, so rows longer than that are used as they are stored"
        )


def pins(frozen: Iterable[TensorRef]) -> list[Pin]:
    """One Pin per module that would change one of these tensors by itself."""
    return [pin for path, owned in _by_module(frozen).items() if (pin := _pin(path, owned)) is not None]


def unpinnable(frozen: Iterable[TensorRef]) -> list[str]:
    """One sentence for each module that would change one of these tensors and cannot be pinned."""
    return [reason for path, owned in _by_module(frozen).items() if (reason := _reason(path, owned)) is not None]


def _by_module(frozen: Iterable[TensorRef]) -> dict[str, list[TensorRef]]:
    owned: dict[str, list[TensorRef]] = {}
    for ref in frozen:
        owned.setdefault(ref.path, []).append(ref)
    return owned


def _pin(path: str, owned: list[TensorRef]) -> Pin | None:
    module = owned[0].module
    if any(ref.kind == "parameter" for ref in owned) and getattr(module, "max_norm", None) is not None:
        return Pin(module, path, max_norm=module.max_norm)  # type: ignore[arg-type]
    if not any(ref.kind == "buffer" for ref in owned):
        return None
    if is_a(module, _OBSERVER):
        return Pin(module, path, inert=True)
    if _moves_in_training(module, owned):
        return Pin(module, path, eval=True)
    return None


def moves_by_itself(ref: TensorRef) -> bool:
    """Whether the module writes to this tensor in a forward pass in training mode."""
    return _moves_in_training(ref.module, [ref])


def _moves_in_training(module: nn.Module, owned: list[TensorRef]) -> bool:
    if isinstance(module, nn.modules.batchnorm._NormBase) or is_a(module, _SPECTRAL_PARAMETRIZATION):
        return True
    if is_a(module, _ACTIVATION_RANGES):
        return True
    if any(is_a(hook, _SPECTRAL_HOOK) for hook in module._forward_pre_hooks.values()):
        return True
    # Norm layers from other packages use the usual names for their statistics.
    return any(ref.leaf.startswith("running_") or ref.leaf == "num_batches_tracked" for ref in owned)


def _reason(path: str, owned: list[TensorRef]) -> str | None:
    module, leaves = owned[0].module, {ref.leaf for ref in owned}
    if is_a(module, _FAKE_QUANTIZE) and _observes(module):
        return (
            f"'{path}' is a fake-quantize module with its observer on: the scale moves in every forward, also in eval."
            " Call disable_observer() on it before the job, or let its buffers move ('buffers': 'track')"
        )
    if "inv_freq" in leaves and str(getattr(module, "rope_type", "")) in {"dynamic", "longrope"}:
        return (
            f"'{path}.inv_freq' is replaced while running (rope type '{module.rope_type}'); computed, not learned:"
            " let it move with 'buffers': 'track' or a rule that trains it"
        )
    return None


def _observes(module: nn.Module) -> bool:
    enabled = getattr(module, "observer_enabled", None)
    return enabled is None or bool(enabled[0])


def is_a(thing: object, qualified: str) -> bool:
    """Whether `thing` is an instance of the class with this full name, without importing it (some warn on import)."""
    return any(f"{kind.__module__}.{kind.__qualname__}" == qualified for kind in type(thing).__mro__)
