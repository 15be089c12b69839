"""Measures what peft's adapters, torch's optimizers and some freeze options do to weights that are called frozen.

`python -m tests.leaks.libraries` prints the tables of docs/witness.md for the versions that are installed.
"""

from __future__ import annotations

import sys
import warnings
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor, nn

COAST = 1000  # steps with zero gradient after which an optimizer counts as not stopping

#: What a tuner needs beside its targets to run on a model with 32 features.
OPTIONS: dict[str, dict[str, Any]] = {
    "ADALORA": {"total_step": 10},
    "C3A": {"block_size": 8},
    "MISS": {"r": 8},
    "ROAD": {"group_size": 8},
    "SHIRA": {"r": 2},
    "TRAINABLE_TOKENS": {"target_modules": ["word_embeddings"], "token_indices": [1, 2]},
    "VBLORA": {"vector_length": 8},
    "WAVEFT": {"n_frequency": 64},
}
TARGETS = ({"target_modules": ["query", "value"]}, {"target_modules": ["LayerNorm"]}, {})  # type: ignore[var-annotated]


def unmerged() -> dict[str, float]:
    """By tuner type, the share of the elements touched by `merge_adapter` that `unmerge_adapter` does not restore.

    Tuners that cannot be merged, or not be made for a BERT, are left out.
    """
    from peft.mapping import PEFT_TYPE_TO_CONFIG_MAPPING

    shares = {}
    for kind, config in PEFT_TYPE_TO_CONFIG_MAPPING.items():
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            share = _unmerged_share(config, OPTIONS.get(kind.value, {}))
        if share is not None:
            shares[kind.value] = share
    return shares


def unload_gives_back() -> dict[str, bool]:
    """Whether the weights that `unload()` leaves are those of the base, for LoRA on one layer and a trained head."""
    import peft

    model = nn.ModuleDict({"bert": _bert(), "head": nn.Linear(32, 2)})
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    config = peft.LoraConfig(target_modules=["query"], modules_to_save=["head"])
    adapted: Any = peft.get_peft_model(model, config)
    _disturb(adapted)
    plain = adapted.unload().state_dict()
    names = {"adapted layer": "bert.encoder.layer.0.attention.self.query.weight", "modules_to_save": "head.weight"}
    return {what: torch.equal(plain[name], before[name]) for what, name in names.items()}


def optimizers() -> dict[str, tuple[bool, bool, int]]:
    """By optimizer of torch: whether a weight moves without a gradient, whether with one of zeros at the first step,
    and for how many steps with zero gradient after real ones it still moves (`COAST`: to the end of the trial)."""
    return {
        name: (_moves_without_gradient(make), _moves_at_zero(make), _coasts(make)) for name, make in _torch_optimizers()
    }


def lbfgs_moves_a_frozen_weight() -> bool:
    """Whether LBFGS moves a weight that was frozen (no gradient any more) between two of its steps."""
    trained, frozen = nn.Parameter(torch.ones(4)), nn.Parameter(torch.ones(4))
    optimizer = torch.optim.LBFGS([trained, frozen], lr=0.1, max_iter=4)

    def closure() -> Tensor:
        optimizer.zero_grad(set_to_none=True)
        loss = (trained * trained.detach().sin() + trained.square() * frozen.square()).sum()
        loss.backward()
        return loss

    for _ in range(2):
        optimizer.step(closure)
    frozen.requires_grad_(False)
    before = frozen.detach().clone()
    optimizer.step(closure)
    return not torch.equal(before, frozen)


def freeze_options() -> dict[str, list[str]]:
    """By option, the tensors of the model that it calls frozen and that an update or a forward pass moves."""
    return {
        'torch: {"params": w, "requires_grad": False} in an optimizer': _moved_by(_group_option),
        "torch: requires_grad_(False) on a module with BatchNorm": _moved_by(_requires_grad),
        "Lightning: BackboneFinetuning(train_bn=False), first freeze": _moved_by(_lightning),
    }


def _bert() -> nn.Module:
    from transformers import BertConfig, BertModel

    torch.manual_seed(0)
    sizes = {"vocab_size": 64, "hidden_size": 32, "intermediate_size": 64, "max_position_embeddings": 32}
    return BertModel(BertConfig(num_hidden_layers=2, num_attention_heads=4, **sizes))


def _unmerged_share(config: Any, options: dict[str, Any]) -> float | None:
    import peft

    for targets in TARGETS:
        try:
            model: Any = peft.get_peft_model(_bert(), config(**(targets | options)))
            break
        except Exception:  # noqa: BLE001 - a tuner refuses a model or an option in whatever way its author chose
            continue
    else:
        return None
    _disturb(model)
    before = {name: each.detach().clone() for name, each in model.named_parameters() if not each.requires_grad}
    try:
        model.merge_adapter()
        merged = {name: each.detach().clone() for name, each in model.named_parameters() if name in before}
        model.unmerge_adapter()
    except Exception:  # noqa: BLE001 - as above
        return None
    after = dict(model.named_parameters())
    touched = [name for name, each in merged.items() if not torch.equal(each, before[name])]
    if not touched:
        return None
    elements = sum(before[name].numel() for name in touched)
    return sum(int((after[name] != before[name]).sum()) for name in touched) / elements


