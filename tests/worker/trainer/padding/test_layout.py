"""Where the tokens of a batch go."""

from __future__ import annotations

import numpy as np
import torch

from worker.trainer.padding.layout import layout

CPU = torch.device("cpu")


def test_tokens_are_sorted_by_the_length_of_their_sequence() -> None:
    found = layout(np.array([3, 1, 2]), 3, device=CPU)
    assert found.real.padded.tolist() == [3, 6, 7, 0, 1, 2]
    assert found.places.tolist() == [0, 0, 1, 0, 1, 2]
    assert (found.rows, found.width, found.tokens) == (3, 3, 6)


def test_groups_have_their_padding_marked() -> None:
    lengths = np.array([10, 300, 9, 297])
    found = layout(lengths, 300, device=CPU)
    short, long = found.groups
    assert (short.rows.tolist(), short.width, long.rows.tolist(), long.width) == ([2, 0], 10, [3, 1], 300)
    assert short.real is not None
    assert short.real[:, 0, 0].sum(dim=1).tolist() == [9, 10]
    assert found.group_sizes == [20, 600]
    assert found.grouped is not None
    assert len(found.grouped.padded) == found.tokens == lengths.sum()
    assert found.grouped.padded.tolist()[:19] == [*range(9), *range(10, 20)]


def test_sequences_of_one_length_need_no_mask() -> None:
    found = layout(np.array([4, 400, 4, 400]), 400, device=CPU)
    assert [each.real for each in found.groups] == [None, None]
    assert found.grouped is None


def test_learned_positions_are_looked_up_in_their_order() -> None:
    found = layout(np.array([3, 1]), 3, device=CPU, learned=np.array([0, 1]))
    assert found.learned is not None
    assert found.learned.remove(torch.arange(6)).tolist() == [0, 1]
