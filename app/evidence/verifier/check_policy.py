"""What a policy makes of a statement's tensors: resolved again, so that nobody has to believe the role column."""

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from app.errors import PolicyError
from app.evidence.format.statement import Row
from app.evidence.format.strict import JsonError, read_json, repeated_keys
from app.evidence.verifier.check_names import owners
from app.evidence.verifier.context import Check, CheckContext, Problem
from app.freeze.plan import Decision, FreezePlan, TensorInfo, resolve
from app.freeze.policy import Policy


def read_policy(raw: bytes) -> Policy:
    """A policy in a file of the reader's. PolicyError for what is none, or two in one."""
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
    except (ValueError, KeyError) as error:  # two tensors of one name, a dtype that nobody knows
        raise PolicyError(str(error)) from None


def _live_form(row: Row) -> tuple[str, tuple[int, ...]]:
    stored = row.result or row.initial or row.base
    if row.shape is not None and row.dtype is not None:
        return row.dtype, row.shape
    if stored is None:
        raise PolicyError(f"tensor {row.name!r} has neither a reading nor a shape")
    return stored.dtype, stored.shape


def _unstored(context: CheckContext) -> Iterator[Problem]:
    """Tensors that no file holds are the signer's word, and an invented layer would be the last of its layers."""
    rows = list(owners(context.statement.predicate.rows))
    stored = [row for row in rows if row.base or row.result]
    if context.plan is None or len(stored) == len(rows):
        return
    try:
        plan = plan_of(stored, _without_expectations(context.statement.predicate.policy))
    except PolicyError:  # a rule that is about tensors in no file alone
        return
    for row in stored:
        if _meant(plan.decision(row.name)) != _meant(context.plan.decision(row.name)):
            yield Problem("unstored", "decided in another way because of tensors that no file holds", row.name)


def _without_expectations(policy: Mapping[str, Any]) -> dict[str, Any]:
    rules = [{key: value for key, value in rule.items() if key != "expect"} for rule in policy.get("rules", ())]
    return {**policy, "rules": rules} if rules else dict(policy)


def _meant(decision: Decision) -> tuple[object, ...]:
    return decision.action, decision.frozen_rows, decision.intervals


CHECKS: dict[str, Check] = {"unstored": _unstored}
