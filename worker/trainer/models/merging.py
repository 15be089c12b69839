"""A trained adapter added into the base's weights: a whole model, of which some weights are then other than the base's.

What was trained is the adapter, over a frozen base; what the result holds are the sums, and claims are about those.
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
    """Plain names of the tensors that merging will change."""
    kinds = (".base_layer.weight", ".base_layer.bias") if _scales(model) else (".base_layer.weight",)
    live = [name for name, _ in model.named_parameters() if name.endswith(kinds)]
    # Fused experts are parameters without a module of their own: the layer around them says which one it adapts.
    inside = ((name, getattr(module, "parameter_name", None)) for name, module in model.named_modules())
    live += [f"{path}.{name}" for path, name in inside if isinstance(name, str)]
    return sorted({adapters.plain_name(model, name) for name in live})


def _scales(model: PeftModel) -> bool:
    return str(model.active_peft_config.peft_type).endswith("IA3")


def plan_of(loaded: Loaded, policy: Policy) -> FreezePlan:
    """What the policy means for the merged model. PolicyError where it is not what merging does."""
    changed, new = targets(loaded.model), _new(loaded)
    plan = resolve(merged_policy(policy, changed, new), loaded.plain)
    if plan.policy.enforce:
        _refuse_another(plan, loaded.plain, {*changed, *new})
    return plan


def merged(subject: TrackedModel, policy: Policy, before: Readings) -> tuple[TrackedModel, FreezePlan, Readings]:
    """The merged model as a subject of its own, its plan, and what its tensors were as they were loaded."""
    model: PeftModel = subject.model
    loaded, plan = subject.loaded, plan_of(subject.loaded, policy)
    digests = {adapters.plain_name(model, name): digest for name, digest in before.whole.items()}
    merged_into = targets(model)
    try:
        whole = model.merge_and_unload(safe_merge=True)
    except ValueError as error:  # not a number any more
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
        does = "is changed by merging the adapter" if info.name in trained else "is trained by no adapter"
        message = f"{info.name!r} {does}, and the policy says {decision.action!r}; send no policy, or one that fits"
        raise PolicyError(message, param="freeze_policy")
