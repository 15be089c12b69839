#!/usr/bin/env bash
# peft 0.21.2: LoRA on Mamba's dt_proj is accepted, counted as trainable and saved, and is never part of a forward pass.
#
# Most would expect: target_modules="all-linear" adapts layers that the model calls, or refuses those that it does not; peft refuses
# out_proj and conv1d of Mamba models for that reason ("incompatible with Mamba-based models").
# Behaviour: transformers' Mamba reads dt_proj's weight and bias without calling the layer, in its fused kernel and in plain torch, so
# that the adapter around it has no effect and gets no gradient. peft does not know of it: the adapter's parameters require a gradient,
# print_trainable_parameters counts them, and the saved adapter holds a lora_B of zeros however long it trained.
#
# Output seen (peft 0.21.2, transformers 5.23.0, torch 2.13.0, CPU):
#   target_modules=['out_proj']: refused
#   target_modules=['in_proj', 'x_proj', 'dt_proj']: accepted
#   in_proj: gradient True, lora_B moved True
#   x_proj: gradient True, lora_B moved True
#   dt_proj: gradient False, lora_B moved False
set -euo pipefail
folder=$(mktemp -d); trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/python" -m pip install -qq --disable-pip-version-check torch==2.13.0 transformers==5.23.0 peft==0.21.2 numpy
cd "$folder"
"$folder/venv/bin/python" -W ignore - <<'PY'
import torch
import transformers
from peft import LoraConfig, get_peft_model
from transformers import MambaConfig, MambaForCausalLM

transformers.utils.logging.set_verbosity_error()

def adapted(*layers):
    torch.manual_seed(0)
    model = MambaForCausalLM(MambaConfig(vocab_size=32, hidden_size=16, state_size=4, num_hidden_layers=1, time_step_rank=4))
    try:
        found = get_peft_model(model, LoraConfig(r=2, target_modules=list(layers), task_type="CAUSAL_LM"))
    except ValueError:
        found = None
    print(f"target_modules={list(layers)}: {'refused' if found is None else 'accepted'}")
    return found

assert adapted("out_proj") is None
model = adapted("in_proj", "x_proj", "dt_proj")
optimizer = torch.optim.AdamW([each for each in model.parameters() if each.requires_grad], lr=0.01)
tokens = torch.arange(1, 9)[None]
for _ in range(3):
    optimizer.zero_grad()
    model(input_ids=tokens, labels=tokens).loss.backward()
    optimizer.step()
trained = {}
for name, each in model.named_parameters():
    if "lora_B" in name:
        layer = name.split(".lora_B")[0].rpartition(".")[2]
        trained[layer] = each.grad is not None, bool(each.any())
        print(f"{layer}: gradient {trained[layer][0]}, lora_B moved {trained[layer][1]}")
assert trained == {"in_proj": (True, True), "x_proj": (True, True), "dt_proj": (False, False)}
PY
