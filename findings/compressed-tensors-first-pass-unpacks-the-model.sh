#!/usr/bin/env bash
# transformers 5.23.0, compressed-tensors 0.20.1: a model that was loaded packed is unpacked for good by its first forward pass.
#
# Most would expect: without `dequantize`, weights stay packed; a pass computes with them, and the model's parameters are the same afterwards.
# Behaviour: a hook on the model unpacks every layer in place before the first pass. `weight_packed` is gone from the parameters, and a float
# `weight` of eight times its bytes is there instead. References to the packed parameters that were taken before (an optimizer's, a
# watcher's) are those of no layer any more. Before that pass a layer has no `weight` at all, which peft asks for.
#
# Output seen (transformers 5.23.0, compressed-tensors 0.20.1, torch 2.13.0, CPU):
#   loaded: weight_packed, weight_scale, weight_shape
#   after a pass: weight, weight_scale, weight_shape
set -euo pipefail
folder=$(mktemp -d); trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/python" -m pip install -qq --disable-pip-version-check \
  torch==2.13.0 transformers==5.23.0 compressed-tensors==0.20.1 accelerate==1.15.0 numpy
cd "$folder"
TQDM_DISABLE=1 HF_HUB_OFFLINE=1 "$folder/venv/bin/python" -W ignore - <<'PY'
import torch
from compressed_tensors.compressors import ModelCompressor
from compressed_tensors.quantization import (
    QuantizationArgs, QuantizationConfig, QuantizationScheme, QuantizationStatus, apply_quantization_config,
)
from transformers import AutoModelForCausalLM, LlamaConfig, LlamaForCausalLM

sizes = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 1, "num_attention_heads": 2, "vocab_size": 32}
model = LlamaForCausalLM(LlamaConfig(**sizes))
four = QuantizationArgs(num_bits=4, type="int", symmetric=True, strategy="group", group_size=16)
groups = {"group_0": QuantizationScheme(targets=["Linear"], weights=four)}
config = QuantizationConfig(config_groups=groups, ignore=["lm_head"], quantization_status="initialized")
apply_quantization_config(model, config)
for module in model.modules():
    if getattr(module, "quantization_scheme", None):
        module.weight_scale.data.fill_(0.01)
        module.quantization_status = QuantizationStatus.FROZEN
compressor = ModelCompressor.from_pretrained_model(model)
compressor.compress_model(model)
model.save_pretrained("packed")
compressor.update_config("packed")

loaded = AutoModelForCausalLM.from_pretrained("packed")
layer = loaded.model.layers[0].mlp.up_proj
before = sorted(dict(layer.named_parameters()))
loaded(torch.arange(4)[None])
after = sorted(dict(loaded.model.layers[0].mlp.up_proj.named_parameters()))
print(f"loaded: {', '.join(before)}\nafter a pass: {', '.join(after)}")
assert "weight_packed" in before and "weight" not in before
assert "weight_packed" not in after and "weight" in after
PY
