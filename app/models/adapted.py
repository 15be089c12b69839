"""The tensors and the policy of a job that trains an adapter, from those of the model below it, without a worker."""

from app.freeze.adapters import adapted
from app.freeze.implied import implied_policy, merged_policy
from app.freeze.policy import Policy
from app.models.manifest import Manifest
from app.specs.adapters import AdapterSpec


def with_adapter(policy: Policy, below: Manifest, adapter: AdapterSpec) -> tuple[Policy, Manifest]:
    """What the job resolves; a merged adapter leaves the tensors of the model below it, under their plain names.

    Raises ModelError for a target that the model has not, or that is only seen on the loaded model.
    """
    model = adapted(below.tensors, adapter, initialised=below.initialised)
    if adapter.merge:
        return merged_policy(policy, model.merged, below.initialised), below
    return implied_policy(policy, model.new), Manifest(model.tensors, model.new)
