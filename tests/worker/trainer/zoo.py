"""Tiny models of many architectures, from configs alone, saved as a base folder would be."""

from __future__ import annotations

import base64
import io
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
import transformers
from PIL import Image
from transformers import ViTImageProcessor

from tests.worker.trainer import tiny

DEPTH = {"num_hidden_layers": 2, "num_attention_heads": 2}
TEXT = DEPTH | {"vocab_size": 64, "hidden_size": 32, "intermediate_size": 64, "max_position_embeddings": 40}
MARKS = {"pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2}
DECODER = TEXT | MARKS | {"num_key_value_heads": 1}
EXPERTS = {"num_experts": 2, "num_experts_per_tok": 1, "moe_intermediate_size": 16}
PICTURE = DEPTH | {"hidden_size": 32, "intermediate_size": 64, "image_size": 16, "patch_size": 4}
SIZES = {"image_size": 16, "num_labels": 2}


@dataclass(frozen=True)
class Kind:
    """`saved`: the class whose weights make the base. `adapter`: what LoRA has to be told of it."""

    saved: str
    config: str
    sizes: dict[str, Any]
    task: str
    adapter: dict[str, Any] = field(default_factory=dict)

    def save(self, folder: Path, *, seed: int = 0) -> Path:
        """Noise in every parameter and float buffer, so that no two tensors are alike."""
        config = getattr(transformers, self.config)(**self.sizes)
        torch.manual_seed(seed)
        model = getattr(transformers, self.saved)(config)
        with torch.no_grad():
            for name, tensor in model.state_dict().items():
                if tensor.is_floating_point():
                    tensor.copy_(torch.rand_like(tensor) * 0.1 + (0.5 if name.endswith("running_var") else 0.01))
        model.save_pretrained(folder)
        if self.task == "image-classification":
            side = {"height": 16, "width": 16}
            ViTImageProcessor(size=side, crop_size=side).save_pretrained(folder)
        elif self.task == "causal-lm":
            tiny.tokenizer(folder, ("<unk>", "<s>", "</s>"), bert_like=False)
        else:
            tiny.tokenizer(folder, ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"), bert_like=True)
        return folder

    def rows(self) -> list[dict[str, Any]]:
        """Eight examples of two classes, or eight texts."""
        if self.task == "image-classification":
            return picture_rows(16)
        if self.task == "causal-lm":
            return [{"text": f"the {word} sat on the mat"} for word in tiny.WORDS[:8]]
        return [{"text": f"the {word} film", "label": "ab"[at % 2]} for at, word in enumerate(tiny.WORDS[:8])]


def encoder(name: str, sizes: dict[str, Any] = TEXT, *, saved: str = "Model") -> Kind:
    return Kind(f"{name}{saved}", f"{name}Config", sizes, "text-classification")


def decoder(name: str, sizes: dict[str, Any] = DECODER, *, saved: str = "ForCausalLM", config: str = "") -> Kind:
    return Kind(f"{name}{saved}", config or f"{name}Config", sizes, "causal-lm")


def picture(name: str, sizes: dict[str, Any] = PICTURE, *, saved: str = "Model", lora: tuple[str, ...] = ()) -> Kind:
    adapter = {"target_modules": list(lora)} if lora else {}
    return Kind(f"{name}{saved}", f"{name}Config", sizes, "image-classification", adapter)


DEBERTA = TEXT | {"relative_attention": True, "pos_att_type": ["p2c", "c2p"], "position_buckets": 8}
STAGES = {"hidden_sizes": [8, 16], "depths": [1, 1], "num_stages": 2}

KINDS: dict[str, Kind] = {
    "bert": encoder("Bert"),
    "bert for masked words": encoder("Bert", saved="ForMaskedLM"),
    "bert, pretrained whole": encoder("Bert", saved="ForPreTraining"),
    "roberta": encoder("Roberta", TEXT | {"pad_token_id": 0}),
    "xlm-roberta": encoder("XLMRoberta", TEXT | {"pad_token_id": 0}, saved="ForMaskedLM"),
    "distilbert": encoder(
        "DistilBert",
        {"vocab_size": 64, "dim": 32, "n_layers": 2, "n_heads": 2, "hidden_dim": 64, "max_position_embeddings": 40},
        saved="ForMaskedLM",
    ),
    "deberta-v2": encoder("DebertaV2", DEBERTA),
    "electra": encoder("Electra", TEXT | {"embedding_size": 16}, saved="ForPreTraining"),
    "albert": encoder("Albert", TEXT | {"embedding_size": 16}, saved="ForMaskedLM"),
    "mpnet": encoder("MPNet", TEXT, saved="ForMaskedLM"),
    "modernbert": encoder("ModernBert", TEXT | {"pad_token_id": 0, "cls_token_id": 2, "sep_token_id": 3}),
    "roformer": encoder("RoFormer", TEXT | {"embedding_size": 32}),
    "xlnet": encoder("XLNet", {"vocab_size": 64, "d_model": 32, "n_layer": 2, "n_head": 2, "d_inner": 64}),
    "convbert": encoder("ConvBert", TEXT | {"embedding_size": 16}),
    "bart": encoder(
        "Bart",
        {
            "vocab_size": 64,
            "d_model": 32,
            "encoder_layers": 1,
            "decoder_layers": 1,
            "encoder_attention_heads": 2,
            "decoder_attention_heads": 2,
            "encoder_ffn_dim": 64,
            "decoder_ffn_dim": 64,
            "max_position_embeddings": 40,
            "eos_token_id": 3,
            "pad_token_id": 0,
            "bos_token_id": 2,
            "decoder_start_token_id": 3,
            "forced_eos_token_id": 3,
        },
    ),
    "gpt2": decoder(
        "GPT2",
        {"vocab_size": 64, "n_embd": 32, "n_layer": 2, "n_head": 2, "n_positions": 40} | MARKS,
        saved="LMHeadModel",
    ),
    "gpt-neo": decoder(
        "GPTNeo",
        {
            "vocab_size": 64,
            "hidden_size": 32,
            "num_layers": 2,
            "num_heads": 2,
            "attention_types": [[["global", "local"], 1]],
            "max_position_embeddings": 40,
        }
        | MARKS,
    ),
    "gpt-neox": decoder("GPTNeoX", TEXT | MARKS),
    "opt": decoder(
        "OPT",
        {
            "vocab_size": 64,
            "hidden_size": 32,
            "num_hidden_layers": 2,
            "ffn_dim": 64,
            "num_attention_heads": 2,
            "max_position_embeddings": 40,
            "word_embed_proj_dim": 32,
        }
        | MARKS,
    ),
    "llama": decoder("Llama"),
    "llama, tied": decoder("Llama", DECODER | {"tie_word_embeddings": True}),
    "qwen2": decoder("Qwen2", DECODER | {"tie_word_embeddings": True}),
    "qwen2-moe": decoder("Qwen2Moe", DECODER | EXPERTS | {"shared_expert_intermediate_size": 16}),
    "qwen3-moe": decoder("Qwen3Moe", DECODER | EXPERTS | {"head_dim": 16}),
    "gemma": decoder("Gemma", DECODER | {"head_dim": 16}),
    "gemma2": decoder("Gemma2", DECODER | {"head_dim": 16}),
    "gemma3, text": decoder("Gemma3", DECODER | {"head_dim": 16}, config="Gemma3TextConfig"),
    "phi": decoder("Phi", TEXT | MARKS),
    "phi3": decoder("Phi3", DECODER),
    "falcon": decoder(
        "Falcon", {"vocab_size": 64, "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2} | MARKS
    ),
    "bloom": decoder("Bloom", {"vocab_size": 64, "hidden_size": 32, "n_layer": 2, "n_head": 2} | MARKS),
    "cohere": decoder("Cohere", DECODER),
    "olmoe": decoder("Olmoe", DECODER | {"num_experts": 2, "num_experts_per_tok": 1}),
    "mixtral": decoder("Mixtral", DECODER | {"num_local_experts": 2, "num_experts_per_tok": 1}),
    "deepseek-v3": decoder(
        "DeepseekV3",
        DECODER
        | {
            "num_key_value_heads": 2,
            "n_routed_experts": 2,
            "num_experts_per_tok": 1,
            "n_group": 1,
            "topk_group": 1,
            "moe_intermediate_size": 16,
            "first_k_dense_replace": 1,
            "q_lora_rank": 8,
            "kv_lora_rank": 8,
            "qk_rope_head_dim": 8,
            "qk_nope_head_dim": 8,
            "v_head_dim": 8,
        },
    ),
    "gpt-oss": decoder(
        "GptOss",
        DECODER
        | {
            "num_local_experts": 2,
            "num_experts_per_tok": 1,
            "head_dim": 16,
            "layer_types": ["full_attention", "full_attention"],
        },
    ),
    "mamba": Kind(
        "MambaForCausalLM",
        "MambaConfig",
        {"vocab_size": 64, "hidden_size": 32, "num_hidden_layers": 2, "state_size": 4} | MARKS,
        "causal-lm",
        {"target_modules": ["in_proj"]},
    ),
    "vit": picture("ViT"),
    "vit, classifier": picture("ViT", PICTURE | {"num_labels": 2}, saved="ForImageClassification"),
    "beit": picture("Beit", PICTURE | {"use_relative_position_bias": True, "layer_scale_init_value": 0.1}),
    "beit, classifier": picture(
        "Beit", PICTURE | {"use_relative_position_bias": True, "num_labels": 2}, saved="ForImageClassification"
    ),
    "dinov2": picture("Dinov2", PICTURE | {"mlp_ratio": 2}),
    "dinov2, registers": picture("Dinov2WithRegisters", PICTURE | {"mlp_ratio": 2}),
    "deit": picture("DeiT", PICTURE),
    "swin": picture(
        "Swin",
        {"image_size": 16, "patch_size": 2, "embed_dim": 8, "depths": [1, 1], "num_heads": [1, 2], "window_size": 2},
    ),
    "swinv2": picture(
        "Swinv2",
        {"image_size": 16, "patch_size": 2, "embed_dim": 8, "depths": [1, 1], "num_heads": [1, 2], "window_size": 2},
    ),
    "convnext": picture("ConvNext", STAGES),
    "resnet": picture(
        "ResNet", {"embedding_size": 8, "hidden_sizes": [8, 16], "depths": [1, 1]}, lora=("convolution",)
    ),
    "clip, whole": Kind(
        "CLIPModel",
        "CLIPConfig",
        {
            "text_config": TEXT | MARKS | {"projection_dim": 16},
            "vision_config": PICTURE | {"projection_dim": 16},
            "projection_dim": 16,
        },
        "image-classification",
    ),
}


def picture_rows(side: int) -> list[dict[str, Any]]:
    """Eight pictures of two classes, each of one colour."""
    return [{"image": _png((30 * at, 90, 255 - 30 * at), side), "label": "ab"[at % 2]} for at in range(8)]


def _png(colour: tuple[int, int, int], side: int) -> str:
    out = io.BytesIO()
    Image.new("RGB", (side, side), colour).save(out, "PNG")
    return base64.b64encode(out.getvalue()).decode()
