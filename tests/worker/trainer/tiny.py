"""Tiny transformers models from configs, with tokenizers of their own, saved as a base folder would be."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors
from transformers import (
    BertConfig,
    BertModel,
    LlamaConfig,
    LlamaForCausalLM,
    MixtralConfig,
    MixtralForCausalLM,
    PreTrainedModel,
    PreTrainedTokenizerFast,
    ViTConfig,
    ViTForImageClassification,
    ViTImageProcessor,
)

WORDS = [
    "the", "a", "cat", "dog", "sat", "ran", "on", "under", "mat", "tree", "good", "bad", "very", "not", "film", "book",
    "it", "was", "is", "red", "blue",
]  # fmt: skip
#: What the models of texts have in common.
SMALL: dict[str, Any] = {"vocab_size": 64, "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2}
#: And those that generate.
DECODER: dict[str, Any] = {
    "num_key_value_heads": 1,
    "max_position_embeddings": 64,
    "bos_token_id": 1,
    "eos_token_id": 2,
}


def bert(folder: Path, *, seed: int = 0, **changes: Any) -> Path:
    """An encoder with dropout, 2 layers of 32."""
    config = BertConfig(**{**SMALL, "intermediate_size": 64, "max_position_embeddings": 32, **changes})
    _save(BertModel(config), folder, seed=seed)
    tokenizer(folder, ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"), bert_like=True)
    return folder


def llama(folder: Path, *, seed: int = 0, template: str | None = None, **changes: Any) -> Path:
    """A decoder, 2 layers of 32, tied embeddings unless told otherwise; the tokenizer has no pad token."""
    options = SMALL | DECODER | {"tie_word_embeddings": True, "intermediate_size": 64} | changes
    _save(LlamaForCausalLM(LlamaConfig(**options)), folder, seed=seed)
    tokenizer(folder, ("<unk>", "<s>", "</s>", "User", "Assistant", ":", "\n"), bert_like=False, template=template)
    return folder


def mixtral(folder: Path, *, layers: int = 1, seed: int = 0) -> Path:
    """A decoder whose experts are fused while loading; it stores each by itself."""
    options = SMALL | DECODER | {"num_hidden_layers": layers, "intermediate_size": 16, "num_local_experts": 2}
    _save(MixtralForCausalLM(MixtralConfig(**options)), folder, seed=seed)
    tokenizer(folder, ("<unk>", "<s>", "</s>"), bert_like=False)
    return folder


def vit(folder: Path, *, seed: int = 0) -> Path:
    """An image classifier of 8 by 8 pixels."""
    config = ViTConfig(
        hidden_size=32,
        num_hidden_layers=1,
        num_attention_heads=2,
        intermediate_size=64,
        image_size=8,
        patch_size=4,
        num_labels=2,
    )
    _save(ViTForImageClassification(config), folder, seed=seed)
    ViTImageProcessor(size={"height": 8, "width": 8}).save_pretrained(folder)
    return folder


def tokenizer(folder: Path, special: tuple[str, ...], *, bert_like: bool, template: str | None = None) -> None:
    """Words by their place in a list; whatever is not in it is unknown."""
    vocabulary = {word: index for index, word in enumerate([*special, *WORDS])}
    unknown = "[UNK]" if bert_like else "<unk>"
    raw = Tokenizer(models.WordLevel(vocabulary, unk_token=unknown))
    raw.pre_tokenizer = pre_tokenizers.Whitespace()
    options: dict[str, Any] = {"unk_token": unknown}
    if bert_like:
        raw.normalizer = normalizers.Lowercase()
        marks = [("[CLS]", vocabulary["[CLS]"]), ("[SEP]", vocabulary["[SEP]"])]
        raw.post_processor = processors.TemplateProcessing(
            single="[CLS] $A [SEP]", pair="[CLS] $A [SEP] $B:1 [SEP]:1", special_tokens=marks
        )
        options |= {"pad_token": "[PAD]", "cls_token": "[CLS]", "sep_token": "[SEP]", "mask_token": "[MASK]"}
        options["model_input_names"] = ["input_ids", "token_type_ids", "attention_mask"]
    else:
        options |= {"bos_token": "<s>", "eos_token": "</s>"}
    fast = PreTrainedTokenizerFast(tokenizer_object=raw, **options)
    if template is not None:
        fast.chat_template = template
    fast.save_pretrained(folder)


def _save(model: PreTrainedModel, folder: Path, *, seed: int) -> None:
    torch.manual_seed(seed)
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.1)
    model.save_pretrained(folder)
