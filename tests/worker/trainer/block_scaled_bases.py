"""Tiny bases in the layouts in which models with block scales are published, written from these layouts alone."""

from __future__ import annotations

import json
import re
from itertools import product
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor
from transformers import (
    GptOssConfig,
    GptOssForCausalLM,
    Qwen3Config,
    Qwen3ForCausalLM,
    Qwen3MoeConfig,
    Qwen3MoeForCausalLM,
)

from tests.worker.trainer import tiny
from tests.worker.trainer.quantised_bases import rewrite

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
    _save(Qwen3ForCausalLM, Qwen3Config(**sizes | changes), folder)
    rewrite(folder, lambda tensors: encode(tensors, scales))
    configure(folder, FP8)
    return folder


def qwen3_moe(folder: Path, **changes: Any) -> Path:
    """The same with experts, which transformers joins while it loads them."""
    sizes = tiny.SMALL | tiny.DECODER | {"intermediate_size": 64, "head_dim": 16, "tie_word_embeddings": False}
    sizes |= {"num_experts": 2, "num_experts_per_tok": 1, "moe_intermediate_size": 32}
    _save(Qwen3MoeForCausalLM, Qwen3MoeConfig(**sizes | changes), folder)
    rewrite(folder, lambda tensors: encode(tensors, torch.bfloat16))
    configure(folder, FP8)
    return folder


def configure(folder: Path, quantisation: dict[str, Any]) -> None:
    path = folder / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"quantization_config": quantisation}))


def listed(names: list[str] | None, folder: Path) -> None:
    """What config.json says stays plain; null is not the same as nothing said."""
    configure(folder, FP8 | {"modules_to_not_convert": names})


def coded(name: str, folder: Path) -> None:
    """One more weight in codes; a tied head may be stored beside its embedding."""
    embedding = "model.embed_tokens.weight"
    rewrite(folder, lambda tensors: tensors.setdefault(name, tensors[embedding].clone()))
    rewrite(folder, lambda tensors: encode(tensors, torch.bfloat16, [name]))
    listed([], folder)


def scales_elsewhere(folder: Path) -> None:
    """Each scale is in another file than its codes."""
    whole = load_file(folder / "model.safetensors")
    (folder / "model.safetensors").unlink()
    where = {name: f"model-0000{1 + name.endswith('_inv')}-of-00002.safetensors" for name in whole}
    for file in set(where.values()):
        tensors = {name: tensor for name, tensor in whole.items() if where[name] == file}
        save_file(tensors, folder / file, metadata={"format": "pt"})
    (folder / "model.safetensors.index.json").write_text(json.dumps({"metadata": {}, "weight_map": where}))


def plain_of(codes: Tensor, scales: Tensor, block: tuple[int, int] = BLOCK) -> Tensor:
    """The weight by the published description, value by value: codes times the scale of their block."""
    weight = torch.empty(codes.shape, dtype=torch.float32)
    for row in range(codes.shape[0]):
        for column in range(codes.shape[1]):
            scale = scales[row // block[0], column // block[1]].float()
            weight[row, column] = codes[row, column].float() * scale
    return weight.to(torch.bfloat16)


def encode_language_model(tensors: dict[str, Tensor]) -> None:
    """Makes codes of the linear layers of a vision-language model's language model."""
    layers = [name for name in tensors if name.endswith("_proj.weight") and "vis" not in name]
    encode(tensors, torch.float32, [name for name in layers if tensors[name].shape[0] % BLOCK[0] == 0])


def _save(kind: Any, config: Any, folder: Path) -> None:
    torch.manual_seed(3)
    model = kind(config).to(torch.bfloat16)
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.1)
    model.save_pretrained(folder)
    tiny.tokenizer(folder, ("<unk>", "<s>", "</s>"), bert_like=False)


def encode(tensors: dict[str, Tensor], dtype: torch.dtype, names: list[str] | None = None) -> None:
    """Makes codes of these weights, or of all linear layers apart from a head."""
    for name in names or [each for each in tensors if each.endswith("_proj.weight")]:
        tensors[name], scales = _blocks(tensors[name], dtype)
        tensors[f"{name}_scale_inv"] = scales


