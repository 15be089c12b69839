"""Refuses, before the first step, set-ups in which frozen weights would move."""

import difflib
from collections.abc import Iterable
from typing import Any

import torch
from torch import nn
from torch.nn.parallel import DistributedDataParallel
from torch.nn.parameter import is_lazy
from torch.optim import LBFGS, Optimizer

from app.errors import PolicyError
from app.freeze.plan import Decision, FreezePlan
from worker.trainer.freeze import hooks
from worker.trainer.freeze.replicas import refuse_replicas
from worker.trainer.freeze.tensor_refs import TensorRef, tensor_refs

# Keys that torch's own schedulers and peft put into groups, besides the optimizer's options.
_BOOKKEEPING = {"params", "param_names", "name", "initial_lr", "max_lr", "min_lr", "base_momentum", "max_momentum"}

# Adapter initialisations that write to the base weight: they take a part out of it, for the adapter to add again.
_REWRITING = ("pissa", "olora", "corda", "loftq", "lora_ga")


def refuse(model: nn.Module, plan: FreezePlan, optimizer: Optimizer) -> None:
    """Raises PolicyError for the first part of the plan that this model and optimizer would break.

    Call it after freeze() and at_step(0). Audits refuse nothing. `model` may be wrapped in DistributedDataParallel,
    which supports fewer mechanisms.
    """
    if not plan.policy.enforce or not any(decision.intervals for decision in plan.decisions):
        return
    if isinstance(model, DistributedDataParallel):
        refuse_replicas(model, plan)
        model = model.module
    frozen = [ref for ref in tensor_refs(model) if _decision(plan, ref.name).intervals]
    _refuse_lazy(model)
    _refuse_overlaps(frozen, [ref for ref in tensor_refs(model) if not _decision(plan, ref.name).intervals])
    _refuse_scripted(frozen)
    _refuse_adapters(model, plan)
    _refuse_options(optimizer)
    _refuse_zero_rates(optimizer)
    _refuse_members(plan, frozen, optimizer)
    _refuse_kind(optimizer)
    _refuse_hooks(model, frozen, optimizer)
    _refuse_reentrant(model, plan)


def _decision(plan: FreezePlan, name: str) -> Decision:
    try:
        return plan.decision(name)
    except KeyError:
        near = difflib.get_close_matches(name, [decision.name for decision in plan.decisions], n=1)
        raise PolicyError(f"the plan does not know '{name}'" + (f"; nearest: '{near[0]}'" if near else "")) from None


def _refuse_lazy(model: nn.Module) -> None:
    for ref in tensor_refs(model):
        if ref.tensor is not None and is_lazy(ref.tensor):
            raise PolicyError(f"'{ref.name}' is lazy: it has no bytes yet to be identical to", param="model")


def _refuse_overlaps(frozen: Iterable[TensorRef], moving: Iterable[TensorRef]) -> None:
    """Refuses a trained tensor that shares memory with a frozen one under another shape (flat buffers, views)."""
    spans = sorted(
        (*_span(ref), ref.name, still) for group, still in ((frozen, True), (moving, False)) for ref in group
    )
    reached: dict[bool, tuple[int, str]] = {True: (0, ""), False: (0, "")}
    for start, stop, name, still in spans:
        end, other = reached[not still]
        if start < end:
            pair = (name, other) if still else (other, name)
            raise PolicyError(
                f"the frozen '{pair[0]}' shares memory with '{pair[1]}', which is trained; freeze both or neither"
            )
        reached[still] = max(reached[still], (stop, name))


def _span(ref: TensorRef) -> tuple[int, int]:
    tensor = ref.tensor
    if tensor is None or tensor.is_meta or type(tensor).__name__ == "DTensor" or not tensor.numel():
        return (0, 0)
    if tensor.layout is not torch.strided:  # a sparse one is in several pieces of memory
        return (0, 0)
    reach = sum((size - 1) * step for size, step in zip(tensor.shape, tensor.stride(), strict=True))
    return (tensor.data_ptr(), tensor.data_ptr() + (reach + 1) * tensor.element_size())


def _refuse_scripted(frozen: Iterable[TensorRef]) -> None:
    for ref in frozen:
        if isinstance(ref.module, torch.jit.ScriptModule):
            raise PolicyError(
                f"'{ref.path}' is a scripted module, which cannot be pinned; load it as Python", param="model"
            )


def _refuse_adapters(model: nn.Module, plan: FreezePlan) -> None:
    for name, config in getattr(model, "peft_config", {}).items():
        how = getattr(config, "init_lora_weights", True)
        if isinstance(how, str) and how.startswith(_REWRITING):
            raise PolicyError(
                f"adapter '{name}' is initialised by '{how}', which rewrites the base weights; use true or 'gaussian'",
                param="model.adapter.init_lora_weights",
            )
        bias = getattr(config, "bias", "none")
        still = [d.name for d in plan.decisions if d.intervals and d.name.endswith(".bias") and "lora_" not in d.name]
        if bias in {"all", "lora_only"} and still:
            raise PolicyError(
                f"adapter '{name}' trains biases of the base (bias='{bias}'), and the policy freezes '{still[0]}';"
                " use bias='none', or a rule that trains them",
                param="model.adapter.bias",
            )


