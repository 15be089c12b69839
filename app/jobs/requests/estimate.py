"""Estimates how long a job will take and how much memory it needs, by rules that the answer states."""

import json
import math
import statistics
from pathlib import Path
from typing import Final

from sqlalchemy import select
from sqlalchemy.orm import Session

from app.errors import PermafrostError
from app.freeze.implied import implied_policy
from app.freeze.plan import Decision
from app.freeze.preview import OPTIMIZER_STATE, Preview
from app.freeze.preview import preview as preview_of
from app.jobs.queue.tables import Job
from app.jobs.requests.length import MAX_TOKENS, TOKEN_BYTES, Length
from app.jobs.requests.submission import CheckedRequest
from app.jsontypes import JsonDict
from app.models.catalog import folder_of
from app.models.manifest import Manifest
from app.settings import Settings
from app.specs.models import ModelSpec, folder_name

#: Seconds for loading, three readings of every tensor, and the result, with the smallest model.
FIXED_SECONDS: Final = 3.0
#: Seconds that a step takes at least.
STEP_SECONDS: Final = 0.002
#: How many earlier jobs a measured speed is taken from.
EARLIER: Final = 5


def planned(checked: CheckedRequest) -> tuple[Manifest, Preview] | None:
    """The policy resolved against the tensors that the job trains, where these are known."""
    known = checked.known
    if known is None:
        return None
    policy = checked.policy
    if checked.chosen.spec.adapter is not None:
        policy = implied_policy(policy, known.initialised)
    name = _optimizer(checked)
    masters = checked.hyperparameters.master_weights is not False
    return known, preview_of(
        policy, known.tensors, optimizer=name, initialised=known.initialised, master_weights=masters
    )


def memory(checked: CheckedRequest, settings: Settings, size: Length | None) -> JsonDict:
    """Bytes by purpose; None for what is not known."""
    known = planned(checked)
    if known is None:
        return dict.fromkeys(("weights", "gradients", "optimizer", "master_weights", "activations", "total"))

    tensors, plan = known
    parts: dict[str, int | None] = {
        "weights": sum(tensor.nbytes for tensor in tensors.tensors),
        "gradients": plan.memory["gradient_bytes"],
        "optimizer": plan.memory["optimizer_bytes"],
        "master_weights": plan.memory["master_weight_bytes"],
        "activations": _activations(checked, settings, size),
    }
    optimizer = checked.hyperparameters.optimizer
    if optimizer and optimizer.momentum and optimizer.name == "sgd":
        parts["optimizer"] = plan.memory["gradient_bytes"]
    return {**parts, "total": sum(filter(None, parts.values()))}


def seconds(
    session: Session, project: str, checked: CheckedRequest, settings: Settings, size: Length | None
) -> JsonDict:
    """Seconds from earlier jobs on this model where there are any, else from the number of operations."""
    if size is None:
        return {"seconds": None, "basis": None}
    basis, took = "measured", _measured(session, project, checked, size)
    if took is None:
        basis, took = "computed", computed_seconds(checked, settings, size)
    if took is None:
        return {"seconds": None, "basis": None}
    limit = checked.hyperparameters.max_run_seconds
    return {"seconds": round(min(took, limit + FIXED_SECONDS) if limit else took, 1), "basis": basis}


def rules(settings: Settings) -> dict[str, str]:
    """How the numbers are computed, for readers to judge them by."""
    return {
        "steps": "examples / batch_size, rounded up, times n_epochs, or max_steps; 'auto' as the trainer decides "
        "it; packing is not taken into account",
        "tokens": f"bytes of the file / examples / {TOKEN_BYTES}, at most max_length or {MAX_TOKENS}",
        "seconds": f"measured: the median speed of up to {EARLIER} finished jobs of this project on the same model and "
        "task, and what they took beside training; else computed: 2 operations for each parameter and token forward, 2 "
        "backward through what lies between a trained tensor and the loss, 2 for each trained one, embeddings not "
        f"counted, at {settings.device_flops:.3g} operations a second (PERMAFROST_DEVICE_FLOPS), at least "
        f"{STEP_SECONDS} s a step, and {FIXED_SECONDS:g} s; waiting in the queue is not in it; at most max_run_seconds",
        "memory": "weights in their own dtype; gradients and optimizer state of what trains, in fp32 where it has "
        "fp32 master copies, and these copies; activations of one "
        "micro-batch: tokens x hidden x layers x 34 values of 2 bytes and tokens squared x heads x layers x 5 bytes, "
        "twice that without 16-bit precision",
    }


