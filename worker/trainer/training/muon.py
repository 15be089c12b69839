"""Muon for hidden matrices and AdamW for everything else, both from torch, as one optimizer with one state.

Muon (Jordan 2024) makes each update of a matrix nearly orthogonal. It is not meant for embeddings, output layers and
vectors.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from typing import Any

import torch
from torch import nn
from torch.optim import AdamW, Optimizer

from app.errors import InvalidRequest

PARAM = "hyperparameters.optimizer"
#: Options of matrix groups, and of the others: each kind ignores those of the other.
MATRICES = frozenset({"momentum", "nesterov", "ns_steps", "adjust_lr_fn"})
OTHERS = frozenset({"betas", "eps"})

ParamGroup = dict[str, Any]


class Muon(Optimizer):
    """Groups with `muon` true hold matrices. Steps are scaled so that one rate serves both kinds (Liu 2025)."""

    def __init__(
        self,
        params: Iterable[Any],
        lr: float = 1e-3,
        weight_decay: float = 0.0,
        *,
        muon: bool = True,
        momentum: float = 0.95,
        nesterov: bool = True,
        ns_steps: int = 5,
        adjust_lr_fn: str = "match_rms_adamw",
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
        fused: bool = False,
    ) -> None:
        given = list(params)
        groups: list[ParamGroup] = given if isinstance(given[0], dict) else [{"params": given}]
        for group in groups:
            group.setdefault("muon", muon)
        common: dict[str, Any] = {"lr": lr, "weight_decay": weight_decay}
        orthogonal: dict[str, Any] = {
            "momentum": momentum,
            "nesterov": nesterov,
            "ns_steps": ns_steps,
            "adjust_lr_fn": adjust_lr_fn,
        }
        self._parts: dict[bool, Optimizer] = {}
        if matrices := [group for group in groups if group["muon"]]:
            self._parts[True] = torch.optim.Muon(matrices, **common, **orthogonal)
        if others := [group for group in groups if not group["muon"]]:
            self._parts[False] = AdamW(others, **common, betas=betas, eps=eps, fused=fused)
        # The parts have filled in their groups. Here, and in them, the groups are the same dicts.
        super().__init__(groups, {key: None for group in groups for key in group if key != "params"} | common)
        self._share()

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> float | None:  # type: ignore[override]
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for part in self._parts.values():
            part.step()
        return loss

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        super().load_state_dict(state_dict)  # puts new groups and a new state in place of the old ones
        self._share()

    def _share(self) -> None:
        for muon, part in self._parts.items():
            part.param_groups = [group for group in self.param_groups if group["muon"] is muon]
            part.state = self.state


def outer(model: nn.Module) -> frozenset[str]:
    """Parameters that Muon leaves to AdamW whatever their shape: embeddings, and what is behind the hidden layers.

    In a transformers model that is all outside of its base model; in a plain one, the last module with a matrix.
    """
    embeddings = {
        f"{path}.{leaf}".removeprefix(".")
        for path, module in model.named_modules(remove_duplicate=False)
        if isinstance(module, nn.Embedding | nn.EmbeddingBag)
        for leaf, _ in module.named_parameters(recurse=False)
    }
    return frozenset(embeddings | _behind(model))


def _behind(model: nn.Module) -> set[str]:
    named = dict(model.named_parameters(remove_duplicate=False))
    unwrap: Any = getattr(model, "get_base_model", None)  # of a model with adapters
    body = getattr(unwrap() if unwrap else model, "base_model", None)
    if body is not None:
        inside = {id(parameter) for parameter in body.parameters()}
        return {name for name, parameter in named.items() if id(parameter) not in inside}
    return set([name for name, parameter in named.items() if parameter.ndim == 2][-1:])


def divided(
    groups: Sequence[Mapping[str, Any]], *, names: Mapping[int, str], outside: Collection[str]
) -> list[ParamGroup]:
    """Each group as its hidden matrices and the others, either with the options that it knows.

    `names` are the parameters' by id. InvalidRequest where no hidden matrix trains, or an option would be ignored.
    """
    split_groups: list[ParamGroup] = []
    for number, group in enumerate(groups):
        options = {key: value for key, value in group.items() if key != "params"}
        parts: dict[bool, list[nn.Parameter]] = {True: [], False: []}
        for parameter in group["params"]:
            parts[parameter.ndim == 2 and names[id(parameter)].split("[")[0] not in outside].append(parameter)
        for muon, foreign in ((True, OTHERS), (False, MATRICES)):
            ignored = sorted(foreign & set(options)) if not parts[not muon] else []
            if ignored:
                what = "hidden matrices, which Muon trains" if muon else "no hidden matrix, and AdamW trains the rest"
                message = f"this group has {what}: {ignored[0]!r} would be ignored"
                raise InvalidRequest(message, param=f"{PARAM}.groups[{number}].options.{ignored[0]}")
            if parts[muon]:
                kept = {key: value for key, value in options.items() if key not in foreign}
                split_groups.append({"params": parts[muon], "muon": muon, **kept})
    if not any(group["muon"] for group in split_groups):
        message = "muon is for matrices between embeddings and output layer, and none of these trains here; use 'adamw'"
        raise InvalidRequest(message, param=f"{PARAM}.name")
    return split_groups
