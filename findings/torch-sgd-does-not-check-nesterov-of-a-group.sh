#!/usr/bin/env bash
# torch 2.13.0: nesterov=True without momentum is an error for SGD as a whole, and ignored in a parameter group.
#
# Most would expect: options of a group are checked as the optimizer's own are. SGD(params, nesterov=True) raises ValueError
# (Nesterov momentum needs momentum), so SGD([{"params": params, "nesterov": True}]) does.
# Behaviour: only the arguments of the constructor are checked. The group keeps nesterov=True, is shown with it, and trains like
# plain SGD to the last bit.
#
# Output seen (torch 2.13.0, CPU):
#   for all: ValueError: Nesterov momentum requires a momentum and zero dampening
#   in a group: no error; nesterov=True there, and the weights equal those of plain SGD: True
set -euo pipefail
folder=$(mktemp -d); trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/python" -m pip install -qq --disable-pip-version-check torch==2.13.0 numpy
cd "$folder"
"$folder/venv/bin/python" -W ignore - <<'PY'
import torch

def trained(**options):
    weight = torch.nn.Parameter(torch.tensor([1.0, -2.0]))
    optimizer = torch.optim.SGD([{"params": [weight], **options}], lr=0.1)
    for _ in range(5):
        optimizer.zero_grad()
        (weight**2).sum().backward()
        optimizer.step()
    return weight.detach(), optimizer.param_groups[0]["nesterov"]

try:
    torch.optim.SGD([torch.nn.Parameter(torch.ones(1))], lr=0.1, nesterov=True)
    raise SystemExit("no error for all")
except ValueError as error:
    print(f"for all: ValueError: {error}")
(weights, shown), (plain, _) = trained(nesterov=True), trained()
equal = torch.equal(weights, plain)
print(f"in a group: no error; nesterov={shown} there, and the weights equal those of plain SGD: {equal}")
assert shown and equal
PY
