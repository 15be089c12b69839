"""Equal fingerprints mean equal dtype, shape and bytes."""

import pytest
import torch

from worker.trainer.witness.fingerprint import MULTILINEAR, XXH3, Fingerprint, Fingerprints

PRINTS = Fingerprints(bytes(16))


@pytest.mark.parametrize(
    ("other", "difference"),
    [
        (torch.zeros(4), None),
        (torch.tensor([0.0, -0.0, 0.0, 0.0]), "bytes changed"),
        (torch.zeros(2, 2), "shape changed from [4] to [2, 2]"),
        (torch.zeros(4, dtype=torch.int32), "dtype changed from torch.float32 to torch.int32"),
    ],
)
def test_difference_in_words(other: torch.Tensor, difference: str | None) -> None:
    """Negative zero is another value, and so is an integer zero."""
    one, two = PRINTS.take(torch.zeros(4)), PRINTS.take(other)
    assert (one == two) is (difference is None)
    if difference:
        assert one.difference(two) == difference


def test_layout_in_memory_does_not_count() -> None:
    """A transposed copy of the same values in the same shape is the same tensor."""
    values = torch.randn(3, 5)
    assert PRINTS.take(values) == PRINTS.take(values.T.contiguous().T)


def test_an_earlier_fingerprint_decides_the_scheme() -> None:
    """A run that moves from a GPU to the CPU still compares."""
    values = torch.randn(7)
    on_device = Fingerprint("torch.float32", (7,), "0", MULTILINEAR, local=False)
    assert PRINTS.take(values).scheme == XXH3
    assert PRINTS.take(values, on_device).scheme == MULTILINEAR


def test_other_secret_other_value() -> None:
    values = torch.randn(7)
    assert PRINTS.take(values).value != Fingerprints(b"another secret..").take(values).value
    assert "another" not in repr(Fingerprints(b"another secret.."))
