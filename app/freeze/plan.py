"""Resolves a policy over the tensors of a model: one pure function for preview, trainer and verifier."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any, NamedTuple

from app.errors import PolicyError
from app.freeze.assignment import Assignment, NameDecision, Ranges
from app.freeze.parts import bound
from app.freeze.policy import WHOLE_RUN, Intervals, Policy
from app.freeze.quantised import Decided, is_quantised, refuse_trained, weights_beside
from app.freeze.selectors import Index, matching
from app.freeze.tensors import TensorInfo, nbytes
from app.jsontypes import JsonDict

__all__ = ["Decision", "FreezePlan", "TensorInfo", "resolve"]


class Decision(NamedTuple):
    """The decision for one tensor. Row ranges are half-open and given for a split only; buffers have no mechanism.

    A named tuple, which is made three times as fast as a dataclass: a plan may hold 100,000 of them.
    """

    name: str
    kind: str
    action: str  # "freeze" | "train" | "split"
    rule: str  # id of the deciding rule, or "default"
    mechanism: str | None
    aliases: tuple[str, ...]
    elements: int
    nbytes: int
    shape: tuple[int, ...]
    dtype: str
    frozen_rows: Ranges = ()
    trainable_rows: Ranges = ()
    intervals: Intervals = ()
    persistent: bool = True

    @property
    def scheduled(self) -> bool:
        """Frozen for some steps of the run and trained in the others."""
        return self.action == "freeze" and self.intervals != WHOLE_RUN

    @property
    def frozen_elements(self) -> int:
        """Elements that must not change during the whole run."""
        if self.action == "split":
            rows = sum(stop - start for start, stop in self.frozen_rows)
            return self.elements // self.shape[0] * rows
        return self.elements if self.action == "freeze" and not self.scheduled else 0

    def to_json(self) -> JsonDict:
        return {
            "name": self.name,
            "kind": self.kind,
            "action": self.action,
            "rule": self.rule,
            "mechanism": self.mechanism,
            "aliases": list(self.aliases),
            "elements": self.elements,
            "nbytes": self.nbytes,
            "shape": list(self.shape),
            "dtype": self.dtype,
            "frozen_rows": [list(bounds) for bounds in self.frozen_rows],
            "trainable_rows": [list(bounds) for bounds in self.trainable_rows],
            "intervals": [list(bounds) for bounds in self.intervals],
            "persistent": self.persistent,
        }

    @classmethod
    def from_json(cls, obj: Mapping[str, Any]) -> Decision:
        tuples = {key: tuple(map(tuple, obj[key])) for key in ("frozen_rows", "trainable_rows", "intervals")}
        return cls(**{**obj, **tuples, "aliases": tuple(obj["aliases"]), "shape": tuple(obj["shape"])})


@dataclass(frozen=True)
class FreezePlan:
    """One decision per tensor, by name; `frozen`, `scheduled`, `split`, `trainable`, `tracked` partition them."""

    decisions: tuple[Decision, ...]
    policy: Policy
    warnings: tuple[str, ...] = ()

    @cached_property
    def _by_name(self) -> dict[str, Decision]:
        return {name: decision for decision in self.decisions for name in (decision.name, *decision.aliases)}

    def decision(self, name: str) -> Decision:
        """The decision for a tensor, by its name or an alias. Raises KeyError for an unknown name."""
        return self._by_name[name]

    def __contains__(self, name: str) -> bool:
        return name in self._by_name

    @cached_property
    def frozen(self) -> tuple[Decision, ...]:
        """Parameters and buffers that must not change during the whole run."""
        return tuple(d for d in self.decisions if d.action == "freeze" and not d.scheduled)

    @cached_property
    def scheduled(self) -> tuple[Decision, ...]:
        """Frozen during their `intervals` only."""
        return tuple(d for d in self.decisions if d.scheduled)

    @cached_property
    def split(self) -> tuple[Decision, ...]:
        """Parameters of which some rows train."""
        return tuple(d for d in self.decisions if d.action == "split")

    @cached_property
    def trainable(self) -> tuple[Decision, ...]:
        """Parameters that train as a whole, for the whole run."""
        return tuple(d for d in self.decisions if d.action == "train" and d.kind == "parameter")

    @cached_property
    def tracked(self) -> tuple[Decision, ...]:
        """Buffers that may change: they are reported and not part of the evidence."""
        return tuple(d for d in self.decisions if d.action == "train" and d.kind == "buffer")

    def counts(self) -> dict[str, dict[str, int]]:
        """What is frozen for the whole run and what trains, among the tensors that a saved file holds.

        A partly frozen tensor counts as trainable and its frozen rows' elements as frozen; a scheduled parameter is
        trainable; a buffer that may move is neither.
        """
        frozen = trainable = frozen_elements = frozen_bytes = trainable_elements = trainable_bytes = 0
        for d in self.decisions:
            if not d.persistent:
                continue
            elements = d.frozen_elements
            nbytes = d.nbytes * elements // d.elements if d.elements else 0
            frozen_elements += elements
            frozen_bytes += nbytes
            if d.action == "freeze" and not d.scheduled:
                frozen += 1
            elif d.kind == "parameter":
                trainable += 1
                trainable_elements += d.elements - elements
                trainable_bytes += d.nbytes - nbytes
        return {
            "frozen": {"tensors": frozen, "elements": frozen_elements, "bytes": frozen_bytes},
            "trainable": {"tensors": trainable, "elements": trainable_elements, "bytes": trainable_bytes},
        }

    def to_json(self) -> JsonDict:
        return {
            "policy": self.policy.to_json(),
            "decisions": [decision.to_json() for decision in self.decisions],
            "warnings": list(self.warnings),
        }

    @classmethod
    def from_json(cls, obj: Mapping[str, Any]) -> FreezePlan:
        return cls(
            decisions=tuple(Decision.from_json(item) for item in obj["decisions"]),
            policy=Policy.from_json(obj["policy"]),
            warnings=tuple(obj["warnings"]),
        )


def resolve(policy: Policy, tensors: Iterable[TensorInfo]) -> FreezePlan:
    """The plan of a policy for these tensors. Raises PolicyError where the policy cannot mean what it says.

    The plan's policy has names in place of parts of a model. The order of `tensors` does not matter. Each of a tensor's
    names is decided by itself, and they must agree.
    """
    index = Index(tensors)
    policy = bound(policy, index.tensors)
    assignment = Assignment(policy, index)
    for number, rule in enumerate(policy.rules):
        assignment.add(number, matching(rule, index, policy))
    by_rules = [assignment.decision(at) for at in range(len(index.tensors))]
    decisions = tuple(map(_decision, index.tensors, _with_buffers(policy, index, by_rules)))
    refuse_trained(
        policy,
        (
            Decided(tensor, each.action, each.intervals, each.rule)
            for tensor, each in zip(index.tensors, decisions, strict=True)
        ),
    )
    _require_training(policy, decisions)
    return FreezePlan(decisions, policy, _warnings(policy, decisions))


def _with_buffers(policy: Policy, index: Index, by_rules: list[NameDecision]) -> list[NameDecision]:
    """The decisions with those of buffers filled in: a buffer that no rule names follows its module's parameters.

    A scale is a part of its weight and follows that alone.
    """
    decisions = list(by_rules)
    modules: dict[str, NameDecision] = {}
    for at, tensor in enumerate(index.tensors):
        if tensor.kind != "buffer":
            continue
        decision = by_rules[at]
        if decision.rule == "default":
            decision = _of_codes(index, by_rules, tensor) or _of_buffers(policy, index, by_rules, tensor, modules)
        decisions[at] = NameDecision(decision.action, None, decision.intervals, rule=decision.rule)
    return decisions


def _of_codes(index: Index, by_rules: list[NameDecision], tensor: TensorInfo) -> NameDecision | None:
    """The decision for the codes that a scale belongs to; None for any other buffer."""
    names = weights_beside(tensor.name) if is_quantised(tensor) else ()
    codes = next((index.position[name] for name in names if name in index.position), None)
    return None if codes is None else by_rules[index.owner[codes]]


def _of_buffers(
    policy: Policy, index: Index, by_rules: list[NameDecision], tensor: TensorInfo, modules: dict[str, NameDecision]
) -> NameDecision:
    """The decision for a module's buffers, looked up in `modules` or put there."""
    path = tensor.name.rpartition(".")[0]
    if path not in modules:
        modules[path] = _of_module(policy, index, by_rules, path)
    return modules[path]


