#!/usr/bin/env bash
# monai 1.5.1: a second call of freeze_layers thaws what the first one froze.
#
# Most would expect: freeze_layers(model, freeze_vars="encoder") followed by freeze_layers(model, freeze_vars="neck") freezes both.
# Behaviour: each call sets requires_grad of every parameter, True for all that its own pattern does not name.
#
# Output seen (monai 1.5.1, torch 2.13.0, CPU):
#   after the first call: encoder frozen True
#   after the second call: encoder frozen False, neck frozen True
set -euo pipefail
folder=$(mktemp -d); trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/python" -m pip install -qq --disable-pip-version-check torch==2.13.0 numpy
"$folder/venv/bin/python" -m pip install -qq --disable-pip-version-check --no-deps monai==1.5.1
"$folder/venv/bin/python" -W ignore - 2>/dev/null <<'PY'
from torch import nn
from monai.networks.utils import freeze_layers

model = nn.ModuleDict({"encoder": nn.Linear(2, 2), "neck": nn.Linear(2, 2), "head": nn.Linear(2, 2)})
frozen = lambda name: not any(p.requires_grad for p in model[name].parameters())
freeze_layers(model, freeze_vars="encoder")
print("after the first call: encoder frozen", frozen("encoder"))
assert frozen("encoder")
freeze_layers(model, freeze_vars="neck")
print(f"after the second call: encoder frozen {frozen('encoder')}, neck frozen {frozen('neck')}")
assert not frozen("encoder") and frozen("neck")
PY
