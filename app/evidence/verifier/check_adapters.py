"""Checks of a result that is an adapter: peft loads it beside the base and leaves the base's frozen weights in use.

The rules are those of peft. Each refusal names the tensor or the key, the rule, and what to remove.
"""

import re
from collections.abc import Iterator, Mapping
from itertools import chain
from typing import Any

from app.evidence.format.quantised import computed_name
from app.evidence.verifier.check_configuration import ADAPTER_CONFIG, CONFIG, parsed
from app.evidence.verifier.check_places import CLAIMED, collisions, renamings
from app.evidence.verifier.context import Check, CheckContext, Holdings, Problem, result_of
from app.evidence.verifier.loaders import kind_of

# Initialisations of peft that leave the base's weights alone; the others subtract the adapter from them on loading.
_INITIALISATIONS = (None, True, False, "gaussian", "orthogonal")
#: What peft calls tensors of its own, by type of adapter; anything else is loaded over the model's tensor of its name.
_OWN_TENSORS = {
    "LORA": re.compile(r".*(^|\.)lora_(A|B|embedding_A|embedding_B|magnitude_vector)(\..*)?"),
    "IA3": re.compile(r".*(^|\.)ia3_l(\..*)?"),
    "PROMPT_TUNING": re.compile(r"prompt_embeddings"),
}
#: Attributes under which peft keeps the module that it wrapped, and the copies of it.
_WRAPPED = re.compile(r"(^|\.)(original_module|base_layer|modules_to_save)(\.|$)")
#: What the names of the model have before them in an adapter's file.
_MODEL = "base_model.model."
_ADAPTER_RULES = {
    "layer_replication": "peft repeats layers of the base model",
    "megatron_config": "peft imports a module for it",
    "loftq_config": "peft replaces the base's weights by quantised ones",
    "corda_config": "peft rewrites the base's weights",
    "kasa_config": "peft rewrites the base's weights",
    "eva_config": "peft initialises the adapter anew",
    "lora_ga_config": "peft rewrites the base's weights",
    "trainable_token_indices": "peft replaces rows of the base's embeddings",
    "tokenizer_kwargs": "peft loads a tokenizer with them, which may be code",
}
# The other keys of these adapters. A later peft may give a new one any meaning.
_ADAPTER_KEYS = {
    *(
        "peft_type",
        "task_type",
        "auto_mapping",
        "base_model_name_or_path",
        "revision",
        "inference_mode",
        "peft_version",
    ),
    *("r", "lora_alpha", "lora_dropout", "target_modules", "exclude_modules", "fan_in_fan_out", "bias", "use_rslora"),
    *("modules_to_save", "init_lora_weights", "layers_to_transform", "layers_pattern", "rank_pattern", "alpha_pattern"),
    *("megatron_core", "use_dora", "use_qalora", "qalora_group_size", "lora_bias"),
    *("target_parameters", "ensure_weight_tying", "alora_invocation_tokens", "runtime_config"),
    *("feedforward_modules", "init_ia3_weights", "num_virtual_tokens", "token_dim", "num_transformer_submodules"),
    *("num_attention_heads", "num_layers", "prompt_tuning_init", "prompt_tuning_init_text", "tokenizer_name_or_path"),
}


def _adapter_config(context: CheckContext) -> Iterator[Problem]:
    """Rejects adapters with which peft rewrites weights of the base while it loads them, or runs code."""
    config = parsed(result_of(context), ADAPTER_CONFIG)
    if isinstance(config, Mapping):
        yield from (Problem("adapter_config", reason, ADAPTER_CONFIG) for reason in _adapter_reasons(config))