def _blocks(weight: Tensor, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    rows, columns = BLOCK
    blocks = weight.float().unflatten(0, (-1, rows)).unflatten(2, (-1, columns))
    scales = (blocks.abs().amax((1, 3)) / _LARGEST).to(dtype)
    wide = scales.float().repeat_interleave(rows, 0).repeat_interleave(columns, 1)
    return (weight.float() / wide).clamp(-_LARGEST, _LARGEST).to(torch.float8_e4m3fn), scales


#: As gpt-oss' configuration has it.
MXFP4: dict[str, Any] = {
    "quant_method": "mxfp4",
    "modules_to_not_convert": [
        "model.layers.*.self_attn",
        "model.layers.*.mlp.router",
        "model.embed_tokens",
        "lm_head",
    ],
}
_VALUES = (0.0, 0.5, 1.0, 1.5, 2.0, 3.0, 4.0, 6.0)


def gpt_oss(folder: Path, **changes: Any) -> Path:
    """A decoder in bfloat16 whose experts are codes of 4 bits, 32 of which share a power of two."""
    sizes = tiny.SMALL | tiny.DECODER | {"intermediate_size": 32, "head_dim": 16, "tie_word_embeddings": False}
    sizes |= {"hidden_size": 64, "num_local_experts": 2, "num_experts_per_tok": 1, "sliding_window": 16}
    _save(GptOssForCausalLM, GptOssConfig(**sizes | changes), folder)
    rewrite(folder, _encode_experts)
    configure(folder, MXFP4)
    return folder


def plain_experts_of(blocks: Tensor, scales: Tensor) -> Tensor:
    """The weight by the published description, value by value: a byte has two codes, the first one in its low half."""
    experts, outputs, groups, width = blocks.shape
    weight = torch.empty(experts, 2 * groups * width, outputs)
    for expert, output, group, at in product(*map(range, blocks.shape)):
        byte, power = int(blocks[expert, output, group, at]), 2.0 ** (int(scales[expert, output, group]) - 127)
        for half, code in enumerate((byte & 0xF, byte >> 4)):
            value = _VALUES[code & 7] * (-1 if code & 8 else 1) * power
            weight[expert, 2 * (group * width + at) + half, output] = value
    return weight.to(torch.bfloat16)


def _encode_experts(tensors: dict[str, Tensor]) -> None:
    """Draws codes and exponents: any of them is a weight."""
    for name in [each for each in tensors if each.endswith(("experts.gate_up_proj", "experts.down_proj"))]:
        experts, inputs, outputs = tensors.pop(name).shape
        tensors[f"{name}_blocks"] = torch.randint(0, 256, (experts, outputs, inputs // 32, 16)).to(torch.uint8)
        tensors[f"{name}_scales"] = torch.randint(120, 125, (experts, outputs, inputs // 32)).to(torch.uint8)


def decoded(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """The weights of codes among a file's tensors, by their plain names."""
    plain = {}
    for name, tensor in tensors.items():
        if f"{name}_scale_inv" in tensors:
            plain[name] = plain_of(tensor, tensors[f"{name}_scale_inv"])
        elif name.endswith("_blocks"):
            weight = name.removesuffix("_blocks")
            plain[weight] = plain_experts_of(tensor, tensors[f"{weight}_scales"])
    return plain


def part_of(loaded: dict[str, Tensor], name: str) -> Tensor:
    """The tensor of a loaded model that a stored weight is, or the rows of one that experts are joined to."""
    found = re.fullmatch(r"(.+\.experts)\.(\d+)\.(\w+)_proj\.weight", name)
    if found is None:
        return loaded[name]
    experts, number, part = found[1], int(found[2]), found[3]
    if part == "down":
        return loaded[f"{experts}.down_proj"][number]
    gate, up = loaded[f"{experts}.gate_up_proj"][number].chunk(2)
    return {"gate": gate, "up": up}[part]