def _measured(session: Session, project: str, checked: CheckedRequest, size: Length) -> float | None:
    same = (
        Job.project == project,
        Job.model == checked.chosen.name,
        Job.task == checked.task,
        Job.status == "succeeded",
    )

    newest = select(Job).where(*same).order_by(Job.created_at.desc(), Job.id.desc()).limit(EARLIER)
    speeds, rests = [], []
    for job in session.scalars(newest):
        speed = (job.progress or {}).get("examples_per_second")
        batch, steps = job.hyperparameter_spec.batch_size, (job.progress or {}).get("step")
        if job.spec != checked.chosen.spec or not speed or not isinstance(batch, int) or not steps:
            continue
        if job.attempt == 1 and job.started_at and job.finished_at:
            speeds.append(speed)
            rests.append(max(0.0, (job.finished_at - job.started_at).total_seconds() - steps * batch / speed))

    return size.seen / statistics.median(speeds) + statistics.median(rests) if speeds else None


def computed_seconds(checked: CheckedRequest, settings: Settings, size: Length) -> float | None:
    """Seconds from the number of operations alone, to compare policies by; None where it is not known."""
    known = planned(checked)
    if known is None or checked.task in ("image-classification", "image-text", "contrastive-image-text"):
        return None  # how often a convolution's weights are used depends on the pictures
    tensors, plan = known

    decisions = plan.plan.decisions
    lookups = {
        tensor.name for tensor in tensors.tensors if tensor.module_types and "Embedding" in tensor.module_types[-1]
    }
    used = [decision for decision in decisions if decision.kind == "parameter" and decision.name not in lookups]
    unpacked = {tensor.name: math.prod(tensor.unpacked) for tensor in tensors.tensors if tensor.unpacked}
    everything = sum(unpacked.get(decision.name, decision.elements) for decision in used)
    trained = sum(decision.elements for decision in used if _trains(decision))

    # A new head alone needs no backward pass through the base.
    deep = any(_trains(decision) and decision.name not in tensors.initialised for decision in decisions)
    operations = 2 * everything * (2 if deep else 1) + 2 * trained
    passes = size.tokens or 1
    if checked.task == "preference":
        operations, passes = operations + 2 * everything, 2 * passes  # two answers, and a reference model

    took = max(size.seen * passes * operations / settings.device_flops, size.steps * STEP_SECONDS)
    return took + FIXED_SECONDS


def _trains(decision: Decision) -> bool:
    return decision.action != "freeze" or bool(decision.scheduled)


def _activations(checked: CheckedRequest, settings: Settings, size: Length | None) -> int | None:
    """Bytes that a transformers model keeps for the backward pass; None where its config.json cannot be read here."""
    if size is None or size.tokens is None:
        return None
    config = _config(checked.chosen.spec, settings)
    hidden, layers = config.get("hidden_size"), config.get("num_hidden_layers")
    heads = config.get("num_attention_heads")
    if not (isinstance(hidden, int) and isinstance(layers, int) and isinstance(heads, int)):
        return None
    micro = checked.hyperparameters.micro_batch_size or size.batch_size
    halves = 1 if checked.hyperparameters.precision in ("bf16", "fp16") else 2
    return halves * micro * layers * (34 * size.tokens * hidden + 5 * heads * size.tokens**2)


def _config(spec: ModelSpec, settings: Settings) -> JsonDict:
    try:
        path: Path = folder_of(settings, folder_name(spec), param="model.path") / "config.json"
        config = json.loads(path.read_bytes())
    except (PermafrostError, OSError, ValueError):
        return {}
    return config if isinstance(config, dict) else {}


def _optimizer(checked: CheckedRequest) -> str:
    name = checked.hyperparameters.optimizer.name if checked.hyperparameters.optimizer else "adamw"
    return name if name in OPTIMIZER_STATE else "adamw"  # adam keeps what adamw keeps
