"""Attention of several sequences in one row, against each sequence by itself."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn

from worker.trainer.padding.attention import GROUPED, UnsupportedAttention
from worker.trainer.padding.layout import layout

LENGTHS = np.array([5, 90, 2, 5, 1, 77])


@pytest.fixture(autouse=True)
def in_groups() -> Iterator[None]:
    GROUPED.layout = layout(LENGTHS, 90, device=torch.device("cpu"))
    yield
    GROUPED.layout = None


def states(heads: int = 2) -> torch.Tensor:
    return torch.randn(1, heads, int(LENGTHS.sum()), 8, generator=torch.Generator().manual_seed(heads))


class Layer(nn.Module):
    def __init__(self, *, causal: bool, groups: int = 1) -> None:
        super().__init__()
        self.is_causal = causal
        self.num_key_value_groups = groups


@pytest.mark.parametrize("causal", [True, False])
@pytest.mark.parametrize("shared", [1, 2])
def test_each_sequence_attends_to_itself(causal: bool, shared: int) -> None:
    query, key, value = states(), states(2 // shared), states(2 // shared) + 1
    layer = Layer(causal=causal, groups=shared)
    found, _ = GROUPED.attention(layer, query, key, value, None, dropout=0.0, scaling=0.3)
    assert found.shape == (1, int(LENGTHS.sum()), 2, 8)

    start = 0
    for length in sorted(LENGTHS):
        one, keys, values = (each[:, :, start : start + length] for each in (query, key, value))
        keys, values = (each.repeat_interleave(shared, dim=1) for each in (keys, values))
        alone = F.scaled_dot_product_attention(one, keys, values, scale=0.3, is_causal=causal)
        torch.testing.assert_close(found[0, start : start + length], alone[0].transpose(0, 1), rtol=1e-4, atol=1e-5)
        start += length


@pytest.mark.parametrize("rows", [1, 6])
def test_mask_of_the_model_counts_within_a_sequence(rows: int) -> None:
    """A window of three tokens, as one mask for all rows or one for each."""
    places = torch.arange(90)
    window = ((places[:, None] - places[None]).abs() < 3)[None, None].expand(rows, 1, 90, 90)
    query, key, value = states(), states() + 1, states() - 1
    found, _ = GROUPED.attention(Layer(causal=False), query, key, value, window, dropout=0.0, scaling=None)
    first = [int(length) for length in sorted(LENGTHS)][:5]
    start = sum(first)
    one, keys, values = (each[:, :, start:] for each in (query, key, value))
    alone = F.scaled_dot_product_attention(one, keys, values, attn_mask=window[:1])
    torch.testing.assert_close(found[0, start:], alone[0].transpose(0, 1), rtol=1e-4, atol=1e-5)


def test_what_needs_padded_rows_is_refused() -> None:
    with pytest.raises(UnsupportedAttention, match="bias"):
        GROUPED.attention(Layer(causal=False), states(), states(), states(), None, position_bias=torch.zeros(1))
    with pytest.raises(UnsupportedAttention, match="tokens"):
        GROUPED.attention(Layer(causal=False), states()[:, :, 1:], states(), states(), None)


def test_torch_attention_without_a_layout() -> None:
    GROUPED.layout = None
    query = torch.randn(2, 2, 4, 8)
    mask = torch.tensor([[True, True, True, False], [True] * 4])[:, None, None]
    found, _ = GROUPED.attention(Layer(causal=False), query, query, query, mask, dropout=0.0, scaling=None)
    expected = F.scaled_dot_product_attention(query, query, query, attn_mask=mask).transpose(1, 2)
    assert torch.equal(found, expected)
