"""Folders as sentence-transformers writes them, tiny, and pairs to train them on."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file

from tests.worker.trainer import tiny

MODES = {"cls": "cls_token", "mean": "mean_tokens", "lasttoken": "lasttoken"}
PAIRS = [{"anchor": f"the {word} sat", "positive": f"a {word} ran on the mat"} for word in tiny.WORDS[2:10]]


def saved(folder: Path, *kinds: str, pooling: str = "cls") -> Path:
    """A folder as sentence-transformers writes it: a tiny BERT, a pooling, and more modules."""
    tiny.bert(folder)
    modules = ["Transformer", "Pooling", *kinds]
    listed = [
        {
            "idx": at,
            "name": str(at),
            "path": f"{at}_{kind}" if at else "",
            "type": f"sentence_transformers.models.{kind}",
        }
        for at, kind in enumerate(modules)
    ]
    (folder / "modules.json").write_text(json.dumps(listed))
    (folder / "sentence_bert_config.json").write_text('{"max_seq_length": 16, "do_lower_case": false}')
    for at, kind in enumerate(modules[1:], 1):
        (folder / f"{at}_{kind}").mkdir()
        if kind == "Pooling":
            flags = {f"pooling_mode_{flag}": mode == pooling for mode, flag in MODES.items()}
            content: dict[str, Any] = {"word_embedding_dimension": 32, **flags}
            (folder / "1_Pooling" / "config.json").write_text(json.dumps(content))
        elif kind == "Dense":
            content = {"in_features": 32, "out_features": 8, "bias": True}
            content["activation_function"] = "torch.nn.modules.activation.Tanh"
            (folder / f"{at}_Dense" / "config.json").write_text(json.dumps(content))
            torch.manual_seed(at)
            linear = {"linear.weight": torch.randn(8, 32), "linear.bias": torch.randn(8)}
            save_file(linear, folder / f"{at}_Dense" / "model.safetensors")
    return folder
