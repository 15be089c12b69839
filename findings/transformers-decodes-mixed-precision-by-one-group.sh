#!/usr/bin/env bash
# transformers 5.23.0 with compressed-tensors 0.20.1: a model whose modules are stored in two forms is not decoded while it is loaded (`dequantize=True`).
#
# Most would expect: `"format": "mixed-precision"` has a group of modules for each form, as NVFP4 is published with attention in FP8 (Unsloth's, RedHatAI's).
# Each module is decoded by the form of its group, as compressed-tensors itself does it.
# Behaviour: all modules that are no experts are decoded by one group, the first that does not name experts. A weight of the other group then lacks what
# that form stores: a KeyError in the log, and a RuntimeError that names no cause. Each of the two forms alone is decoded.
#
# Output seen (transformers 5.23.0, compressed-tensors 0.20.1, torch 2.13.0, CPU):
#   FP8 alone: decoded
#   NVFP4 alone: decoded
#   FP8 and NVFP4: RuntimeError
#   FP8 and NVFP4, by compressed-tensors: decoded
set -euo pipefail
folder=$(mktemp -d); trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/python" -m pip install -qq --disable-pip-version-check \
  torch==2.13.0 transformers==5.23.0 accelerate==1.15.0 compressed-tensors==0.20.1 numpy
cd "$folder"
TQDM_DISABLE=1 HF_HUB_OFFLINE=1 "$folder/venv/bin/python" -W ignore - 2>/dev/null <<'PY'
import json

import torch
from compressed_tensors.compressors import BaseCompressor
from compressed_tensors.quantization import QuantizationConfig
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM, CompressedTensorsConfig, LlamaConfig, LlamaForCausalLM

FORMATS = {"FP8": "float-quantized", "NVFP4": "nvfp4-pack-quantized"}
KINDS = {
    "FP8": {"num_bits": 8, "strategy": "channel"},
    "NVFP4": {"num_bits": 4, "strategy": "tensor_group", "group_size": 16},
}


def encoded(weight, form):
    if form == "FP8":
        return {"weight": weight.to(torch.float8_e4m3fn), "weight_scale": torch.full((len(weight), 1), 0.5).bfloat16()}
    rows, columns = weight.shape
    scales = torch.full((rows, columns // 16), 2.0).to(torch.float8_e4m3fn)
    codes = torch.full((rows, columns // 2), 0x21, dtype=torch.uint8)
    return {"weight_packed": codes, "weight_scale": scales, "weight_global_scale": torch.tensor([4.0])}


def base(by_part):
    """A decoder whose attention and dense layers are stored in these forms."""
    sizes = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 1, "num_attention_heads": 2}
    LlamaForCausalLM(LlamaConfig(vocab_size=32, **sizes)).to(torch.bfloat16).save_pretrained("base")
    tensors = load_file("base/model.safetensors")
    for name in [each for each in tensors if each.endswith("_proj.weight")]:
        form = next(form for part, form in by_part.items() if part in name)
        stored = encoded(tensors.pop(name), form)
        tensors |= {f"{name.removesuffix('weight')}{leaf}": each for leaf, each in stored.items()}
    save_file(tensors, "base/model.safetensors", metadata={"format": "pt"})
    groups = {
        f"group_{at}": {
            "targets": [f"re:.*{part}.*"],
            "format": FORMATS[form],
            "weights": {"type": "float", "symmetric": True, "dynamic": False} | KINDS[form],
        }
        for at, (part, form) in enumerate(by_part.items())
    }
    written = {"quant_method": "compressed-tensors", "quantization_status": "compressed", "ignore": ["lm_head"]}
    several = len(set(by_part.values())) > 1
    written |= {"config_groups": groups, "format": "mixed-precision" if several else FORMATS[by_part["mlp"]]}
    with open("base/config.json") as file:
        config = json.load(file)
    with open("base/config.json", "w") as file:
        json.dump(config | {"quantization_config": written}, file)
    return written


def loads():
    try:
        AutoModelForCausalLM.from_pretrained("base", quantization_config=CompressedTensorsConfig(dequantize=True))
    except RuntimeError as error:
        return type(error).__name__
    return "decoded"


seen = {}
for form in FORMATS:
    base({"self_attn": form, "mlp": form})
    seen[f"{form} alone"] = loads()
written = base({"self_attn": "FP8", "mlp": "NVFP4"})
seen["FP8 and NVFP4"] = loads()

groups = QuantizationConfig.model_validate(written).config_groups
tensors = load_file("base/model.safetensors")
for group, part in (("group_0", "self_attn.q_proj"), ("group_1", "mlp.up_proj")):
    inside = {name.rpartition(".")[2]: each for name, each in tensors.items() if f"{part}." in name}
    BaseCompressor.get_value_from_registry(groups[group].format).decompress(inside, groups[group])["weight"]
seen["FP8 and NVFP4, by compressed-tensors"] = "decoded"
for name, outcome in seen.items():
    print(f"{name}: {outcome}")
assert [*seen.values()] == ["decoded", "decoded", "RuntimeError", "decoded"]
PY
