"""SHA-256 of live bytes: what safetensors would store, for any dtype and layout."""

import hashlib

import pytest
import torch
from safetensors.torch import save
from torch import Tensor, nn

from worker.trainer.witness.fingerprint import Fingerprints
from worker.trainer.witness.observe import digest, observe, raw

DTYPES = [
    torch.float32, torch.float64, torch.float16, torch.bfloat16, torch.float8_e4m3fn, torch.float8_e5m2,
    torch.int8, torch.int64, torch.uint16, torch.bool, torch.complex64,
]  # fmt: skip


def filled(dtype: torch.dtype) -> Tensor:
    torch.manual_seed(0)
    return torch.randn(5, 7).to(dtype)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_the_bytes_are_those_of_a_safetensors_file(dtype: torch.dtype) -> None:
    """The digest of a live tensor is that of its bytes in a saved file."""
    tensor = filled(dtype)
    stored = save({"x": tensor})[-tensor.nbytes :]
    assert digest(tensor) == hashlib.sha256(stored).hexdigest()


@pytest.mark.parametrize(
    "view",
    [lambda x: x.t().contiguous().t(), lambda x: x[:, ::2], lambda x: x[1:], lambda x: x[2], lambda x: x[0, 0]],
    ids=["permuted", "strided", "offset", "row", "scalar"],
)
def test_layout_does_not_count(view: object) -> None:
    """Logical order is what is hashed, wherever the elements lie."""
    tensor = view(filled(torch.bfloat16))
    assert digest(tensor) == digest(tensor.clone(memory_format=torch.contiguous_format))


def test_signs_of_zero_and_payloads_of_nan_count() -> None:
    """Equal by value is not equal: -0.0 and 0.0, two NaNs."""
    assert digest(torch.tensor([0.0])) != digest(torch.tensor([-0.0]))
    nans = torch.tensor([0x7FC00000, 0x7FC00001], dtype=torch.int32).view(torch.float32)
    assert digest(nans[:1]) != digest(nans[1:])


def test_a_conjugate_view_has_its_own_bytes() -> None:
    """A lazily conjugated tensor is hashed as what it means."""
    x = torch.tensor([1 + 2j])
    assert digest(x.conj()) == digest(torch.tensor([1 - 2j])) != digest(x)


def test_an_empty_tensor_has_the_digest_of_nothing() -> None:
    """No elements, no bytes."""
    assert digest(torch.empty(0, 3)) == hashlib.sha256(b"").hexdigest()


def test_observe_gives_every_name() -> None:
    """Parameters and buffers; a tie under both names; only some when asked."""
    model = nn.Sequential(nn.Linear(2, 2), nn.BatchNorm1d(2), nn.Linear(2, 2))
    model[2].weight = model[0].weight
    found = observe(model)
    assert set(found) == set(model.state_dict())
    assert found["0.weight"] == found["2.weight"] == digest(model.get_parameter("0.weight"))
    assert observe(model, ["1.running_mean"]) == {"1.running_mean": found["1.running_mean"]}
    with pytest.raises(KeyError):
        observe(model, ["3.weight"])


def test_a_dense_tensor_is_not_copied() -> None:
    """Hashing reads a row-major CPU tensor where it lies."""
    tensor = filled(torch.float32)
    view = raw(tensor)
    tensor[0, 0] = 99.0
    assert bytes(view) == bytes(raw(tensor))


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_fingerprints_tell_bytes_dtype_and_shape_apart(dtype: torch.dtype) -> None:
    """In one session equal tensors have equal fingerprints and any difference shows; sessions do not compare."""
    prints = Fingerprints()
    tensor = filled(dtype)
    taken = prints.take(tensor)
    assert prints.take(tensor.clone()) == taken
    assert prints.take(tensor.reshape(7, 5)) != taken
    changed = tensor.clone()
    changed.view(torch.uint8)[0, 0] ^= 1
    assert taken.difference(prints.take(changed)) == "bytes changed"
    assert Fingerprints().take(tensor) != taken
    if tensor.element_size() == 4:
        assert "dtype changed" in taken.difference(prints.take(tensor.view(torch.int32)))
