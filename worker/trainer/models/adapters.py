"""Adapters through peft: small trained tensors beside a frozen base, saved in peft's format or merged."""

from __future__ import annotations

import copy
import re
import warnings
from collections.abc import Collection, Sequence
from pathlib import Path

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
from app.specs.adapters import AdapterSpec, Ia3Spec, LoraSpec
from app.specs.rules import refuse_adapter, refuse_dora_over_codes, refuse_merge_into_quantised
from worker.trainer.freeze.quantised_parts import holds_codes, is_quantised
from worker.trainer.models import adapter_targets
from worker.trainer.models.sentence import SentenceDense

TASK_TYPES = {
    "text-classification": "SEQ_CLS",
    "text-regression": "SEQ_CLS",
    "text-ranking": "SEQ_CLS",
    "token-classification": "TOKEN_CLS",
    "causal-lm": "CAUSAL_LM",
    "preference": "CAUSAL_LM",
    "image-text": "CAUSAL_LM",
    "pairs": "FEATURE_EXTRACTION",
}
ADAPTER = "default"  # peft's name of the one adapter in a model
_BASE_LAYERS = re.compile(r"(\.base_layer)+\.")  # nested where fused experts have several adapters
VIRTUAL_TOKENS = f"prompt_encoder.{ADAPTER}.embedding.weight"


def wrap(
    model: nn.Module,
    adapter: AdapterSpec,
    *,
    task: str,
    seed: int,
    new: Collection[str] = (),
    notes: list[str] | None = None,
) -> PeftModel:
    """Adds adapters, initialised from the seed, to the model. A `new` head gets none: it trains as it is.

    What was chosen otherwise than peft would is added to `notes`.
    """
    refuse_adapter(adapter, task)
    if any(map(is_quantised, model.modules())):
        refuse_merge_into_quantised(adapter)
    if any(map(holds_codes, model.modules())):
        refuse_dora_over_codes(adapter)
    config = _config(adapter)
    heads = sorted({name.rpartition(".")[0] for name in new})
    beside = [path for path, module in model.named_modules() if isinstance(module, SentenceDense)]
    if isinstance(config, LoraConfig | IA3Config):
        if isinstance(config, LoraConfig) and config.target_modules is None:
            config.target_modules = adapter_targets.of_language_model(model, heads, notes if notes is not None else [])
        config.exclude_modules = [*heads, *(f"{path}.linear" for path in beside)] or None
        adapter_targets.refuse_unknown(model, config.target_modules)
    torch.manual_seed(seed)
    try:
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            wrapped = _wrapped(model, config, heads, notes if notes is not None else [])
    except ValueError as error:
        raise ModelError(f"peft refused the adapter: {error}", param="model.adapter.target_modules") from error
    if adapter.merge and any("Merging is not supported" in str(warning.message) for warning in caught):
        message = "adapters of grouped convolutions cannot be merged; leave merge out, or name other target_modules"
        raise ModelError(message, param="model.adapter.merge")
    if adapter.merge:
        adapter_targets.refuse_tied_merge(wrapped.get_base_model())
    return wrapped


def _config(adapter: AdapterSpec) -> PeftConfig:
    if isinstance(adapter, LoraSpec):
        return _lora(adapter)
    if isinstance(adapter, Ia3Spec):
        feedforward = _names(adapter.feedforward_modules)
        if adapter.target_modules and feedforward is None:
            feedforward = []
        return IA3Config(target_modules=_names(adapter.target_modules), feedforward_modules=feedforward)
    return PromptTuningConfig(task_type="CAUSAL_LM", num_virtual_tokens=adapter.num_virtual_tokens or 8)


def _lora(adapter: LoraSpec) -> LoraConfig:
    return LoraConfig(
        r=adapter.r or 8,
        lora_alpha=adapter.alpha or 16,
        lora_dropout=float(adapter.dropout or 0.0),
        target_modules=_names(adapter.target_modules),
        use_rslora=bool(adapter.use_rslora),
        use_dora=bool(adapter.use_dora),
        init_lora_weights=True if adapter.init_lora_weights is None else adapter.init_lora_weights,
        bias="none",
    )


