"""The tables of a model's input and output embeddings, where it has them."""

from __future__ import annotations

from typing import Any

from torch import nn


def input_names(model: nn.Module) -> list[str]:
    """Names of the weights of the model's input embeddings, ties under each of theirs."""
    table = _table(model, "get_input_embeddings")
    weights = {id(each) for each in table.parameters()} if table is not None else set()
    return [name for name, each in model.named_parameters(remove_duplicate=False) if id(each) in weights]


def fewest_rows(model: nn.Module) -> int | None:
    """The rows of the smaller one of input and output embeddings; None for a model without a table of its own."""
    tables = (_table(model, getter) for getter in ("get_input_embeddings", "get_output_embeddings"))
    weights = (getattr(table, "weight", None) for table in tables)
    return min((int(each.shape[0]) for each in weights if each is not None and each.dim() == 2), default=None)


def _table(model: Any, getter: str) -> nn.Module | None:
    """What the model's own method gives; some models have the method, and no such table."""
    try:
        table = getattr(model, getter, lambda: None)()
    except (NotImplementedError, AttributeError):
        return None
    return table if isinstance(table, nn.Module) else None
