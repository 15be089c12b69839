"""LoRA through peft: low-rank matrices beside the base's weights, saved apart in peft's own format."""

from __future__ import annotations

import copy
import warnings
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

import torch
from peft import LoraConfig, PeftModel, get_peft_model, get_peft_model_state_dict
from torch import Tensor, nn

from app.errors import ModelError, PolicyError
from app.freeze.plan import FreezePlan

PREFIX = "base_model.model."  # peft's, before every live and stored name
TASK_TYPES = {
    "text-classification": "SEQ_CLS",
    "text-regression": "SEQ_CLS",
    "token-classification": "TOKEN_CLS",
    "causal-lm": "CAUSAL_LM",
    "preference": "CAUSAL_LM",
    "pairs": "FEATURE_EXTRACTION",
}
KNOWN = frozenset(
    {"type", "r", "alpha", "dropout", "target_modules", "use_rslora", "use_dora", "init_lora_weights", "bias"}
)
# Others move a part of the base's weights into the adapter, so that the base is no longer what it was.
INITIALISATIONS = (True, "gaussian")


def wrap(model: nn.Module, adapter: Mapping[str, Any], *, seed: int) -> PeftModel:
    """The model with adapters in it, drawn from the seed. A new head stays a plain part of the model, and trains."""
    if adapter.get("type") != "lora":
        raise ModelError(f"no adapter is called {adapter.get('type')!r}; there is lora", param="model.adapter.type")
    unknown = sorted(set(adapter) - KNOWN)
    if unknown:
        message = f"the adapter has no {unknown[0]!r}; it has {', '.join(sorted(KNOWN))}"
        raise ModelError(message, param=f"model.adapter.{unknown[0]}")
    _refuse_changes_to_base(adapter)
    config = LoraConfig(
        r=int(adapter.get("r") or 8),
        lora_alpha=adapter.get("alpha") or 16,
        lora_dropout=float(adapter.get("dropout") or 0.0),
        target_modules=adapter.get("target_modules"),
        use_rslora=bool(adapter.get("use_rslora")),
        use_dora=bool(adapter.get("use_dora")),
        init_lora_weights=adapter.get("init_lora_weights", True),
        bias="none",
    )
    torch.manual_seed(seed)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", FutureWarning)  # peft asks transformers by an old name
            return _wrapped(model, config)
    except ValueError as error:
        raise ModelError(f"peft refused the adapter: {error}", param="model.adapter.target_modules") from error


def _refuse_changes_to_base(adapter: Mapping[str, Any]) -> None:
    how = adapter.get("init_lora_weights", True)
    if how not in INITIALISATIONS:
        raise PolicyError(
            f"init_lora_weights {how!r} is not offered: PiSSA, OLoRA, LoftQ and their like rewrite the base or draw on "
            "data, and an adapter job leaves its base untouched; use true or 'gaussian'",
            param="model.adapter.init_lora_weights",
        )
    if adapter.get("bias", "none") != "none":
        raise PolicyError(
            f"bias={adapter['bias']!r} trains biases of the base, which an adapter job leaves untouched; use 'none', "
            'or train without an adapter and with a policy such as {"train": ["**.bias"]}',
            param="model.adapter.bias",
        )


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
    config = copy.copy(model.peft_config["default"])  # the live one says that it is being trained
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
