"""Fingerprints of a tensor that is cut over two processes of a gloo group."""

from dataclasses import replace
from functools import partial

import pytest
import torch
from torch.distributed.device_mesh import DeviceMesh, init_device_mesh
from torch.distributed.tensor import Replicate, Shard, distribute_tensor

from tests.worker.trainer.gloo import on_ranks
from worker.trainer.witness.fingerprint import MULTILINEAR, Fingerprints
from worker.trainer.witness.multilinear import multilinear
from worker.trainer.witness.sharded_hash import split_by_rows

PRINTS = Fingerprints(bytes(range(16)))


def weights(rows: int, width: int, dtype: torch.dtype) -> torch.Tensor:
    return torch.randn(rows, width, generator=torch.Generator().manual_seed(rows)).to(dtype)


def compared(rows: int, width: int, dtype: torch.dtype, rank: int) -> tuple[bool, bool, bool]:
    """Whether the sums across ranks are the whole's, and are seen to differ on both when one rank's bytes moved."""
    whole = weights(rows, width, dtype)
    like = PRINTS.take(whole)
    known = replace(like, scheme=MULTILINEAR, value=_value(whole))
    cut = distribute_tensor(whole, _mesh(), [Shard(0)])
    same = PRINTS.take(cut, known) == known
    if rank == 1 and cut.to_local().numel():
        cut.to_local().view(-1)[-1] += 1.0
    moved = PRINTS.take(cut, known) != known
    return split_by_rows(cut), same, moved


def _mesh() -> DeviceMesh:
    return init_device_mesh("cpu", (2,))


def _value(whole: torch.Tensor) -> str:
    return "".join(f"{lane:016x}" for lane in multilinear(whole.reshape(-1).view(torch.uint8), PRINTS.secret))


@pytest.mark.parametrize(
    ("rows", "width", "dtype"),
    [(4, 2048, torch.float32), (7, 333, torch.float32), (5, 3, torch.bfloat16), (2, 1, torch.float64)],
    ids=["even", "uneven", "within a word", "tiny"],
)
def test_sums_across_ranks_are_the_wholes(rows: int, width: int, dtype: torch.dtype) -> None:
    """However rows fall on ranks; and a word that moved on one rank is seen by both."""
    assert on_ranks(partial(compared, rows, width, dtype)) == [(True, True, True)] * 2


def other_cuts(rank: int) -> list[bool]:
    whole = weights(4, 6, torch.float32)
    known = replace(PRINTS.take(whole), scheme=MULTILINEAR, value=_value(whole))
    kinds = [distribute_tensor(whole, _mesh(), [placement]) for placement in (Shard(1), Replicate())]
    return [each for cut in kinds for each in (split_by_rows(cut), PRINTS.take(cut, known) == known)]


def test_other_cuts_are_gathered() -> None:
    """Along another dimension, or whole on each rank: no stretches to add up, and the same fingerprint."""
    assert on_ranks(other_cuts) == [[False, True, False, True]] * 2


def test_a_plain_tensor_is_not_cut() -> None:
    """It has no ranks to ask."""
    assert not split_by_rows(torch.ones(2))