def _refuse_options(optimizer: Optimizer) -> None:
    """Refuses options that the optimizer does not have: torch accepts any key in a group, and it has no effect."""
    known = set(optimizer.defaults) | _BOOKKEEPING
    for number, group in enumerate(optimizer.param_groups):
        for key in sorted(set(group) - known):
            param = f"hyperparameters.optimizer.groups[{number}].options.{key}"
            if key == "requires_grad":
                raise PolicyError(
                    f"{type(optimizer).__name__} ignores the group option 'requires_grad': the weights would train on."
                    ' To freeze them, add a rule {"action": "freeze", "mechanism": "param_group", "select": ...}',
                    param=param,
                )
            near = difflib.get_close_matches(key, known, n=1)
            hint = f"did you mean '{near[0]}'?" if near else f"it has {', '.join(sorted(optimizer.defaults))}"
            raise PolicyError(f"{type(optimizer).__name__} ignores the group option '{key}'; {hint}", param=param)


def _refuse_zero_rates(optimizer: Optimizer) -> None:
    for number, group in enumerate(optimizer.param_groups):
        rate = group.get("initial_lr", group.get("lr"))
        if group["params"] and rate is not None and float(rate) == 0 and "max_lr" not in group:
            raise PolicyError(
                "a learning rate of 0 is not a freeze: schedules raise it, an infinite gradient makes the weights NaN,"
                " and -0.0 becomes 0.0. Add a rule with mechanism 'param_group' for these weights",
                param=f"hyperparameters.optimizer.groups[{number}].options.lr",
            )


def _refuse_members(plan: FreezePlan, frozen: Iterable[TensorRef], optimizer: Optimizer) -> None:
    whole = {id(ref.tensor): ref.name for ref in frozen if not _decision(plan, ref.name).scheduled}
    for number, group in enumerate(optimizer.param_groups):
        for parameter in group["params"]:
            if id(parameter) in whole:
                raise PolicyError(
                    f"the frozen '{whole[id(parameter)]}' is in the optimizer's group {number}; build the optimizer"
                    " from Frozen.parameters()",
                    param="hyperparameters.optimizer",
                )


def _refuse_kind(optimizer: Optimizer) -> None:
    name = type(optimizer).__name__
    if isinstance(optimizer, LBFGS):
        raise PolicyError(
            "LBFGS treats all weights as one vector and writes to those without a gradient (-0.0 becomes 0.0);"
            " use an optimizer that steps each tensor by itself, such as AdamW or SGD",
            param="hyperparameters.optimizer.name",
        )
    if not type(optimizer).__module__.startswith("torch.optim") and writes_without_gradient(optimizer):
        raise PolicyError(
            f"{name} writes to parameters that have no gradient; use one that skips them, such as AdamW or SGD",
            param="hyperparameters.optimizer.name",
        )


def writes_without_gradient(optimizer: Optimizer) -> bool:
    """Whether a copy of the optimizer changes a small matrix that has no gradient, while another one has.

    False where no copy can be built from its defaults; frozen tensors are in none of its groups all the same.
    """
    torch_state = torch.get_rng_state()
    still, moved = nn.Parameter(torch.full((4, 4), 0.5)), nn.Parameter(torch.full((4, 4), 0.5))
    options: dict[str, Any] = {key: value for key, value in optimizer.defaults.items() if value is not None}
    try:
        probe = type(optimizer)([still, moved], **options)
        before = still.detach().clone().view(torch.int32)
        for _ in range(2):
            moved.grad = torch.full((4, 4), 0.25)
            probe.step()
    except (TypeError, ValueError, RuntimeError):
        return False
    finally:
        torch.set_rng_state(torch_state)
    return not torch.equal(still.detach().view(torch.int32), before)


def _refuse_hooks(model: nn.Module, frozen: list[TensorRef], optimizer: Optimizer) -> None:
    found = hooks.foreign(model, frozen, optimizer)
    if found:
        raise PolicyError(
            f"{found[0]} could write to frozen tensors, and its package is not known; remove it, or audit the run"
            ' with "enforce": false',
            param="model",
        )


def _refuse_reentrant(model: nn.Module, plan: FreezePlan) -> None:
    """Refuses reentrant checkpointing behind frozen embeddings: the layers inside would silently get no gradient."""
    for path, module in model.named_modules():
        run = getattr(module, "_gradient_checkpointing_func", None)
        keywords: dict[str, Any] = getattr(run, "keywords", None) or {}
        if not keywords.get("use_reentrant", False) or not getattr(module, "gradient_checkpointing", False):
            continue
        if _embeddings_frozen(model, plan) and not getattr(model, "_require_grads_hook", None):
            raise PolicyError(
                f"'{path}' uses reentrant gradient checkpointing behind frozen embeddings: the layers inside would get"
                " no gradient; use gradient_checkpointing_kwargs={'use_reentrant': False}",
                param="hyperparameters.gradient_checkpointing",
            )


def _embeddings_frozen(model: nn.Module, plan: FreezePlan) -> bool:
    weights = [
        ref
        for ref in tensor_refs(model)
        if ref.kind == "parameter" and isinstance(ref.module, nn.Embedding | nn.EmbeddingBag)
    ]
    ways = [_decision(plan, ref.name) for ref in weights]
    return bool(ways) and all(way.action == "freeze" and way.mechanism != "param_group" for way in ways)
