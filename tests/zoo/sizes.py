"""Tiny configurations of any architecture of transformers, made from the fields of its own configuration class."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

from transformers import CONFIG_MAPPING, PreTrainedConfig

LAYERS, WIDTH, HEADS, VOCABULARY = 2, 32, 4, 64

#: What a field of any configuration is set to, where the class has it and its default is a number.
FIELDS: dict[int, tuple[str, ...]] = {
    1: (
        "n_group", "topk_group", "n_shared_experts", "num_shared_experts", "moe_num_shared_experts",
        "n_groups", "mamba_n_groups", "mamba_ngroups", "first_k_dense_replace", "type_vocab_size",
        "attn_layer_offset", "expert_layer_offset", "mamba_expand", "expand", "num_nextn_predict_layers",
        "num_mtp_layers"
    ),
    2: (
        "num_hidden_layers", "n_layer", "n_layers", "num_layers", "encoder_layers", "decoder_layers",
        "depth", "num_decoder_layers", "encoder_num_hidden_layers", "decoder_num_hidden_layers",
        "num_hidden_groups", "num_key_value_heads", "num_kv_heads", "num_experts_per_tok",
        "num_experts_per_token", "top_k_experts", "moe_topk", "moe_k", "attn_layer_period",
        "expert_layer_period", "linear_num_key_heads", "linear_num_value_heads", "mamba_dt_rank",
        "num_mem_blocks", "n_mamba_heads", "index_n_heads"
    ),
    4: (
        "num_attention_heads", "n_head", "n_heads", "num_heads", "encoder_attention_heads",
        "decoder_attention_heads", "attention_heads", "num_local_experts", "num_experts",
        "n_routed_experts", "moe_num_experts", "mamba_n_heads", "mamba_num_heads", "state_size",
        "mamba_d_state", "ssm_state_size", "q_lora_rank", "num_heads_per_layer", "index_topk", "top_k",
        "laurel_rank", "adapter_rank"
    ),
    8: (
        "head_dim", "d_kv", "v_head_dim", "qk_nope_head_dim", "qk_rope_head_dim", "kv_lora_rank",
        "mamba_d_head", "mamba_head_dim", "linear_key_head_dim", "linear_value_head_dim", "global_head_dim",
        "swa_head_dim", "kv_channels", "rotary_dim", "hidden_size_per_layer_input", "chunk_size",
        "mamba_chunk_size", "patch_size", "embedding_dim", "sliding_window", "local_attention",
        "attention_window", "window_size", "index_head_dim", "qk_head_dim", "attention_chunk_size",
        "query_pre_attn_scalar", "max_2d_position_embeddings", "max_source_positions"
    ),
    16: (
        "moe_intermediate_size", "shared_expert_intermediate_size", "moe_shared_expert_intermediate_size",
        "expert_ffn_hidden_size", "num_buckets", "position_buckets", "projection_dim", "expert_hidden_size",
        "shared_intermediate_size", "num_position_embeddings", "moe_dim"
    ),
    32: (
        "hidden_size", "d_model", "n_embd", "dim", "embed_dim", "emb_dim", "embedding_size", "image_size",
        "model_dim", "word_embed_proj_dim", "mamba_d_ssm", "input_embedding_size", "lru_width",
        "attention_hidden_size", "width", "out_hidden_size", "encoder_hidden_size", "decoder_hidden_size",
        "pooler_output_size", "d_embed", "img_size"
    ),
    64: (
        "intermediate_size", "ffn_dim", "d_ff", "n_inner", "encoder_ffn_dim", "decoder_ffn_dim",
        "ffn_hidden_size", "hidden_dim", "d_inner", "vocab_size", "vocab_size_per_layer_input",
        "max_position_embeddings", "n_positions", "max_seq_len", "n_ctx", "max_sequence_length",
        "max_target_positions", "entity_vocab_size", "decoder_vocab_size", "dff", "prefix_lm_vocab_size",
        "intermediate_size_mlp", "mlp_dim", "context_length"
    ),
}  # fmt: skip
SMALL = {name: value for value, names in FIELDS.items() for name in names}
#: And lists of numbers, one for each stage of a network, all set to one value.
STAGES = {
    "depths": 1, "hidden_sizes": 16, "num_attention_heads": 2, "num_heads": 2, "embed_dims": 16, "dims": 16,
    "encoder_hidden_sizes": 16, "neck_hidden_sizes": 16, "embed_dim": 16,
}  # fmt: skip
#: The tokens of `tests.worker.trainer.tiny`.
TOKENS = {"pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2, "cls_token_id": 2, "sep_token_id": 3}


def tiny_config(kind: str | type[PreTrainedConfig], changes: Mapping[str, Any] | None = None) -> PreTrainedConfig:
    """A configuration of `kind`, a model_type or a class, in which every known size is small.

    `changes` replace values; for a configuration inside it they are a dictionary.
    """
    made = CONFIG_MAPPING[kind] if isinstance(kind, str) else kind
    return made(**tiny_values(made, changes or {}))


def tiny_values(made: type[PreTrainedConfig], changes: Mapping[str, Any]) -> dict[str, Any]:
    """Keyword arguments for `made`."""
    values: dict[str, Any] = {}
    for name, default in _defaults(made).items():
        if name in changes and name not in made.sub_configs:
            continue
        value = _small(name, default)
        if value is not None:
            values[name] = value

    for name, inner in made.sub_configs.items():
        own = changes.get(name, {})
        if own is None or not isinstance(own, dict):
            values[name] = own
            continue
        kind = _class_inside(made, name, inner, own)
        if kind is not None:
            values[name] = tiny_values(kind, own) | {"model_type": kind.model_type}
    return values | {name: value for name, value in changes.items() if name not in made.sub_configs}


def _small(name: str, default: Any) -> Any:
    """The small value of a field; None where it keeps its default."""
    if name.endswith(("_token_id", "_token_index")):
        return _token(name, default)
    if isinstance(default, bool):
        return None
    if isinstance(default, int | float) and name in SMALL:
        return SMALL[name]
    numbers = isinstance(default, list | tuple) and default and all(isinstance(each, int) for each in default)
    if numbers and name in STAGES:
        return [STAGES[name]] * len(default)
    return None


def _token(name: str, default: Any) -> Any:
    if default is None and name not in TOKENS:
        return None
    return TOKENS.get(name, 60 if isinstance(default, int) and default >= VOCABULARY else None)


def _defaults(made: type[PreTrainedConfig]) -> dict[str, Any]:
    return {each.name: each.default for each in dataclasses.fields(made) if each.default is not dataclasses.MISSING}


def _class_inside(made: Any, name: str, inner: Any, own: Mapping[str, Any]) -> type[PreTrainedConfig] | None:
    """The class of the configuration that `made` has under `name`."""
    if "model_type" in own:
        return CONFIG_MAPPING[own["model_type"]]
    if isinstance(inner, type) and issubclass(inner, PreTrainedConfig):
        return inner
    default = getattr(made(), name, None)
    return type(default) if isinstance(default, PreTrainedConfig) else None
