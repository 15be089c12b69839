"""Checks of a statement's policy, and of its rows against the policy, which is resolved again over the same tensors."""

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from app.errors import PolicyError
from app.evidence.format.statement import Row
from app.evidence.format.strict import JsonError, read_json, repeated_keys
from app.evidence.verifier.check_names import owners
from app.evidence.verifier.context import Check, CheckContext, Problem
from app.freeze.plan import Decision, FreezePlan, TensorInfo, resolve
from app.freeze.policy import Policy
from app.jsontypes import JsonDict


def read_policy(raw: bytes) -> Policy:
    """The policy in a file that the reader gave. Raises PolicyError for another document and for repeated keys."""
    try:
        document = read_json(raw)
    except JsonError as error:
        raise PolicyError(str(error)) from None
    for key in repeated_keys(document):
        raise PolicyError(f"key {key!r} appears twice")
    return Policy.from_json(document)


def plan_of(rows: Iterable[Row], policy: dict[str, object]) -> FreezePlan:
    """The plan that the statement's policy gives for the statement's tensors. Raises PolicyError."""
    infos: dict[str, TensorInfo] = {}
    for row in owners(rows):
        dtype, shape = _live_form(row)
        infos.setdefault(
            row.name,
            TensorInfo(row.name, shape, dtype, row.kind, row.aliases, row.module_types, row.persistent),
        )
    try:
        return resolve(Policy.from_json(policy), infos.values())
    except PolicyError:
        raise
    except (ValueError, KeyError) as error:  # two tensors of one name, or an unknown dtype
        raise PolicyError(str(error)) from None


def _live_form(row: Row) -> tuple[str, tuple[int, ...]]:
    stored = row.result or row.initial or row.base
    if row.shape is not None and row.dtype is not None:
        return row.dtype, row.shape
    if stored is None:
        raise PolicyError(f"tensor {row.name!r} has neither a reading nor a shape")
    return stored.dtype, stored.shape


def _policy_digest(context: CheckContext) -> Iterator[Problem]:
    """Rejects a policy that cannot be read, or whose digest is not the stated one."""
    predicate = context.predicate
    try:
        policy = context.plan.policy if context.plan is not None else Policy.from_json(dict(predicate.policy))
        found = policy.digest()
    except PolicyError as error:
        yield Problem("policy_digest", f"not a policy: {error}")
        return
    if found != predicate.policy_digest:
        reason = "the policy has another digest than the stated one"
        yield Problem("policy_digest", reason, None, predicate.policy_digest, found)


def _policy_fits(context: CheckContext) -> Iterator[Problem]:
    """Rejects a policy that cannot be resolved over the statement's tensors."""
    if context.plan is None:
        try:
            plan_of(context.predicate.rows, dict(context.predicate.policy))
        except PolicyError as error:
            yield Problem("policy_fits", f"the policy does not fit the statement's tensors: {error}")


def _roles(context: CheckContext) -> Iterator[Problem]:
    """Rejects a row with another role than the policy gives its tensor."""
    if context.plan is None:
        return
    for row in context.predicate.rows:
        if row.role == "dropped" and (row.base is None or row.result is not None):
            yield Problem("roles", "marked as dropped, but it is not in the base alone", row.name)
    for row in owners(context.predicate.rows):
        allowed = _roles_of(row, context.plan.decision(row.name))
        if row.role not in allowed:
            reason = f"its role is '{row.role}', by the policy it is {' or '.join(map(repr, allowed))}"
            yield Problem("roles", reason, row.name)


def _roles_of(row: Row, decision: Decision) -> tuple[str, ...]:
    if not row.persistent:
        return ("buffer",)
    if row.base is None:
        return ("new",)
    if decision.action == "freeze":
        return ("scheduled",) if decision.scheduled else ("frozen",)
    if decision.action == "split":
        return ("split",)
    # A tensor of the base may be initialised anew.
    return ("buffer", "new") if decision.kind == "buffer" else ("trainable", "new")


def _decisions(context: CheckContext) -> Iterator[Problem]:
    """Rejects a row with another rule or mechanism than the policy gives its tensor."""
    if context.plan is None:
        return
    for row in owners(context.predicate.rows):
        decision = context.plan.decision(row.name)
        if (row.rule, row.mechanism) != (decision.rule, decision.mechanism):
            by_policy = f"{decision.rule} ({decision.mechanism})"
            reason = f"its rule is {row.rule} ({row.mechanism}), by the policy it is {by_policy}"
            yield Problem("decisions", reason, row.name)


def _unstored(context: CheckContext) -> Iterator[Problem]:
    """Rejects tensors that no file holds where they change what the policy decides about stored tensors.

    An unstored tensor is the signer's word alone: an invented last layer would take the place of the real one.
    """
    rows = list(owners(context.predicate.rows))
    stored = [row for row in rows if row.base or row.result]
    if context.plan is None or len(stored) == len(rows):
        return
    try:
        plan = plan_of(stored, _without_expectations(context.predicate.policy))
    except PolicyError:  # a rule that matches only tensors in no file
        return
    for row in stored:
        if _meant(plan.decision(row.name)) != _meant(context.plan.decision(row.name)):
            yield Problem("unstored", "its decision depends on tensors that no file holds", row.name)


def _without_expectations(policy: Mapping[str, Any]) -> JsonDict:
    rules = [{key: value for key, value in rule.items() if key != "expect"} for rule in policy.get("rules") or ()]
    return {**policy, "rules": rules} if rules else dict(policy)


def _meant(decision: Decision) -> tuple[object, ...]:
    return decision.action, decision.frozen_rows, decision.intervals


CHECKS: dict[str, Check] = {
    "policy_digest": _policy_digest,
    "policy_fits": _policy_fits,
    "roles": _roles,
    "decisions": _decisions,
    "unstored": _unstored,
}
