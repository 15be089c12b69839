"""What a packed base's headers and shapes say, without its codes."""

from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from app.errors import ModelError
from worker.trainer.models import packed_layout

CODES = {"a.weight_packed": "I32", "a.weight_scale": "F32", "a.weight_shape": "I64", "b.weight": "F32"}


def write(folder: Path, shape: list[int]) -> Path:
    tensors = {"a.weight_packed": torch.zeros(4, 2, dtype=torch.int32), "a.weight_scale": torch.ones(4, 1)}
    tensors |= {"a.weight_shape": torch.tensor(shape), "b.weight": torch.ones(3)}
    save_file(tensors, folder / "model.safetensors")
    return folder


def test_the_plain_tensors_have_the_shapes_that_were_packed(tmp_path: Path) -> None:
    """A matrix in place of codes and scales; other tensors as they are."""
    layout = packed_layout.read(write(tmp_path, [4, 16]), CODES)
    plain = layout.plain_tensors(torch.bfloat16)
    assert {name: (tuple(each.shape), each.dtype) for name, each in plain.items()} == {
        "a.weight": ((4, 16), torch.bfloat16),
        "b.weight": ((3,), torch.float32),
    }
    assert all(each.device.type == "meta" for each in plain.values())


@pytest.mark.parametrize("shape", [[4], [0, 16], [4, 4, 4]])
def test_a_shape_that_is_none_is_refused(tmp_path: Path, shape: list[int]) -> None:
    """By the tensor's name."""
    with pytest.raises(ModelError, match=r"a\.weight_shape"):
        packed_layout.read(write(tmp_path, shape), CODES)
