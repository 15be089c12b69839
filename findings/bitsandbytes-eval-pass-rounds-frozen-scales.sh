#!/usr/bin/env bash
# bitsandbytes 0.50.2: evaluating a 4-bit model on a CPU with AVX512-BF16 changes its weights, and what is saved afterwards.
#
# Most would expect: a forward pass in eval mode without gradients writes to no weight, and state_dict() before and after it is the same.
# Behaviour: Linear4bit.forward repacks the codes in place for a faster kernel and rounds the float32 scales to bfloat16. state_dict()
# packs the codes back, and not the scales: the saved model has other scales, in another dtype and shape, and dequantises to other weights.
# A training loop that evaluates now and then saves another frozen base than the one that it loaded. In training mode nothing moves.
#
# Output seen (bitsandbytes 0.50.2, torch 2.13.0, a CPU with avx512_bf16):
#   before: absmax torch.float32 (64,)
#   after:  absmax torch.bfloat16 (1, 64); 64 of 64 values differ
#   codes equal in state_dict: True
set -euo pipefail
grep -q avx512_bf16 /proc/cpuinfo || { echo "this processor has no AVX512-BF16: nothing to see"; exit 0; }
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
layer = bnb.nn.Linear4bit(64, 64, bias=False, compute_dtype=torch.bfloat16, compress_statistics=False, quant_type="nf4").to("cpu")
before = {name: tensor.clone() for name, tensor in layer.state_dict().items()}
with torch.no_grad():
    layer.eval()(torch.randn(2, 64, dtype=torch.bfloat16))
after = layer.state_dict()
old, new = before["weight.absmax"], after["weight.absmax"]
differ = int((old != new.float().flatten()).sum())
print(f"before: absmax {old.dtype} {tuple(old.shape)}")
print(f"after:  absmax {new.dtype} {tuple(new.shape)}; {differ} of {old.numel()} values differ")
print(f"codes equal in state_dict: {torch.equal(before['weight'], after['weight'])}")
assert new.dtype is torch.bfloat16 and differ > 0
PY
