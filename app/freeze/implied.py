"""What the absence of a policy means for an adapter job: the base is frozen; the adapter, and a new head, train."""

import re
from collections.abc import Collection
from typing import Any, Final

from app.freeze.policy import Policy

#: Names of adapters' own tensors, as peft gives them.
ADAPTER_NAMES: Final = r"(.*\.)?(lora_|ia3_|prompt_encoder\.).*"
ADAPTER_RULE: Final[dict[str, Any]] = {"id": "adapter", "action": "train", "select": {"regex": [ADAPTER_NAMES]}}


def implied_policy(policy: Policy, new: Collection[str] = ()) -> Policy:
    """For an absent policy, the one that it stands for; any other comes back as it is.

    `new` are live names of parameters that the base does not hold. They are known once the model is loaded: a policy
    that was stored before that gets its rule for them here, and is the same as one made from nothing.
    """
    if not policy.rules and policy.default == "train":
        policy = _with_rules(policy, [ADAPTER_RULE])
    if not new or policy != _with_rules(policy, [ADAPTER_RULE]):
        return policy
    return _with_rules(policy, [ADAPTER_RULE, {"id": "new", "action": "train", "select": {"name": sorted(new)}}])


def merged_policy(policy: Policy, merged: Collection[str], new: Collection[str]) -> Policy:
    """What a merged adapter's result is held to: the tensors that it was merged into trained, the others did not.

    A policy with rules of its own comes back as it is; whoever wrote it has been told if it does not say just that.
    """
    if policy.rules:
        return policy
    changed = {"id": "merged", "action": "train", "select": {"name": sorted(merged)}}
    added = {"id": "new", "action": "train", "select": {"name": sorted(new)}}
    return _with_rules(policy, [changed, added] if new else [changed])


def is_of_adapter(name: str) -> bool:
    return re.fullmatch(ADAPTER_NAMES, name) is not None


def _with_rules(policy: Policy, rules: list[dict[str, Any]]) -> Policy:
    return Policy.from_json({**policy.to_json(), "default": "freeze", "rules": rules})
