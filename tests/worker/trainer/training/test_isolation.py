"""Packing is refused for a model in which one example of a row sees another."""

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from app.errors import InvalidRequest
from worker.trainer.data.language_example import LanguageExample
from worker.trainer.data.padded import Tokens
from worker.trainer.training.isolation import refuse_leaks


class Toy(nn.Module):
    """Logits of each token alone; `carry` adds the row's mean so far, `absolute` the place in the row."""

    def __init__(self, *, carry: bool = False, absolute: bool = False) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.embedding = nn.Embedding(16, 8)
        self.carry, self.absolute = carry, absolute

    def forward(self, row: dict[str, Tensor]) -> Tensor:
        hidden = self.embedding(row["input_ids"])
        if self.carry:
            hidden = hidden + hidden.cumsum(dim=1)
        if self.absolute:
            hidden = hidden + torch.arange(hidden.shape[1])[None, :, None]
        return hidden


def example(*ids: int) -> LanguageExample:
    return LanguageExample(Tokens(np.array(ids, dtype=np.int32)), np.array(ids, dtype=np.int32))


@pytest.mark.parametrize(
    ("toy", "reason"),
    [
        ({}, None),
        ({"carry": True}, "lets an example see the one before it"),
        ({"absolute": True}, "does not let an example begin at position 0"),
    ],
)
def test_leaks_are_found(toy: dict[str, bool], reason: str | None) -> None:
    """A model that keeps examples apart passes."""
    model = Toy(**toy)
    if reason is None:
        refuse_leaks(model, model, example(1, 2, 3), example(4, 5))
        return
    with pytest.raises(InvalidRequest, match=reason):
        refuse_leaks(model, model, example(1, 2, 3), example(4, 5))
