"""What differs from the sizes of `tests.zoo.sizes` for some kinds, and which modules get LoRA where none are linear."""

from __future__ import annotations

from typing import Any

Changes = dict[str, Any]

GEMMA_4: Changes = {
    "num_hidden_layers": 4,
    "num_kv_shared_layers": 2,
    "layer_types": ["sliding_attention", "full_attention"] * 2,
    "hidden_size_per_layer_input": 8,
}
ASSISTANT = GEMMA_4 | {"hidden_size_per_layer_input": 0, "vocab_size_per_layer_input": 0}
ROPE = {"rope_type": "default", "rope_theta": 10_000.0, "mrope_section": [1, 1, 2]}
T5: Changes = {"decoder_start_token_id": 0}
SWIN: Changes = {
    "image_size": 32,
    "patch_size": 2,
    "embed_dim": 8,
    "depths": [1, 1],
    "num_heads": [1, 2],
    "window_size": 2,
}
ALL_HEADS: Changes = {"num_key_value_heads": 4}
HYBRID = ["linear_attention", "full_attention"]

CHANGES: dict[str, Changes] = {
    "axk1": ALL_HEADS,
    "axk2": ALL_HEADS,
    "bamba": {"attn_layer_indices": [1]},
    "bit": {"num_groups": 4},
    "blt": {"encoder_hash_byte_group_vocab": 64, "encoder_hash_byte_group_size": [3, 4]},
    "cohere_compass_text": {"rope_parameters": {"full_attention": ROPE, "sliding_attention": ROPE}},
    "dbrx": {"attn_config": None},
    "deepseek_v2": ALL_HEADS | {"num_experts_per_tok": 2},
    "deepseek_v3": ALL_HEADS,
    "deepseek_v32": ALL_HEADS,
    "dots1": {"moe_intermediate_size": 16, "n_routed_experts": 4, "n_shared_experts": 1, "num_experts_per_tok": 2},
    "emu3": {"text_config": {}, "vocabulary_map": {"<image>": 60}},
    "esm": {"vocab_size": 64, "pad_token_id": 0, "mask_token_id": 4},
    "gemma3n": {"text_config": GEMMA_4},
    "gemma3n_text": GEMMA_4,
    "gemma4": {"text_config": GEMMA_4},
    "gemma4_assistant": {"text_config": {"model_type": "gemma4_text"} | ASSISTANT},
    "gemma4_text": GEMMA_4,
    "gemma4_unified": {"text_config": GEMMA_4},
    "gemma4_unified_assistant": {
        "text_config": {"model_type": "gemma4_unified_text"} | GEMMA_4 | {"hidden_size_per_layer_input": 0}
    },
    "gemma4_unified_text": GEMMA_4,
    "glm_moe_dsa": ALL_HEADS,
    "gpt_neo": {"attention_types": [[["global", "local"], 1]]},
    "granitemoehybrid": {"layer_types": HYBRID},
    "hunyuan_v1_dense": {"head_dim": 8},
    "hunyuan_v1_moe": {"head_dim": 8},
    "lfm2": {"layer_types": ["conv", "full_attention"]},
    "lfm2_moe": {"layer_types": ["conv", "full_attention"]},
    "longcat_flash": ALL_HEADS,
    "ministral": {"head_dim": 8},
    "nemotron": {"num_key_value_heads": 2},
    "nemotron_h": {"layers_block_type": ["mamba", "moe", "attention", "mlp"]},
    "perceiver": {"num_latents": 4, "d_latents": 32, "num_self_attends_per_block": 1, "d_model": 32},
    "qwen3_5": {"text_config": {"layer_types": HYBRID}},
    "qwen3_5_moe": {"text_config": {"layer_types": HYBRID}},
    "qwen3_5_moe_text": {"layer_types": HYBRID},
    "qwen3_5_text": {"layer_types": HYBRID},
    "qwen3_next": {"layer_types": HYBRID},
    "recurrent_gemma": {"num_hidden_layers": 3},
    "reformer": {"is_decoder": True, "axial_pos_embds": False},
    "donut-swin": SWIN,
    "swin": SWIN,
    "swinv2": SWIN,
    "convnext": {"patch_size": 4},
    "convnextv2": {"patch_size": 4},
    "layoutlmv3": {"coordinate_size": 4, "shape_size": 8},
    "mistral4": ALL_HEADS,
    "siglip2": {"vision_config": {"patch_size": 8, "num_patches": 16}},
    "t5": T5,
    "mt5": T5,
    "umt5": T5,
    "minicpm3": ALL_HEADS,
    "glm4_moe_lite": ALL_HEADS,
    "zamba": {"num_hidden_layers": 4, "layers_block_type": ["linear_attention", "hybrid"] * 2},
    "zamba2": {"layers_block_type": ["linear_attention", "hybrid"]},
    "zaya": {"num_experts_per_tok": 1},
}
#: Networks of convolutions have no linear layer beside the head: LoRA has to be given modules.
ADAPTERS: dict[str, Changes] = {
    "resnet": {"target_modules": ["convolution"]},
    "bit": {"target_modules": ["conv1", "conv2"]},
}
#: Kinds that are tried under every policy.
POPULAR = frozenset(
    [
        "llama",
        "llama4",
        "llama4_text",
        "qwen2",
        "qwen2_moe",
        "qwen3",
        "qwen3_moe",
        "qwen3_next",
        "qwen3_5",
        "qwen3_5_text",
        "qwen3_5_moe",
        "gemma",
        "gemma2",
        "gemma3",
        "gemma3_text",
        "gemma3n_text",
        "gemma4",
        "gemma4_text",
        "mistral",
        "mixtral",
        "ministral3",
        "phi",
        "phi3",
        "deepseek_v2",
        "deepseek_v3",
        "glm",
        "glm4",
        "glm4_moe",
        "gpt_oss",
        "olmo",
        "olmo2",
        "olmo3",
        "granite",
        "granitemoe",
        "granitemoehybrid",
        "cohere",
        "cohere2",
        "smollm3",
        "falcon_h1",
        "nemotron_h",
        "bert",
        "roberta",
        "xlm-roberta",
        "distilbert",
        "deberta-v2",
        "electra",
        "albert",
        "mpnet",
        "modernbert",
        "t5",
        "gpt2",
        "gpt_neox",
        "opt",
    ]
)
