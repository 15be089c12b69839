"""Names and shapes of a quantised base from headers and descriptions; `test_quantised` compares them with a model."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from app.errors import ModelError
from app.evidence.format.quantised import Quantisation
from tests.worker.trainer import quantised_bases
from worker.trainer.models import loading, quantised_layout

LAYER = quantised_bases.LAYER
NF4 = Quantisation("bitsandbytes", "nf4")


def test_shapes_before_quantising_are_in_the_descriptions(tmp_path: Path) -> None:
    """What transformers is given to lay the plain model out."""
    folder = quantised_bases.llama(tmp_path)
    layout = quantised_layout.read(folder, loading.dtype_codes(folder), NF4)
    plain = layout.plain_tensors(torch.bfloat16)
    assert layout.unpacked[f"{LAYER}.weight"] == (64, 64)
    assert (plain[f"{LAYER}.weight"].shape, plain[f"{LAYER}.weight"].dtype) == ((64, 64), torch.bfloat16)
    assert not any("absmax" in name for name in plain) and all(each.is_meta for each in plain.values())


def test_a_description_that_is_none_is_refused_by_name(tmp_path: Path) -> None:
    """Bytes that are no JSON with a shape."""
    folder = quantised_bases.llama(tmp_path)
    name = f"{LAYER}.weight.quant_state.bitsandbytes__nf4"
    quantised_bases.rewrite(folder, lambda tensors: tensors.update({name: torch.zeros(4, dtype=torch.uint8)}))
    with pytest.raises(ModelError, match=name):
        quantised_layout.read(folder, loading.dtype_codes(folder), NF4)
