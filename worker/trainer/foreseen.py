"""Refuses, before the first step, a run whose result a verifier would reject whatever training does."""

from __future__ import annotations

from collections.abc import Sequence

from peft import PeftModel
from transformers import PreTrainedConfig

from app.errors import ModelError
from app.evidence.attest.names import rejected, unfollowed
from app.evidence.attest.observations import ObservedTensor, read_observations
from app.evidence.format.digest import TensorReading
from app.freeze.plan import FreezePlan
from worker.protocol import Workspace
from worker.trainer.export import kind_of, observed
from worker.trainer.freeze.inventory import dtype_code
from worker.trainer.models.tracked import Readings, TrackedModel


def refuse_unfollowed(workspace: Workspace, tracked: TrackedModel, plan: FreezePlan, loaded: Readings) -> None:
    """Raises ModelError where a verifier could not follow the model's names to its files: known before the first step.

    The statement would be rejected for its names alone, whatever training does.
    """
    if not _claims(plan):
        return
    seen, result = _as_loaded(tracked, plan, loaded)
    both = _configs(workspace, tracked)
    problem = next(unfollowed(plan, seen, base=tracked.base, result=result, kind=kind_of(tracked), configs=both), None)
    if problem is not None:
        kind = getattr(getattr(tracked.model, "config", None), "model_type", type(tracked.model).__name__)
        raise ModelError(
            f"the names of this {kind} model's tensors cannot be followed from its files through transformers to the "
            f"result ({problem}), so that no evidence could be given; models saved like this are not supported",
            param="model",
            code="unsupported_model",
        )


def refuse_rejected(workspace: Workspace, tracked: TrackedModel, plan: FreezePlan, loaded: Readings) -> None:
    """Raises ModelError where a verifier would reject a configuration of the result. Call after `write_form`."""
    if not _claims(plan):
        return
    seen, result = _as_loaded(tracked, plan, loaded)
    folders = workspace.base, workspace.form_files
    problems = rejected(plan, seen, base=tracked.base, result=result, kind=kind_of(tracked), folders=folders)
    problem = next(problems, None)
    if problem is not None:
        message = f"a verifier would reject the result, whatever training does: {problem}; correct it in the base"
        raise ModelError(message, param="model")


def _claims(plan: FreezePlan) -> bool:
    """Whether the evidence will claim anything."""
    return plan.policy.enforce and any(decision.intervals for decision in plan.decisions)


def _as_loaded(
    tracked: TrackedModel, plan: FreezePlan, loaded: Readings
) -> tuple[Sequence[ObservedTensor], dict[str, TensorReading]]:
    """Observations and result of a run that would change nothing."""
    result = {
        each.name: TensorReading(
            name=each.name,
            dtype=dtype_code(each.tensor, each.name),
            shape=tuple(each.tensor.shape),
            nbytes=each.tensor.nbytes,
            offset=0,
            sha256=loaded.stored[each.name],
        )
        for each in tracked.stored()
        if each.saved
    }
    return read_observations({"tensors": observed(tracked, plan, loaded, loaded)}), result


def _configs(workspace: Workspace, tracked: TrackedModel) -> tuple[bytes, bytes] | None:
    """The `config.json` of the base and of the result; None where the result has none."""
    config, path = getattr(tracked.model, "config", None), workspace.base / "config.json"
    if not isinstance(config, PreTrainedConfig) or isinstance(tracked.model, PeftModel) or not path.is_file():
        return None
    return path.read_bytes(), config.to_json_string().encode()
