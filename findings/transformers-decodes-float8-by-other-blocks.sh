#!/usr/bin/env bash
# transformers 5.23.0: a float8 weight whose last block is cut off at the edge is decoded with the scales of other rows, without a word.
#
# Most would expect: weights are stored with a scale for each block of 128 by 128 (`weight_block_size`), the last block of a row or column being
# smaller where the size is no multiple. 192 rows have two scales: one for rows 0 to 127, one for rows 128 to 191. The layers that compute
# with codes on a GPU have that many scales, and their kernels take 128 rows for each.
# Behaviour: decoding (on a CPU, or with `dequantize=True`) takes the size of a block from the number of scales, 192 / 2 = 96, and multiplies
# rows 96 to 127 by the second scale. Where the division leaves a rest, it raises an error.
#
# Output seen (transformers 5.23.0, torch 2.13.0, CPU):
#   192 rows: the scale changes at row 96, and a block has 128
#   200 rows: the scale changes at row 100, and a block has 128
#   320 rows: RuntimeError
set -euo pipefail
folder=$(mktemp -d); trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/python" -m pip install -qq --disable-pip-version-check \
  torch==2.13.0 transformers==5.23.0 accelerate==1.15.0 numpy
cd "$folder"
TQDM_DISABLE=1 HF_HUB_OFFLINE=1 "$folder/venv/bin/python" -W ignore - 2>/dev/null <<'PY'
import json

import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM, FineGrainedFP8Config, LlamaConfig, LlamaForCausalLM

BLOCK = 128
CONFIG = {"quant_method": "fp8", "activation_scheme": "dynamic", "weight_block_size": [BLOCK, BLOCK]}


def decoded(rows):
    """A layer whose codes are all 1, decoded by transformers: what is left are the scales."""
    sizes = {"hidden_size": 128, "num_hidden_layers": 1, "num_attention_heads": 2, "vocab_size": 32}
    LlamaForCausalLM(LlamaConfig(intermediate_size=rows, **sizes)).to(torch.bfloat16).save_pretrained("base")
    tensors = load_file("base/model.safetensors")
    for name in [each for each in tensors if each.endswith("_proj.weight")]:
        height, width = (-(-size // BLOCK) for size in tensors[name].shape)
        tensors[name] = torch.ones_like(tensors[name]).to(torch.float8_e4m3fn)
        tensors[f"{name}_scale_inv"] = torch.arange(1.0, 1 + height * width).reshape(height, width)
    save_file(tensors, "base/model.safetensors", metadata={"format": "pt"})
    with open("base/config.json") as file:
        config = json.load(file)
    with open("base/config.json", "w") as file:
        json.dump(config | {"quantization_config": CONFIG}, file)
    model = AutoModelForCausalLM.from_pretrained("base", quantization_config=FineGrainedFP8Config(dequantize=True))
    return model.model.layers[0].mlp.up_proj.weight[:, 0]


seen = []
for rows in (192, 200):
    column = decoded(rows)
    (change,) = [at for at in range(1, rows) if column[at] != column[at - 1]]
    seen.append(change)
    print(f"{rows} rows: the scale changes at row {change}, and a block has {BLOCK}")
try:
    decoded(320)
    raise SystemExit("320 rows: decoded")
except RuntimeError as error:
    print(f"320 rows: {type(error).__name__}")
assert seen == [96, 100]
PY
