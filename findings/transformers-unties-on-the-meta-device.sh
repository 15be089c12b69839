#!/usr/bin/env bash
# transformers 5.23.0: on the meta device a model is untied whose file holds the tied weight under both names, and on a CPU it is tied.
#
# Most would expect: device_map="meta" gives the same modules as loading does, without the bytes, so that memory and what trains can be
# counted from it. Files with both names are common: Qwen3-0.6B's holds lm_head.weight beside the embeddings that config.json ties.
# Behaviour: transformers compares the two tensors as they are loaded and keeps them apart where they differ; on the meta device none has a
# value, so they never count as equal. The skeleton has a parameter more than the model (here of 1,024 elements), without a warning, and
# what is frozen by one name stays trainable under the other. tie_weights() afterwards ties them, also where the bytes differ.
#
# Output seen (transformers 5.23.0, torch 2.13.0, CPU):
#   one name in the file:             on a CPU tied=True 5,744 elements, on meta tied=True 5,744 elements, after tie_weights() tied=True
#   both names in the file:           on a CPU tied=True 5,744 elements, on meta tied=False 6,768 elements, after tie_weights() tied=True
#   both names, and another value:    on a CPU tied=False 6,768 elements, on meta tied=False 6,768 elements, after tie_weights() tied=True
set -euo pipefail
folder=$(mktemp -d); trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/python" -m pip install -qq --disable-pip-version-check torch==2.13.0 transformers==5.23.0 accelerate==1.15.0 numpy
cd "$folder"
"$folder/venv/bin/python" -W ignore - <<'PY'
import transformers
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM, Qwen3Config, Qwen3ForCausalLM

transformers.utils.logging.set_verbosity_error()
transformers.utils.logging.disable_progress_bar()
SIZES = {"vocab_size": 64, "hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2}
FILE = "model/model.safetensors"

def seen(model):
    return model.lm_head.weight is model.model.embed_tokens.weight, sum(each.numel() for each in model.parameters())

def tried(what):
    here, meta = AutoModelForCausalLM.from_pretrained("model"), AutoModelForCausalLM.from_pretrained("model", device_map="meta")
    found = [*seen(here), *seen(meta)]
    meta.tie_weights()
    later = seen(meta)[0]
    print(f"{what:34}on a CPU tied={found[0]} {found[1]:,} elements, on meta tied={found[2]} {found[3]:,} elements, after tie_weights() tied={later}")
    return found[0], found[2], later

Qwen3ForCausalLM(Qwen3Config(**SIZES, num_key_value_heads=1, head_dim=8, tie_word_embeddings=True)).save_pretrained("model")
assert tried("one name in the file:") == (True, True, True)
weights = load_file(FILE)
weights["lm_head.weight"] = weights["model.embed_tokens.weight"].clone()
save_file(weights, FILE, metadata={"format": "pt"})
assert tried("both names in the file:") == (True, False, True)
weights["lm_head.weight"][0, 0] += 1
save_file(weights, FILE, metadata={"format": "pt"})
assert tried("both names, and another value:") == (False, False, True)
PY
