"""Adapters through peft: small tensors beside the base's weights, saved apart in peft's own format, or merged."""

from __future__ import annotations

import copy
import warnings
from collections.abc import Callable, Collection, Mapping
from pathlib import Path
from typing import Any

import torch
from peft import (
    IA3Config,
    LoraConfig,
    PeftConfig,
    PeftModel,
    PromptTuningConfig,
    get_peft_model,
    get_peft_model_state_dict,
)
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

from app.errors import ModelError, PolicyError
from app.freeze.plan import FreezePlan

TASK_TYPES = {
    "text-classification": "SEQ_CLS",
    "text-regression": "SEQ_CLS",
    "token-classification": "TOKEN_CLS",
    "causal-lm": "CAUSAL_LM",
    "preference": "CAUSAL_LM",
    "pairs": "FEATURE_EXTRACTION",
}
# Others move a part of the base's weights into the adapter, so that the base is no longer what it was.
INITIALISATIONS = (True, "gaussian")
ADAPTER = "default"  # peft's name of the one adapter in a model
VIRTUAL_TOKENS = f"prompt_encoder.{ADAPTER}.embedding.weight"

Spec = Mapping[str, Any]


def wrap(model: nn.Module, adapter: Spec, *, task: str, seed: int) -> PeftModel:
    """The model with adapters in it, drawn from the seed. A new head stays a plain part of the model, and trains."""
    make, known = _kind(adapter)
    unknown = sorted(set(adapter) - known - {"type", "start"})
    if unknown:
        message = f"the adapter has no {unknown[0]!r}; it has {', '.join(sorted(known))}"
        raise ModelError(message, param=f"model.adapter.{unknown[0]}")
    config = make(adapter, task)
    torch.manual_seed(seed)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", FutureWarning)  # peft asks transformers by an old name
            return _wrapped(model, config)
    except ValueError as error:
        raise ModelError(f"peft refused the adapter: {error}", param="model.adapter.target_modules") from error


def _lora(adapter: Spec, task: str) -> PeftConfig:
    _refuse_changes_to_base(adapter)
    return LoraConfig(
        r=int(adapter.get("r") or 8),
        lora_alpha=adapter.get("alpha") or 16,
        lora_dropout=float(adapter.get("dropout") or 0.0),
        target_modules=adapter.get("target_modules"),
        use_rslora=bool(adapter.get("use_rslora")),
        use_dora=bool(adapter.get("use_dora")),
        init_lora_weights=adapter.get("init_lora_weights", True),
        bias="none",
    )


def _ia3(adapter: Spec, task: str) -> PeftConfig:
    feedforward = adapter.get("feedforward_modules")
    if adapter.get("target_modules") and feedforward is None:
        feedforward = []
    return IA3Config(target_modules=adapter.get("target_modules"), feedforward_modules=feedforward)


def _prompt_tuning(adapter: Spec, task: str) -> PeftConfig:
    if task != "causal-lm":
        message = f"prompt tuning is offered for causal-lm, and this is {task}; use lora or ia3"
        raise ModelError(message, param="model.adapter.type", code="unsupported_adapter")
    return PromptTuningConfig(task_type="CAUSAL_LM", num_virtual_tokens=int(adapter.get("num_virtual_tokens") or 8))


_LORA = {"r", "alpha", "dropout", "target_modules", "use_rslora", "use_dora", "init_lora_weights", "bias", "merge"}
KINDS: dict[str, tuple[Callable[[Spec, str], PeftConfig], set[str]]] = {
    "lora": (_lora, _LORA),
    "ia3": (_ia3, {"target_modules", "feedforward_modules", "merge"}),
    "prompt_tuning": (_prompt_tuning, {"num_virtual_tokens"}),
}


def _kind(adapter: Spec) -> tuple[Callable[[Spec, str], PeftConfig], set[str]]:
    kind = str(adapter.get("type"))
    if kind not in KINDS:
        message = f"no adapter is called {kind!r}; there are {', '.join(KINDS)}"
        raise ModelError(message, param="model.adapter.type")
    return KINDS[kind]


def _refuse_changes_to_base(adapter: Spec) -> None:
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
    live = model.state_dict()
    if model.active_peft_config.is_prompt_learning:  # peft would give a copy
        state = {"prompt_embeddings": live[VIRTUAL_TOKENS]}
    else:
        state = dict(get_peft_model_state_dict(model))
    return state | {name: live[name] for name in sorted(new)}


def take_up(model: PeftModel, new: Collection[str], path: Path) -> None:
    """Put the tensors that an earlier job trained in place of the drawn ones. ModelError where they do not fit."""
    try:
        stored = load_file(path)
    except SafetensorError as error:
        raise ModelError(f"the adapter's weights cannot be read: {error}", param="model") from error
    live = adapter_state(model, new)
    if odd := sorted(stored.keys() ^ live.keys()):
        raise ModelError(f"the adapter does not fit the base: only one of them has {odd[0]!r}", param="model")
    with torch.no_grad():
        for name, tensor in stored.items():
            if (tensor.shape, tensor.dtype) != (live[name].shape, live[name].dtype):
                message = f"{name!r} is {list(tensor.shape)} in the adapter and {list(live[name].shape)} in this job"
                raise ModelError(message, param="model")
            live[name].copy_(tensor)


def live_name(model: PeftModel, name: str) -> str:
    """A name of the model without an adapter, as it is with one (where no adapter is beside it)."""
    return f"{_prefix(model)}{name}"


def plain_name(model: PeftModel, name: str) -> str:
    """A live name as the model without an adapter has it."""
    return name.removeprefix(_prefix(model)).replace(".base_layer.", ".")


def _prefix(model: PeftModel) -> str:
    return "base_model." if model.active_peft_config.is_prompt_learning else "base_model.model."


def save_config(model: PeftModel, folder: Path, *, task: str, base: str, new: Collection[str]) -> None:
    """adapter_config.json, from which peft rebuilds adapter and head over the base."""
    config = copy.copy(model.peft_config[ADAPTER])  # the live one says that it is being trained
    config.task_type = TASK_TYPES.get(task)
    config.base_model_name_or_path = base
    config.inference_mode = True
    heads = sorted({plain_name(model, name).rpartition(".")[0] for name in new})
    if not config.is_prompt_learning:
        config.modules_to_save = heads or None
    config.save_pretrained(folder)


def _wrapped(model: nn.Module, config: PeftConfig) -> PeftModel:
    """Where peft knows no usual places for this architecture, every linear layer gets an adapter."""
    try:
        return get_peft_model(model, config)
    except ValueError as error:
        if not isinstance(config, LoraConfig) or config.target_modules is not None:
            raise
        if "target_modules" not in str(error):
            raise
        config.target_modules = "all-linear"
        return get_peft_model(model, config)
