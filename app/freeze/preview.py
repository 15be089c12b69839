"""Previews a policy on a registered model without torch: plan, counts, memory and warnings."""

import math
from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from app.errors import InvalidRequest
from app.freeze.plan import Decision, FreezePlan, resolve
from app.freeze.policy import Policy
from app.freeze.tensors import DTYPE_BITS, TensorInfo
from app.jsontypes import JsonDict

NORMS_WITH_STATE = ("BatchNorm", "SyncBatchNorm", "InstanceNorm")
MANY = 3  # names listed in a warning

# Values that an optimizer keeps for a parameter of this shape, in the parameter's own dtype.
OPTIMIZER_STATE: dict[str, tuple[Callable[[tuple[int, ...]], int], str]] = {
    "adamw": (lambda shape: 2 * math.prod(shape), "2 values per element (both moments)"),
    "adam": (lambda shape: 2 * math.prod(shape), "2 values per element (both moments)"),
    "sgd": (lambda shape: 0, "nothing (without momentum)"),
    "muon": (
        lambda shape: math.prod(shape) * (1 if len(shape) == 2 else 2),
        "1 value per element of a matrix (the momentum), 2 of anything else (AdamW's moments)",
    ),
    "adafactor": (lambda shape: _factored(shape), "1 value per row and per column (per element of a vector)"),
    "lbfgs": (lambda shape: 200 * math.prod(shape), "200 values per element (a history of 100 steps)"),
}


@dataclass(frozen=True)
class Preview:
    """A plan and the memory that it saves. `rows` are the decisions as JSON, sorted by name, for paging."""

    plan: FreezePlan
    memory: JsonDict
    warnings: tuple[str, ...]

    @cached_property
    def rows(self) -> list[JsonDict]:
        return [decision.to_json() for decision in self.plan.decisions]

    def to_json(self) -> JsonDict:
        """The preview as JSON without the rows."""
        return {
            "freeze_policy": self.plan.policy.to_json(),
            "policy_digest": self.plan.policy.digest(),
            "freeze_plan": self.plan.counts(),
            "tensors": len(self.plan.decisions),
            "memory": self.memory,
            "warnings": list(self.warnings),
        }


def preview(
    policy: Policy | Mapping[str, Any],
    tensors: Iterable[TensorInfo],
    *,
    optimizer: str = "adamw",
    initialised: Collection[str] = (),
    master_weights: bool = True,
) -> Preview:
    """Resolve a policy over a model's manifest. PolicyError as from `resolve`.

    `initialised` names the tensors that the model's files do not hold and that start at random values.
    `master_weights` is the hyperparameter: half-precision weights that train have fp32 copies.
    """
    if optimizer not in OPTIMIZER_STATE:
        known = ", ".join(OPTIMIZER_STATE)
        raise InvalidRequest(f"unknown optimizer '{optimizer}'; there are {known}", param="optimizer")
    policy = policy if isinstance(policy, Policy) else Policy.from_json(policy)
    infos = list(tensors)
    plan = resolve(policy, infos)
    warnings = [
        *plan.warnings,
        *_norms(plan, infos),
        *_heads(plan, initialised),
        *_tracked(plan),
        *_schedules(plan),
        *_lbfgs(plan, optimizer),
    ]
    return Preview(plan, _memory(plan, optimizer, masters=master_weights), tuple(warnings))


def _memory(plan: FreezePlan, optimizer: str, *, masters: bool) -> JsonDict:
    """Bytes that gradients and optimizer state take, against those of training every parameter."""
    state, described = OPTIMIZER_STATE[optimizer]
    gradients = gradients_all = states = states_all = copies = 0
    for decision in plan.decisions:
        if decision.kind != "parameter":
            continue
        half = masters and plan.policy.enforce and decision.dtype in ("BF16", "F16")
        size = 4 if half else DTYPE_BITS[decision.dtype] / 8
        shape = _trained_shape(decision, plan.policy.enforce)
        gradients_all += math.ceil(size * decision.elements)
        states_all += math.ceil(size * state(decision.shape))
        if shape is not None:
            gradients += math.ceil(size * math.prod(shape))
            states += math.ceil(size * state(shape))
            copies += 4 * math.prod(shape) if half else 0
    return {
        "optimizer": optimizer,
        "gradient_bytes": gradients,
        "gradient_bytes_saved": gradients_all - gradients,
        "optimizer_bytes": states,
        "optimizer_bytes_saved": states_all - states,
        "master_weight_bytes": copies,
        "formula": (
            "gradients: 1 value per trainable element; optimizer state: "
            f"{described}; each value in the parameter's dtype, for half-precision parameters in fp32, of which "
            "those that train have a master copy too; saved = the same sums over all parameters, less these. "
            "Activations are not counted, and a scheduled tensor counts as trainable."
        ),
    }


