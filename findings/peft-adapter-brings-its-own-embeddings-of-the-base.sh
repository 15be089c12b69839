#!/usr/bin/env bash
# peft 0.21.2: an adapter saved with save_embedding_layers=True replaces frozen weights of the base that it is loaded on.
#
# Most would expect: loading a LoRA adapter leaves the base's weights alone, so that `disable_adapter()` gives the base, and
# of a module in `modules_to_save` the trained copy is loaded and the base's own (`original_module`) stays.
# Behaviour: the file holds the base's embeddings as well, in plain (the output layer's), and under `original_module` where
# they are in modules_to_save, and from_pretrained writes them over those of the base that it is given, without a warning.
# With the base that the adapter was trained on nothing shows. On a later version of it, disable_adapter() is neither.
#
# Output seen (peft 0.21.2, transformers 5.23.0, torch 2.13.0, CPU):
#   default: ['embed_tokens.weight']
#     input embeddings of the base kept: True, output layer kept: True, disable_adapter() is the base: True
#   save_embedding_layers=True: ['lm_head.weight', 'embed_tokens.modules_to_save.weight', 'embed_tokens.original_module.weight', 'embed_tokens.weight']
#     input embeddings of the base kept: False, output layer kept: False, disable_adapter() is the base: False
set -euo pipefail
folder=$(mktemp -d); trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/python" -m pip install -qq --disable-pip-version-check torch==2.13.0 transformers==5.23.0 peft==0.21.2 numpy
cd "$folder"
"$folder/venv/bin/python" -W ignore - <<'PY'
import torch
from peft import LoraConfig, PeftModel, get_peft_model
from safetensors import safe_open
from transformers import LlamaConfig, LlamaForCausalLM

def base(version):
    torch.manual_seed(version)
    sizes = {"vocab_size": 32, "hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2}
    return LlamaForCausalLM(LlamaConfig(**sizes, tie_word_embeddings=False)).eval()

def tried(name, **options):
    config = LoraConfig(r=2, target_modules=["q_proj"], modules_to_save=["embed_tokens"], task_type="CAUSAL_LM")
    get_peft_model(base(1), config).save_pretrained(name, **options)
    with safe_open(f"{name}/adapter_model.safetensors", "pt") as file:
        names = sorted(key for key in file.keys() if "lora_" not in key)
    later, tokens = base(2), torch.tensor([[1, 2, 3]])
    embeddings, output = later.model.embed_tokens.weight.clone(), later.lm_head.weight.clone()
    logits = later(tokens).logits
    loaded = PeftModel.from_pretrained(later, name).eval()
    inside = loaded.base_model.model
    kept = torch.equal(inside.model.embed_tokens.original_module.weight, embeddings), torch.equal(inside.lm_head.weight, output)
    with torch.no_grad(), loaded.disable_adapter():
        same = torch.equal(loaded(tokens).logits, logits)
    shown = [key.removeprefix("base_model.model.").removeprefix("model.") for key in names]
    print(f"{name}: {shown}\n  input embeddings of the base kept: {kept[0]}, output layer kept: {kept[1]}, disable_adapter() is the base: {same}")
    return *kept, same

with torch.no_grad():
    assert tried("default") == (True, True, True)
    assert tried("save_embedding_layers=True", save_embedding_layers=True) == (False, False, False)
PY