def _disturb(model: nn.Module) -> None:
    """As if it had been trained: what takes gradients is other than at the start."""
    torch.manual_seed(1)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.requires_grad and parameter.is_floating_point():
                parameter.add_(torch.randn_like(parameter) * 0.05)


def _torch_optimizers() -> Iterator[tuple[str, Callable[[list[nn.Parameter]], Any]]]:
    for name in sorted(vars(torch.optim)):
        kind = getattr(torch.optim, name)
        if not isinstance(kind, type) or not issubclass(kind, torch.optim.Optimizer):
            continue
        if name in ("Optimizer", "LBFGS", "SparseAdam"):  # LBFGS needs a closure, SparseAdam sparse gradients
            continue
        options: dict[str, Any] = {"lr": 0.01} | ({"momentum": 0.9} if name == "SGD" else {})
        options |= {"weight_decay": 0.0} if name in ("AdamW", "Muon") else {}
        yield name, lambda parameters, kind=kind, options=options: kind(parameters, **options)  # type: ignore[misc]


def _stepped(make: Callable[[list[nn.Parameter]], Any], steps: int) -> tuple[nn.Parameter, Any]:
    torch.manual_seed(0)
    weight = nn.Parameter(torch.randn(4, 4))
    optimizer = make([weight])
    for _ in range(steps):
        weight.grad = torch.randn(4, 4)
        optimizer.step()
    return weight, optimizer


def _moves_without_gradient(make: Callable[[list[nn.Parameter]], Any]) -> bool:
    weight, optimizer = _stepped(make, 5)
    weight.grad, before = None, weight.detach().clone()
    optimizer.step()
    return not torch.equal(before, weight)


def _moves_at_zero(make: Callable[[list[nn.Parameter]], Any]) -> bool:
    weight, optimizer = _stepped(make, 0)
    weight.grad, before = torch.zeros(4, 4), weight.detach().clone()
    optimizer.step()
    return not torch.equal(before, weight)


def _coasts(make: Callable[[list[nn.Parameter]], Any]) -> int:
    weight, optimizer = _stepped(make, 5)
    last = 0
    for step in range(1, COAST + 1):
        weight.grad, before = torch.zeros(4, 4), weight.detach().clone()
        optimizer.step()
        if not torch.equal(before, weight):
            last = step
    return last


def _net() -> nn.Sequential:
    torch.manual_seed(0)
    backbone = nn.Sequential(nn.Linear(4, 4), nn.BatchNorm1d(4))
    return nn.Sequential(backbone, nn.Linear(4, 2))


def _moved_by(freeze: Callable[[nn.Sequential], Any]) -> list[str]:
    """Tensors of the backbone that one update of everything the optimizer has, and its forward pass, move."""
    model = _net()
    optimizer = freeze(model)
    before = {name: tensor.clone() for name, tensor in model[0].state_dict().items()}
    model.train()
    model(torch.randn(8, 4)).square().sum().backward()
    optimizer.step()
    return sorted(name for name, tensor in model[0].state_dict().items() if not torch.equal(tensor, before[name]))


def _group_option(model: nn.Sequential) -> Any:
    groups = [{"params": list(model[0].parameters()), "requires_grad": False}, {"params": list(model[1].parameters())}]
    return torch.optim.SGD(groups, lr=0.1)  # type: ignore[arg-type]


def _requires_grad(model: nn.Sequential) -> Any:
    model[0].requires_grad_(False)
    return torch.optim.SGD([each for each in model.parameters() if each.requires_grad], lr=0.1)


def _lightning(model: nn.Sequential) -> Any:
    from pytorch_lightning.callbacks import BackboneFinetuning

    callback = BackboneFinetuning(train_bn=False)
    module: Any = nn.Module()
    module.backbone = model[0]
    callback.freeze_before_training(module)
    return torch.optim.SGD([each for each in model.parameters() if each.requires_grad], lr=0.1)


def main() -> None:
    import peft

    print(f"peft {peft.__version__}: elements that unmerging leaves changed, of those that merging touched")
    for name, share in sorted(unmerged().items(), key=lambda item: item[1]):
        print(f"  {name}: {share:.1%}")
    for what, same in unload_gives_back().items():
        print(f"unload() gives back the base's weights, {what}: {same}")
    print(f"torch {torch.__version__}: moves without a gradient, with zeros at the first step, coasts for steps")
    for name, figures in optimizers().items():
        print(f"  {name}: {figures}")
    print(f"LBFGS moves a weight that was frozen between its steps: {lbfgs_moves_a_frozen_weight()}")
    for option, moved in freeze_options().items():
        print(f"{option}: moves {moved or 'nothing'}")


if __name__ == "__main__":
    sys.exit(main())  # type: ignore[func-returns-value]
