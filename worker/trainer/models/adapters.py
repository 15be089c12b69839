"""LoRA through peft: low-rank matrices beside the base's weights, saved apart in peft's own format."""

from __future__ import annotations

import warnings
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

import torch
from peft import LoraConfig, PeftModel, get_peft_model, get_peft_model_state_dict
from torch import Tensor, nn

from app.errors import ModelError, PolicyError
from app.freeze.plan import FreezePlan
from app.freeze.policy import Policy

PREFIX = "base_model.model."  # peft's, before every live and stored name
TASK_TYPES = {
    "text-classification": "SEQ_CLS",
    "text-regression": "SEQ_CLS",
    "token-classification": "TOKEN_CLS",
    "causal-lm": "CAUSAL_LM",
    "preference": "CAUSAL_LM",
    "pairs": "FEATURE_EXTRACTION",
}
KNOWN = frozenset({"type", "r", "alpha", "dropout", "target_modules", "use_rslora", "use_dora"})


def wrap(model: nn.Module, adapter: Mapping[str, Any], *, seed: int) -> PeftModel:
    """The model with adapters in it, drawn from the seed. A new head stays a plain part of the model, and trains."""
    if adapter.get("type") != "lora":
        raise ModelError(f"no adapter is called {adapter.get('type')!r}; there is lora", param="model.adapter.type")
    unknown = sorted(set(adapter) - KNOWN)
    if unknown:
        message = f"the adapter has no {unknown[0]!r}; it has {', '.join(sorted(KNOWN))}"
        raise ModelError(message, param=f"model.adapter.{unknown[0]}")
    config = LoraConfig(
        r=int(adapter.get("r") or 8),
        lora_alpha=adapter.get("alpha") or 16,
        lora_dropout=float(adapter.get("dropout") or 0.0),
        target_modules=adapter.get("target_modules"),
        use_rslora=bool(adapter.get("use_rslora")),
        use_dora=bool(adapter.get("use_dora")),
        bias="none",
    )
    torch.manual_seed(seed)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", FutureWarning)  # peft asks transformers by an old name
            return _wrapped(model, config)
    except ValueError as error:
        raise ModelError(f"peft refused the adapter: {error}", param="model.adapter.target_modules") from error


def implied_policy(policy: Policy, new: Collection[str]) -> Policy:
    """What an absent policy means with an adapter: the base is frozen, the adapter and what is new train."""
    if policy.rules or policy.default != "train":
        return policy
    rules = [{"id": "adapter", "action": "train", "select": {"regex": [r"(.*\.)?lora_.*"]}}]
    if new:
        rules.append({"id": "new", "action": "train", "select": {"name": sorted(new)}})
    return Policy.from_json({**policy.to_json(), "default": "freeze", "rules": rules})


def refuse_trained_base(plan: FreezePlan, base_names: Collection[str]) -> None:
    """An adapter file has no place for a changed base tensor."""
    if not plan.policy.enforce:
        return
    for name in base_names:
        decision = plan.decision(name)
        if decision.kind == "parameter" and decision.action != "freeze":
            message = (
                f"the policy trains {name!r}, a tensor of the base, and the result of an adapter job holds only the "
                "adapter; freeze it, or leave the adapter out"
            )
            raise PolicyError(message, param="freeze_policy")


def adapter_state(model: PeftModel, new: Collection[str]) -> dict[str, Tensor]:
    """Stored name to live tensor: the adapter's, and those of a new head. Stored names are peft's."""
    state: dict[str, Tensor] = dict(get_peft_model_state_dict(model))
    live = model.state_dict()
    return state | {name: live[name] for name in sorted(new)}


def plain_name(name: str) -> str:
    """A live name as the model without an adapter has it."""
    return name.removeprefix(PREFIX).replace(".base_layer.", ".")


def save_config(model: PeftModel, folder: Path, *, task: str, base: str, new: Collection[str]) -> None:
    """adapter_config.json, from which peft rebuilds adapter and head over the base."""
    config = model.peft_config["default"]
    config.task_type = TASK_TYPES.get(task)
    config.base_model_name_or_path = base
    config.inference_mode = True
    heads = sorted({plain_name(name).rpartition(".")[0] for name in new})
    config.modules_to_save = heads or None
    config.save_pretrained(folder)


def _wrapped(model: nn.Module, config: LoraConfig) -> PeftModel:
    """Where peft knows no usual places for this architecture, every linear layer gets an adapter."""
    try:
        return get_peft_model(model, config)
    except ValueError as error:
        if config.target_modules is not None or "target_modules" not in str(error):
            raise
        config.target_modules = "all-linear"
        return get_peft_model(model, config)