def _names(names: Sequence[str] | None) -> list[str] | None:
    return None if names is None else list(names)


def refuse_trained_base(plan: FreezePlan, base_names: Collection[str]) -> None:
    """Raises PolicyError where the policy trains a tensor of the base: an adapter file could not hold it."""
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
    """The adapter's tensors, and those of a new head, by the names that peft stores them under."""
    live = model.state_dict()
    if model.active_peft_config.is_prompt_learning:  # peft would give a copy
        state = {"prompt_embeddings": live[VIRTUAL_TOKENS]}
    else:
        state = dict(get_peft_model_state_dict(model, save_embedding_layers=False))  # those are the base's
    return state | {name: live[name] for name in sorted(new)}


def load_weights(model: PeftModel, new: Collection[str], path: Path) -> None:
    """Loads the adapter weights that an earlier job trained. ModelError where they do not fit the model."""
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
    """The name in the wrapped model of a tensor `name` of the plain model that has no adapter beside it."""
    return f"{_prefix(model)}{name}"


def plain_name(model: PeftModel, name: str) -> str:
    """The name in the plain model of a tensor `name` of the wrapped model."""
    return _BASE_LAYERS.sub(".", name.removeprefix(_prefix(model)))


def _prefix(model: PeftModel) -> str:
    return "base_model." if model.active_peft_config.is_prompt_learning else "base_model.model."


def save_config(model: PeftModel, folder: Path, *, task: str, base: str, new: Collection[str]) -> None:
    """Writes adapter_config.json, from which peft rebuilds adapter and head over the base."""
    config = copy.copy(model.peft_config[ADAPTER])  # the live one has inference_mode off
    config.task_type = _task_type(model, task, new)
    config.base_model_name_or_path = base
    config.inference_mode = True
    heads = _outermost(model.get_base_model(), {plain_name(model, name) for name in new})
    if not config.is_prompt_learning:
        config.modules_to_save = heads or None
    config.save_pretrained(folder)


def _task_type(model: PeftModel, task: str, new: Collection[str]) -> str | None:
    """peft's name of the task; None where it would have peft look for a head in the adapter that is the base's own.

    For these two tasks peft adds "classifier" and "score" to `modules_to_save` by itself.
    """
    name = TASK_TYPES.get(task)
    if name not in ("SEQ_CLS", "TOKEN_CLS"):
        return name
    trained = {plain_name(model, each) for each in new}
    heads = [path for path, _ in model.get_base_model().named_modules() if path.endswith(("classifier", "score"))]
    inside = tuple(f"{path}." for path in heads)
    tensors = [name for name in model.get_base_model().state_dict() if name.startswith(inside)]
    return name if all(_BASE_LAYERS.sub(".", tensor) in trained for tensor in tensors) else None


def _outermost(model: nn.Module, new: Collection[str]) -> list[str]:
    """The outermost modules all of whose tensors are new: peft saves and loads whole modules only."""
    heads: list[str] = []
    for path, module in model.named_modules():
        held = [f"{path}.{name}" for name in module.state_dict()]
        inside = any(path.startswith(f"{each}.") for each in heads)
        if path and held and not inside and set(held) <= set(new):
            heads.append(path)
    return sorted(heads)


def _wrapped(model: nn.Module, config: PeftConfig, heads: Collection[str], notes: list[str]) -> PeftModel:
    """Adds the adapter; where peft has no default targets for the architecture, to every linear layer but a head."""
    given = copy.deepcopy(config)
    try:
        return get_peft_model(model, config)
    except ValueError as error:
        if not isinstance(given, LoraConfig) or given.target_modules is not None:
            raise
        if "target_modules" not in str(error):
            raise
        layers = adapter_targets.linear_layers(model, heads)
        given.target_modules = adapter_targets.outside_mamba_kernels(model, layers)
        if len(given.target_modules) < len(layers):
            notes.append(
                f"the adapter leaves out {', '.join(adapter_targets.READ_BY_MAMBA)} of the Mamba blocks, which read "
                "these weights without calling the layer: an adapter there would be refused by peft, or never be used"
            )
        return get_peft_model(model, given)
