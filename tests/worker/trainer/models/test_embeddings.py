"""The embeddings of models that have them, have none, or have a method that fails."""

from __future__ import annotations

import pytest
from torch import nn

from worker.trainer.models import embeddings


class Tied(nn.Module):
    """Seven rows, under two names."""

    def __init__(self) -> None:
        super().__init__()
        self.table = nn.Embedding(7, 2)
        self.head = nn.Linear(2, 7, bias=False)
        self.head.weight = self.table.weight

    def get_input_embeddings(self) -> nn.Module:
        return self.table


class Refusing(Tied):
    """As transformers' models of pictures and waves."""

    def get_input_embeddings(self) -> nn.Module:
        raise NotImplementedError


class Foreign(Tied):
    """Fuyu's method gave something else than a module."""

    def get_input_embeddings(self) -> nn.Module:
        return "table"  # type: ignore[return-value]


def test_all_names_of_the_input_embeddings() -> None:
    """The tie's other name with it."""
    assert embeddings.input_names(Tied()) == ["table.weight", "head.weight"]


@pytest.mark.parametrize("model", [nn.Linear(2, 2), Refusing(), Foreign()], ids=["none", "refuses", "no module"])
def test_models_without_embeddings(model: nn.Module) -> None:
    """None of them is an error."""
    assert (embeddings.input_names(model), embeddings.fewest_rows(model)) == ([], None)


def test_the_smaller_table_counts() -> None:
    """An id has to have a row in both."""
    model = Tied()
    model.get_output_embeddings = lambda: nn.Linear(2, 5)  # type: ignore[assignment]
    assert embeddings.fewest_rows(Tied()) == 7
    assert embeddings.fewest_rows(model) == 5
