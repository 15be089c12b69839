#!/usr/bin/env bash
# bitsandbytes 0.50.2: one forward pass casts the bias of a quantised layer to another dtype, frozen or not.
#
# Most would expect: a bias with requires_grad=False keeps its dtype and its bytes; a layer casts copies of what it computes with.
# Behaviour: Linear4bit assigns `bias.data = bias.data.to(compute_dtype)`, and Linear8bitLt does with the input's dtype. A bfloat16 model
# that transformers quantised with its defaults (compute dtype float32) has float32 biases after one batch, and saves them so; a float32
# bias that meets bfloat16 input once is rounded for good. `Tensor._version` does not move.
#
# Output seen (bitsandbytes 0.50.2, torch 2.13.0, CPU):
#   Linear4bit: bias torch.bfloat16 -> torch.float32, version 0 -> 0
#   Linear8bitLt: bias torch.float32 -> torch.bfloat16, version 0 -> 0
set -euo pipefail
folder=$(mktemp -d); trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/python" -m pip install -qq --disable-pip-version-check torch==2.13.0 bitsandbytes==0.50.2 numpy
cd "$folder"
"$folder/venv/bin/python" -W ignore - <<'PY'
import logging

import torch

logging.disable(logging.WARNING)
import bitsandbytes as bnb

torch.manual_seed(0)
four = bnb.nn.Linear4bit(64, 64, compute_dtype=torch.float32, quant_type="nf4").to("cpu")
eight = bnb.nn.Linear8bitLt(64, 64, has_fp16_weights=False).to("cpu")
for layer, stored in ((four, torch.bfloat16), (eight, torch.float32)):
    layer.bias = torch.nn.Parameter(torch.randn(64, dtype=stored), requires_grad=False)
    version = layer.bias._version
    layer.train()(torch.randn(2, 64, dtype=torch.bfloat16))
    print(f"{type(layer).__name__}: bias {stored} -> {layer.bias.dtype}, version {version} -> {layer.bias._version}")
    assert layer.bias.dtype is not stored and layer.bias._version == version
PY
