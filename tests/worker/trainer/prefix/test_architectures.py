"""Real architectures of transformers: what is cut of each, with the lower layers frozen."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
import transformers
from torch import Tensor

from worker.trainer.prefix.cut import Cut, find
from worker.trainer.prefix.flow import follow, memory
from worker.trainer.prefix.serving import Prefix
from worker.trainer.prefix.shapes import BatchSizes

TEXT = {"vocab_size": 64, "hidden_size": 32, "num_attention_heads": 2, "intermediate_size": 64}
DEEP = TEXT | {"num_hidden_layers": 3, "max_position_embeddings": 40}
GPT2 = {"vocab_size": 64, "n_embd": 32, "n_layer": 3, "n_head": 2, "n_positions": 40}
IMAGE = {"hidden_size": 32, "num_attention_heads": 2, "intermediate_size": 64, "num_hidden_layers": 2}

Inputs = dict[str, Tensor]


def text(rows: int, width: int) -> Inputs:
    ids = torch.arange(rows * width).reshape(rows, width) % 60 + 3
    mask = torch.ones_like(ids)
    mask[0, width // 2 :] = 0
    return {"input_ids": ids, "attention_mask": mask}


def picture(rows: int, width: int) -> Inputs:
    return {"pixel_values": torch.linspace(-1, 1, rows * 3 * 64).reshape(rows, 3, 8, 8)}


CASES: dict[str, tuple[str, str, dict[str, Any], list[str], list[str], Callable[[int, int], Inputs]]] = {
    "bert": (
        "BertForSequenceClassification",
        "BertConfig",
        DEEP,
        ["bert.embeddings.", "bert.encoder.layer.0.", "bert.encoder.layer.1."],
        ["bert.encoder.layer.1"],
        text,
    ),
    "bert, head only": ("BertForSequenceClassification", "BertConfig", DEEP, ["bert."], ["bert"], text),
    "llama": (
        "LlamaForCausalLM",
        "LlamaConfig",
        DEEP | {"num_key_value_heads": 1},
        ["model.embed_tokens.", "model.layers.0.", "model.layers.1."],
        ["model.layers.1"],
        text,
    ),
    "gpt2": (
        "GPT2LMHeadModel",
        "GPT2Config",
        GPT2 | {"tie_word_embeddings": False},
        ["transformer.wte.", "transformer.wpe.", "transformer.h.0."],
        ["transformer.h.0"],
        text,
    ),
    "albert, one layer called three times": (
        "AlbertForSequenceClassification",
        "AlbertConfig",
        DEEP | {"embedding_size": 16},
        ["albert.embeddings.", "albert.encoder."],
        ["albert.encoder"],
        text,
    ),
    "vit": (
        "ViTForImageClassification",
        "ViTConfig",
        IMAGE | {"image_size": 8, "patch_size": 4},
        ["vit.embeddings.", "vit.layers.0.", "vit.encoder.layer.0."],
        ["0"],
        picture,
    ),
}


@pytest.mark.parametrize("name", CASES)
def test_lower_layers_are_served(name: str) -> None:
    """What the last frozen layer gives is all that is kept, and from it the model gives the same bits."""
    kind, config, sizes, frozen, kept, make = CASES[name]
    torch.manual_seed(0)
    model = getattr(transformers, kind)(getattr(transformers, config)(**sizes)).eval()
    found = cut(model, frozen, make)
    names = [call.path for call in found.served if any(leaf is not None and leaf.kept for leaf in call.leaves)]
    assert len(names) == 1
    assert names[0].endswith(kept[0])
    inputs = make(4, 6)
    live = model(**inputs).logits
    prefix = Prefix(model, found)
    values = prefix.capture(lambda: model(**inputs))
    with prefix.served(values, rows=4, width=6):
        assert torch.equal(model(**inputs).logits, live)


def cut(model: Any, frozen: list[str], make: Callable[[int, int], Inputs]) -> Cut:
    still = {memory(each) for name, each in model.named_parameters() if name.startswith(tuple(frozen))}
    still |= {memory(each) for each in model.buffers()}
    assert still
    batches = [make(2, 6), make(3, 5)]
    flows = [follow(model, lambda batch=batch: [model(**batch).logits]) for batch in batches]  # type: ignore[misc]
    return find((flows[0], flows[1]), BatchSizes((2, 3), (6, 5)), still=lambda each: memory(each) in still, model=model)
