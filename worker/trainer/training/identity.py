"""The identity of a run: attempts with the same one give the same bits, so one may resume the other's checkpoint."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from typing import Any

from app.evidence.format.digest import sha256_file
from app.freeze.plan import FreezePlan
from app.jsontypes import JsonDict
from worker.protocol import WorkOrder, Workspace
from worker.trainer.models.tracked import TrackedModel
from worker.trainer.training.hyperparameters import ResolvedHyperparameters

#: Hyperparameters that change no bit of the result.
TIMING = frozenset({"checkpoint_steps", "checkpoint_seconds", "keep_checkpoints", "max_run_seconds", "tensorboard"})

#: Hyperparameters that did not exist from the start, each with the value that acts as the versions before it: "auto"
#: keeps to what the checkpoint says of padding, and one that says nothing had it.
ADDED = {"master_weights": True, "frozen_dropout": True, "padding_free": "auto"}


def identity(
    order: WorkOrder,
    workspace: Workspace,
    tracked: TrackedModel,
    plan: FreezePlan,
    settings: ResolvedHyperparameters,
    *,
    task: str,
) -> str:
    """SHA-256 (hex) of everything that the result depends on: task, model, base, policy, settings, seed and data."""
    files = {"training": order.data.training, "validation": order.data.validation}
    content: JsonDict = {
        "task": task,
        "model": order.model.to_json(),
        "base": sorted((name, reading.sha256) for name, reading in tracked.base.items()),
        "policy": plan.policy.to_json(),
        "settings": _of_the_result(settings.to_json()),
        "seed": order.seed,
        "data": {key: sha256_file(workspace.root / path) for key, path in files.items() if path},
        "columns": [order.data.features, order.data.target],
    }
    return hashlib.sha256(json.dumps(content, sort_keys=True, default=str).encode()).hexdigest()


def _of_the_result(settings: Mapping[str, Any]) -> JsonDict:
    """The settings that the result depends on. Later additions count where they are not the default.

    So a checkpoint from before such an addition can still be resumed.
    """
    content = {name: value for name, value in settings.items() if name not in TIMING}
    for name, default in ADDED.items():
        if content.get(name) == default:
            del content[name]
    return content