def _adapter_reasons(config: Mapping[str, Any]) -> Iterator[str]:
    how = config.get("init_lora_weights")
    if not isinstance(how, str | bool | None) or how not in _INITIALISATIONS:
        yield f"init_lora_weights: with {how!r} peft rewrites the base's weights on loading; set it to true"
    if config.get("bias", "none") != "none":
        yield "bias: peft loads biases over those of the base; set 'none'"
    if config.get("peft_type", "LORA") not in (*_OWN_TENSORS,):  # which may be any JSON
        reason = f"peft_type {config['peft_type']!r} is not known to leave the base's weights alone"
        yield f"{reason}; the known ones are {', '.join(_OWN_TENSORS)}"
    if not isinstance(config.get("modules_to_save"), list | None):
        yield f"modules_to_save is {config['modules_to_save']!r}; it has to be a list of names of modules"

    mapping = config.get("auto_mapping")
    library = mapping.get("parent_library") if isinstance(mapping, dict) else None
    if library is not None and str(library).partition(".")[0] != "transformers":
        yield f"auto_mapping: peft imports {str(library)!r} to load the base; remove the key"
    for key, value in config.items():
        if value is None or value is False or (key == "loftq_config" and not value):  # which peft writes for none
            continue
        if key in _ADAPTER_RULES:  # an empty one counts: it stands for the defaults
            yield f"{key}: {_ADAPTER_RULES[key]}; remove the key"
        elif key not in _ADAPTER_KEYS:
            yield f"{key}: not known to leave the base's weights alone; remove the key"


def _only_own(context: CheckContext) -> Iterator[Problem]:
    """Rejects tensors of an adapter that peft may load over a tensor of the base model."""
    if context.predicate.result_kind != "adapter":
        return
    config = _adapter(result_of(context))
    saved = _saved_modules(config)
    for row in context.predicate.rows:
        if row.result is not None and not _is_own(row.result.name, config) and not _is_copy(row.result.name, saved):
            reason = (
                "peft loads it over the base's tensor of this name, if the base has one; an adapter holds its own "
                "tensors and those of its modules_to_save alone; remove it"
            )
            yield Problem("only_own", reason, row.result.name)


def _is_own(name: str, config: Mapping[str, Any]) -> bool:
    pattern = _OWN_TENSORS.get(_peft_type(config), _OWN_TENSORS["LORA"])  # `adapter_config` reports an unknown type
    return pattern.fullmatch(name) is not None


def _is_copy(name: str, saved: tuple[str, ...]) -> bool:
    """Whether peft loads the tensor into a copy of a module that it keeps for the adapter."""
    return not _WRAPPED.search(name) and any(f".{module}." in f".{name}" for module in saved)


def _peft_type(config: Mapping[str, Any]) -> str:
    return str(config.get("peft_type", "LORA"))


def _adapter(held: Holdings) -> Mapping[str, Any]:
    config = parsed(held, ADAPTER_CONFIG)
    return config if isinstance(config, Mapping) else {}


def _saved_modules(config: Mapping[str, Any]) -> tuple[str, ...]:
    """Modules that peft keeps a copy of for the adapter: it loads their tensors into the copy."""
    if _peft_type(config) == "PROMPT_TUNING":  # older versions keep none there
        return ()
    modules = config.get("modules_to_save")
    return tuple(name for name in modules if isinstance(name, str) and name) if isinstance(modules, list) else ()


def _beside_frozen(context: CheckContext) -> Iterator[Problem]:
    """Rejects a tensor of an adapter that the model computes with in place of a frozen tensor of the base.

    A copy of a module does that, by `modules_to_save`: the proved tensors are loaded and never used.
    """
    if context.predicate.result_kind != "adapter":
        return
    config = _adapter(result_of(context))
    rows = context.predicate.rows
    stored = [row.base for row in rows if row.base and row.role in CLAIMED]
    frozen = {each.name for each in stored} | {computed_name(each.name, each.dtype) for each in stored}
    loaded = {row.result.name for row in rows if row.result}
    own = {name.removeprefix(_MODEL) for name in loaded if _is_own(name, config)}
    copies = {name.removeprefix(_MODEL) for name in loaded if _is_copy(name, _saved_modules(config))} - own
    places = {name: name for name in (own | copies) & frozen}
    if copies:
        names = sorted(copies | frozen)
        kind = kind_of(parsed(context.base, CONFIG) if context.base else {})
        found = chain.from_iterable(collisions(names, renaming, kind, None) for renaming in renamings(kind, names))
        for first, second in found:
            pairs = ((first, second), (second, first))
            places |= {copy: base for copy, base in pairs if copy in copies and base in frozen}

    for name, base in sorted(places.items()):
        reason = (
            f"peft has the model use it in place of the base's {base!r}, which was proved frozen; remove it, and its "
            "module from modules_to_save"
        )
        yield Problem("beside_frozen", reason, name)


CHECKS: dict[str, Check] = {
    "adapter_config": _adapter_config,
    "only_own": _only_own,
    "beside_frozen": _beside_frozen,
}
