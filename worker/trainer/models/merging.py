"""Merges a trained adapter into the base's weights, which gives a whole model.

The adapter was trained over a frozen base; the result holds the sums, and the evidence is about those.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import replace

from peft import PeftModel

from app.errors import ModelError, PolicyError
from app.freeze.implied import merged_policy
from app.freeze.plan import FreezePlan, TensorInfo, resolve
from app.freeze.policy import Policy
from worker.trainer.models import adapters, names
from worker.trainer.models.loading import Loaded
from worker.trainer.models.tracked import Readings, TrackedModel


def targets(model: PeftModel) -> list[str]:
    """Names, in the plain model, of the tensors that merging will change."""
    kinds = (".base_layer.weight", ".base_layer.bias") if _scales(model) else (".base_layer.weight",)
    live = [name for name, _ in model.named_parameters() if name.endswith(kinds)]
    # Fused experts are parameters without a module of their own: the adapter layer names the one that it adapts.
    inside = ((name, getattr(module, "parameter_name", None)) for name, module in model.named_modules())
    live += [f"{path}.{name}" for path, name in inside if isinstance(name, str)]
    return sorted({adapters.plain_name(model, name) for name in live})


def _scales(model: PeftModel) -> bool:
    return str(model.active_peft_config.peft_type).endswith("IA3")


def plan_of(loaded: Loaded, policy: Policy) -> FreezePlan:
    """The plan of the merged model. PolicyError where the policy freezes what merging changes, or the reverse."""
    changed, new = targets(loaded.model), _new(loaded)
    plan = resolve(merged_policy(policy, changed, new), loaded.plain)
    if plan.policy.enforce:
        _refuse_another(plan, loaded.plain, {*changed, *new})
    return plan


def merge(tracked: TrackedModel, policy: Policy, before: Readings) -> tuple[TrackedModel, FreezePlan, Readings]:
    """The merged model, its plan, and the readings of its tensors as they were loaded."""
    model: PeftModel = tracked.model
    loaded, plan = tracked.loaded, plan_of(tracked.loaded, policy)
    digests = {adapters.plain_name(model, name): digest for name, digest in before.whole.items()}
    merged_into = targets(model)
    try:
        whole = model.merge_and_unload(safe_merge=True)
    except ValueError as error:  # safe_merge found NaN
        raise ModelError(f"the adapter cannot be merged: {error}", param="model.adapter.merge") from error
    result = TrackedModel.of(
        replace(loaded, model=whole, new=frozenset(_new(loaded)), adapter=None, merged=merged_into)
    )
    stored = result.stored()
    as_loaded = {each.name: before.stored[each.name] if each.part else digests[each.live] for each in stored}
    result.pairs = names.match(stored, as_loaded, result.base, prefix=names.prefix_of(whole), new=result.loaded.new)
    kept = {each.name: digests[each.name] for each in result.inventory}
    return result, plan, Readings(whole=kept, rows={}, stored=as_loaded)


def _new(loaded: Loaded) -> list[str]:
    return sorted(adapters.plain_name(loaded.model, name) for name in loaded.new)


def _refuse_another(plan: FreezePlan, inventory: Collection[TensorInfo], trained: Collection[str]) -> None:
    for info in inventory:
        decision = plan.decision(info.name)
        if info.kind != "parameter" or (decision.action == "train") == (info.name in trained):
            continue
        effect = "is changed by merging the adapter" if info.name in trained else "is not changed by the adapter"
        message = f"{info.name!r} {effect}, and the policy says {decision.action!r}; send no policy, or one that fits"
        raise PolicyError(message, param="freeze_policy")