def _of_module(policy: Policy, index: Index, by_rules: list[NameDecision], path: str) -> NameDecision:
    """The decision for a module's buffers: frozen if all its parameters are; without any, as the module around it."""
    if policy.buffers == "track":
        return NameDecision("train", None, ())
    first = _in_common(index, by_rules, path)
    if first is None and policy.default == "freeze":
        return NameDecision("freeze", None, WHOLE_RUN)
    while first is None and path:
        path = path.rpartition(".")[0]
        first = _in_common(index, by_rules, path)
    return first if first and first.action == "freeze" else NameDecision("train", None, ())


def _in_common(index: Index, by_rules: list[NameDecision], path: str) -> NameDecision | None:
    """The decision that all parameters under a module share; one that trains where they differ; None without any."""
    first: NameDecision | None = None
    for position in index.under(path):
        owner = index.owner[position]
        if index.tensors[owner].kind == "parameter":
            decision = by_rules[owner]
            first = first or decision
            if (decision.action, decision.intervals) != (first.action, first.intervals):
                return NameDecision("train", None, ())
    return first


def _decision(tensor: TensorInfo, decision: NameDecision) -> Decision:
    elements = math.prod(tensor.shape)
    return Decision(
        tensor.name,
        tensor.kind,
        decision.action,
        decision.rule,
        decision.mechanism,
        tensor.aliases,
        elements,
        nbytes(elements, tensor.dtype),
        tensor.shape,
        tensor.dtype,
        decision.frozen_rows,
        decision.trainable_rows,
        decision.intervals,
        tensor.persistent,
    )


def _require_training(policy: Policy, decisions: tuple[Decision, ...]) -> None:
    if not policy.enforce:  # an audit only declares: everything trains
        return
    if any(d.kind == "parameter" and (d.action != "freeze" or d.scheduled) for d in decisions):
        return
    count = sum(d.kind == "parameter" for d in decisions)
    problem = f"all {count} parameters are frozen for the whole run" if count else "the model has no parameters"
    raise PolicyError(f"nothing is left to train: {problem}", param="freeze_policy")


def _warnings(policy: Policy, decisions: tuple[Decision, ...]) -> tuple[str, ...]:
    warnings = []
    if all(d.action == "train" for d in decisions):
        warnings.append("everything trains: nothing is frozen, so the evidence will claim nothing")
    if not policy.enforce:
        warnings.append("audit: the policy is declared and not enforced, so frozen tensors may move")
    return tuple(warnings)
