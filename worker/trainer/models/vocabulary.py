"""Adds new tokens to a tokenizer, and rows for them to the model's embeddings.

The existing rows keep the base's bytes and can be frozen by a rule; the new rows are initialised from the seed.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import nn

from app.errors import ModelError, PolicyError
from app.freeze.plan import FreezePlan


def extend(model: nn.Module, tokenizer: Any, words: Sequence[str], *, seed: int) -> tuple[dict[str, int], str]:
    """Adds `words`. Returns the live names of tensors that got rows, with their former counts; and a note."""
    vocabulary = tokenizer.get_vocab()
    for at, word in enumerate(words):
        if word in vocabulary or word in words[:at]:
            message = f"the tokenizer already has {word!r}, or it is listed twice"
            raise ModelError(message, param=f"model.new_tokens[{at}]")
    tokenizer.add_tokens(list(words))
    if len(tokenizer) != len(vocabulary) + len(words):
        raise ModelError("the tokenizer does not take these new tokens", param="model.new_tokens")
    before = _rows(model)
    embeddings: Any = model
    if len(tokenizer) > embeddings.get_input_embeddings().weight.shape[0]:
        torch.manual_seed(seed)
        embeddings.resize_token_embeddings(len(tokenizer), mean_resizing=False)
    grown = {name: before[name] for name, rows in _rows(model).items() if rows > before.get(name, rows)}
    first, last = tokenizer.convert_tokens_to_ids([words[0], words[-1]])
    rows = ", ".join(f"{name} has {_rows(model)[name]} rows (the base: {was})" for name, was in grown.items())
    return grown, f"new tokens have the ids {first} to {last}; {rows or 'the base has rows for them already'}"


def refuse_frozen_rows(plan: FreezePlan, grown: Mapping[str, int]) -> None:
    """Raises PolicyError where the policy freezes new rows: they would stay random, and are not in the base."""
    if not plan.policy.enforce:
        return
    for name, was in grown.items():
        decision = plan.decision(name)
        rows = decision.shape[0]
        frozen = decision.frozen_rows if decision.action == "split" else ((0, rows),)
        if decision.action == "train" or all(stop <= was for _, stop in frozen):
            continue
        rule = {"id": "new-tokens", "action": "train", "select": {"name": name, "rows": [[was, rows]]}}
        message = (
            f"the policy freezes '{name}', and new_tokens give it rows {was} to {rows}, which the base does not have: "
            f"train those by a rule above, {rule}"
        )
        raise PolicyError(message.replace("'", '"'), param="freeze_policy")


def _rows(model: nn.Module) -> dict[str, int]:
    return {name: int(tensor.shape[0]) for name, tensor in model.state_dict().items() if tensor.dim()}
