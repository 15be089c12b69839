"""Tiny bases in the layouts in which models with block scales are published, written from these layouts alone."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor
from transformers import Qwen3Config, Qwen3ForCausalLM

from tests.worker.trainer import tiny

LAYER = "model.layers.0.self_attn.q_proj"
BLOCK = (16, 16)
#: As Qwen's configurations have it, with smaller blocks.
FP8: dict[str, Any] = {
    "quant_method": "fp8",
    "fmt": "e4m3",
    "activation_scheme": "dynamic",
    "weight_block_size": list(BLOCK),
    "modules_to_not_convert": ["lm_head", "model.layers.0.input_layernorm"],
}
_LARGEST = 448.0  # of float8_e4m3fn


def qwen3(folder: Path, *, scales: torch.dtype = torch.bfloat16, **changes: Any) -> Path:
    """A decoder in bfloat16 whose linear layers, apart from its head, are float8 with a scale for each block."""
    sizes = tiny.SMALL | tiny.DECODER | {"intermediate_size": 64, "head_dim": 16, "tie_word_embeddings": False}
    torch.manual_seed(3)
    model = Qwen3ForCausalLM(Qwen3Config(**sizes | changes)).to(torch.bfloat16)
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.1)
    model.save_pretrained(folder)
    tiny.tokenizer(folder, ("<unk>", "<s>", "</s>"), bert_like=False)
    rewrite(folder, lambda tensors: _encode(tensors, scales))
    path = folder / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"quantization_config": FP8}))
    return folder


def rewrite(folder: Path, change: Any) -> None:
    """Changes the tensors of a base's file."""
    path = folder / "model.safetensors"
    tensors = load_file(path)
    change(tensors)
    save_file(tensors, path, metadata={"format": "pt"})


def reconfigure(folder: Path, **values: Any) -> None:
    """Changes keys of a base's quantization_config; None removes one."""
    path = folder / "config.json"
    content = json.loads(path.read_text())
    kept = {**content["quantization_config"], **values}
    content["quantization_config"] = {key: value for key, value in kept.items() if value is not None}
    path.write_text(json.dumps(content))


def plain_of(codes: Tensor, scales: Tensor, block: tuple[int, int] = BLOCK) -> Tensor:
    """The weight by the published description, value by value: codes times the scale of their block."""
    weight = torch.empty(codes.shape, dtype=torch.float32)
    for row in range(codes.shape[0]):
        for column in range(codes.shape[1]):
            scale = scales[row // block[0], column // block[1]].float()
            weight[row, column] = codes[row, column].float() * scale
    return weight.to(torch.bfloat16)


def _encode(tensors: dict[str, Tensor], dtype: torch.dtype) -> None:
    for name in [each for each in tensors if each.endswith("_proj.weight")]:
        tensors[name], scales = _blocks(tensors[name], dtype)
        tensors[f"{name}_scale_inv"] = scales


def _blocks(weight: Tensor, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    rows, columns = BLOCK
    blocks = weight.float().unflatten(0, (-1, rows)).unflatten(2, (-1, columns))
    scales = (blocks.abs().amax((1, 3)) / _LARGEST).to(dtype)
    wide = scales.float().repeat_interleave(rows, 0).repeat_interleave(columns, 1)
    return (weight.float() / wide).clamp(-_LARGEST, _LARGEST).to(torch.float8_e4m3fn), scales
