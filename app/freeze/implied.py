"""Default policies of adapter jobs: the base is frozen; the adapter and a new head train."""

import re
from collections.abc import Collection
from typing import Final

from app.freeze.policy import Policy
from app.freeze.presets import ADAPTER_NAMES
from app.jsontypes import JsonDict

ADAPTER_RULE: Final[JsonDict] = {"id": "adapter", "action": "train", "select": {"regex": [ADAPTER_NAMES]}}


def implied_policy(policy: Policy, new: Collection[str] = ()) -> Policy:
    """The default policy of an adapter job in place of an absent one; any other policy is returned unchanged.

    `new` are live names of parameters that the base does not hold. They are known once the model is loaded: a policy
    that was stored before that gets its rule for them here, and is the same as one made from nothing.
    """
    if not policy.rules and policy.default == "train":
        policy = _with_rules(policy, [ADAPTER_RULE])
    if not new or policy != _with_rules(policy, [ADAPTER_RULE]):
        return policy
    return _with_rules(policy, [ADAPTER_RULE, {"id": "new", "action": "train", "select": {"name": sorted(new)}}])


def merged_policy(policy: Policy, merged: Collection[str], new: Collection[str]) -> Policy:
    """The policy of a merged adapter's result: tensors that the adapter was merged into may change, others may not.

    A policy with rules is returned unchanged; the dry run has already warned if it does not fit.
    """
    if policy.rules:
        return policy
    changed = {"id": "merged", "action": "train", "select": {"name": sorted(merged)}}
    added = {"id": "new", "action": "train", "select": {"name": sorted(new)}}
    return _with_rules(policy, [changed, added] if new else [changed])


def is_of_adapter(name: str) -> bool:
    return re.fullmatch(ADAPTER_NAMES, name) is not None


def _with_rules(policy: Policy, rules: list[JsonDict]) -> Policy:
    return Policy.from_json({**policy.to_json(), "default": "freeze", "rules": rules})