def _trained_shape(decision: Decision, enforce: bool) -> tuple[int, ...] | None:
    """The shape of the part of a tensor that ever has a gradient; None if no part has."""
    if decision.action == "split" and enforce:
        return (sum(stop - start for start, stop in decision.trainable_rows), *decision.shape[1:])
    if decision.action == "freeze" and not decision.scheduled and enforce:
        return None
    return decision.shape


def _factored(shape: tuple[int, ...]) -> int:
    if len(shape) < 2:
        return math.prod(shape)
    return math.prod(shape[:-1]) + math.prod(shape[:-2]) * shape[-1]


def _norms(plan: FreezePlan, infos: list[TensorInfo]) -> list[str]:
    """Warnings about norms whose buffers change in the forward pass, whether or not their parameters are frozen."""
    pinned: dict[str, str] = {}
    moving: dict[str, str] = {}
    for info in infos:
        kind = info.module_types[-1].rpartition(".")[2] if info.module_types else ""
        if info.kind != "buffer" or not kind.startswith(NORMS_WITH_STATE):
            continue
        module = info.name.rpartition(".")[0]
        if plan.decision(info.name).action == "freeze":
            pinned[module] = kind
        elif any(d.action == "freeze" and d.kind == "parameter" for d in _in_module(plan, module)):
            moving[module] = kind
    warnings = []
    if pinned:
        warnings.append(
            f"{_modules(pinned)} in a frozen part stays in eval mode: it normalises with the base's statistics, "
            "also during training"
        )
    if moving:
        warnings.append(
            f"{_modules(moving)} has frozen parameters, but its statistics move with every forward pass; "
            'freeze the whole module with "buffers": "pin" to stop that'
        )
    return warnings


def _in_module(plan: FreezePlan, module: str) -> list[Decision]:
    names = (f"{module}.weight", f"{module}.bias") if module else ("weight", "bias")
    return [plan.decision(name) for name in names if name in plan]


def _modules(found: Mapping[str, str]) -> str:
    kinds = ", ".join(sorted(set(found.values())))
    return f"{kinds} ({_some(sorted(found))})"


def _heads(plan: FreezePlan, initialised: Collection[str]) -> list[str]:
    new = [d for d in plan.decisions if d.name in initialised]
    warnings = []
    if new:
        names = _some([d.name for d in new])
        warnings.append(f"not in the model's files, so initialised at random: {names}; never claimed as the base's")
    if frozen := [d.name for d in new if d.action == "freeze"]:
        warnings.append(f"frozen at random values: {_some(frozen)}; train them, or they never learn")
    return warnings


def _tracked(plan: FreezePlan) -> list[str]:
    if plan.policy.buffers == "track" and plan.tracked:
        names = _some([d.name for d in plan.tracked])
        return [
            f'"buffers": "track" lets {len(plan.tracked)} buffers move, and the evidence will not claim them: {names}'
        ]
    return []


def _schedules(plan: FreezePlan) -> list[str]:
    if plan.scheduled:
        names = _some([d.name for d in plan.scheduled])
        return [f"frozen for some steps only, and claimed for those steps only: {names}"]
    return []


def _lbfgs(plan: FreezePlan, optimizer: str) -> list[str]:
    if optimizer == "lbfgs" and any(d.action != "train" for d in plan.decisions):
        return [
            "LBFGS writes to every parameter it is given, also without a gradient (-0.0 becomes 0.0): prefer another"
        ]
    return []


def _some(names: list[str]) -> str:
    more = f" and {len(names) - MANY} more" if len(names) > MANY else ""
    return ", ".join(f"'{name}'" for name in names[:MANY]) + more
