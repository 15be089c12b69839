#!/usr/bin/env bash
# torch 2.13.0: nn.utils.weight_norm on a frozen layer makes its weight trainable again.
#
# Most would expect: a layer frozen with requires_grad_(False) stays frozen when its weight is re-expressed as direction and
# norm (weight_norm changes no value), as it does with torch.nn.utils.parametrizations.weight_norm.
# Behaviour: the old function replaces `weight` by two new Parameters, weight_g and weight_v, and both require gradients.
# The bias stays frozen. One optimizer step then moves the "frozen" layer.
#
# Output seen (torch 2.13.0, CPU):
#   old weight_norm: {'bias': False, 'weight_g': True, 'weight_v': True}; moved by one step: True
#   parametrization: {'bias': False, 'original0': False, 'original1': False}
set -euo pipefail
folder=$(mktemp -d); trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/python" -m pip install -qq --disable-pip-version-check torch==2.13.0 numpy
"$folder/venv/bin/python" -W ignore - <<'PY'
import torch
from torch import nn
from torch.nn.utils.parametrizations import weight_norm as parametrized

def flags(module):
    return {name.rpartition(".")[2]: parameter.requires_grad for name, parameter in sorted(module.named_parameters())}

torch.manual_seed(0)
old = nn.utils.weight_norm(nn.Linear(3, 2).requires_grad_(False))
before = old(torch.ones(1, 3)).detach().clone()
optimizer = torch.optim.SGD([p for p in old.parameters() if p.requires_grad], lr=0.1)
old(torch.ones(4, 3)).sum().backward()
optimizer.step()
moved = not torch.equal(before, old(torch.ones(1, 3)))
print(f"old weight_norm: {flags(old)}; moved by one step: {moved}")
new = parametrized(nn.Linear(3, 2).requires_grad_(False))
print(f"parametrization: {flags(new)}")
assert flags(old) == {"bias": False, "weight_g": True, "weight_v": True} and moved
assert not any(flags(new).values())
PY
