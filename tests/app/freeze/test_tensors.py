"""Descriptions of tensors: sizes and JSON."""

import json

import pytest

from app.freeze.plan import TensorInfo
from tests.app.freeze.plans import plan_of


def test_a_tensor_survives_json(bert):
    """A manifest in a file is the manifest."""
    assert [TensorInfo.from_json(json.loads(json.dumps(t.to_json()))) for t in bert] == bert


def test_one_name_for_two_tensors_is_a_broken_manifest():
    """A name decides one tensor; two would leave one of them unchecked."""
    with pytest.raises(ValueError, match="two tensors"):
        plan_of({}, [TensorInfo("a", (1,), "F32"), TensorInfo("b", (1,), "F32", aliases=("a",))])


def test_an_unknown_dtype_is_a_broken_manifest():
    """Bytes cannot be counted in a dtype that safetensors has not."""
    with pytest.raises(ValueError, match="unknown dtype 'Q9'"):
        plan_of({}, [TensorInfo("a", (1,), "Q9")])


def test_bytes_of_small_dtypes_are_whole():
    """Packed dtypes take whole bytes."""
    assert [TensorInfo("a", (3,), dtype).nbytes for dtype in ("F4", "BOOL", "BF16", "F32", "C128")] == [2, 3, 6, 12, 48]
