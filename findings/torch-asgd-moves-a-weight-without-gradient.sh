#!/usr/bin/env bash
# torch 2.13.0: ASGD shrinks a weight whose gradient is zero, with weight_decay=0.
#
# Most would expect: with weight_decay=0 (the default) a zero gradient leaves a weight as it is, as with SGD and Adam. So a layer
# that gets no gradient in a step (an unused expert, a masked row) keeps its bits.
# Behaviour: ASGD multiplies every weight that has a gradient tensor by 1 - lambd * eta in each step, and lambd is 1e-4 by
# default. The decay is not called weight decay, and weight_decay=0 does not turn it off.
#
# Output seen (torch 2.13.0, CPU; a weight of 2, ten steps with a gradient of zero, lr 0.1):
#   SGD: 2.0
#   Adam: 2.0
#   ASGD: 1.9997997283935547
#   ASGD with lambd=0: 2.0
set -euo pipefail
folder=$(mktemp -d); trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/python" -m pip install -qq --disable-pip-version-check torch==2.13.0 numpy
cd "$folder"
"$folder/venv/bin/python" -W ignore - <<'PY'
import torch

def after(name, optimizer, **options):
    weight = torch.nn.Parameter(torch.tensor([2.0]))
    steps = optimizer([weight], lr=0.1, weight_decay=0, **options)
    for _ in range(10):
        weight.grad = torch.zeros(1)
        steps.step()
    print(f"{name}: {weight.item()}")
    return weight.item()

assert after("SGD", torch.optim.SGD) == 2.0
assert after("Adam", torch.optim.Adam) == 2.0
assert after("ASGD", torch.optim.ASGD) < 2.0
assert after("ASGD with lambd=0", torch.optim.ASGD, lambd=0) == 2.0
PY
