"""Finds hooks of unknown origin that could write to a frozen tensor: on optimizers, parameters and modules."""

from collections.abc import Callable, Iterable, Iterator
from typing import Any

from torch import nn
from torch.optim import Optimizer
from torch.optim import optimizer as optimizers

from worker.trainer.freeze.tensor_refs import TensorRef

# Packages whose hooks are known not to write: they gather activations, move devices or compose weights.
_KNOWN = ("torch", "transformers", "accelerate", "peft", "worker")

_OF_MODULES = ("_forward_pre_hooks", "_forward_hooks", "_backward_pre_hooks", "_backward_hooks")
_OF_PARAMETERS = ("_backward_hooks", "_post_accumulate_grad_hooks")
_OF_OPTIMIZERS = ("_optimizer_step_pre_hooks", "_optimizer_step_post_hooks")
_OF_ALL_OPTIMIZERS = ("_global_optimizer_pre_hooks", "_global_optimizer_post_hooks")


def foreign(model: nn.Module, frozen: Iterable[TensorRef], optimizer: Optimizer) -> list[str]:
    """One phrase per hook of unknown origin: its name and where it is registered."""
    phrases = [f"{_describe_hook(hook)} on the optimizer" for hook in _unknown(optimizer, _OF_OPTIMIZERS)]
    phrases += [
        f"{_describe_hook(hook)} on every optimizer of the process" for hook in _unknown(optimizers, _OF_ALL_OPTIMIZERS)
    ]
    for name, parameter in model.named_parameters():
        phrases += [
            f"{_describe_hook(hook)} on the gradient of '{name}'" for hook in _unknown(parameter, _OF_PARAMETERS)
        ]
    modules = {ref.path: ref.module for ref in frozen}
    for path, module in modules.items():
        phrases += [f"{_describe_hook(hook)} on the module '{path}'" for hook in _unknown(module, _OF_MODULES)]
    return phrases


def _unknown(owner: object, kinds: tuple[str, ...]) -> Iterator[Callable[..., Any]]:
    for kind in kinds:
        for hook in (getattr(owner, kind, None) or {}).values():
            if _origin(hook).partition(".")[0] not in _KNOWN:
                yield hook


def _origin(hook: Callable[..., Any]) -> str:
    inner = getattr(hook, "func", hook)  # functools.partial
    return str(getattr(inner, "__module__", None) or type(inner).__module__)


def _describe_hook(hook: Callable[..., Any]) -> str:
    inner = getattr(hook, "func", hook)
    return f"the hook {_origin(hook)}.{getattr(inner, '__qualname__', type(inner).__name__)}"
