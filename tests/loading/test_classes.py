"""Configurations by which a loader makes a class without what was proved: it is lost, and the verifier says so."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from safetensors import safe_open

from tests.loading import folders
from tests.loading.test_loading import quietly

TINY = {"hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 64}
PICTURE = TINY | {"image_size": 8, "patch_size": 4}
FUNNEL = {"block_sizes": [1, 1], "num_decoder_layers": 1, "d_model": 32, "n_head": 2, "d_head": 16, "d_inner": 64}
TEXT = {"vocab_size": 64}
TEACHER = "DeiTForImageClassificationWithTeacher"


def saved(name: str, **config: Any) -> Callable[[Path], None]:
    """Makes a model of a class of transformers."""

    def make(path: Path) -> None:
        of: Any = getattr(transformers, name)
        torch.manual_seed(0)
        model = of(of.config_class(**config))
        for parameter in model.parameters():
            torch.nn.init.normal_(parameter, std=0.1)
        model.save_pretrained(path)

    return make


def folder_of(make: Callable[[Path], None], auto: str, root: Path) -> folders.Folder:
    """A result in which everything but its first table is frozen."""
    source = root / "source"
    source.mkdir()
    make(source)
    with safe_open(source / "model.safetensors", "pt") as file:
        names = sorted(file.keys())
    trained = next(name for name in names if "embed" in name or "shared" in name)
    frozen = tuple(name for name in names if name != trained)
    return folders.Folder(root / "world", folders.Model(make, auto, auto, "", frozen), source)


CASES: list[Any] = [
    pytest.param(
        saved("FunnelModel", **TEXT, **FUNNEL), "AutoModel", {"architectures": ["FunnelBaseModel"]}, id="base"
    ),
    pytest.param(saved(TEACHER, **PICTURE), "AutoModelForImageClassification", {"architectures": []}, id="teacher"),
    pytest.param(saved("BeitModel", **PICTURE), "AutoModel", {"layer_scale_init_value": 0.0}, id="scale"),
    pytest.param(
        saved("AlbertModel", **TEXT, **TINY, embedding_size=16, inner_group_num=2),
        "AutoModel",
        {"inner_group_num": 1},
        id="inner group",
    ),
    pytest.param(
        saved("LlamaForTokenClassification", **TEXT, **TINY, num_key_value_heads=1),
        "AutoModelForTokenClassification",
        {"token_classification_bias": False},
        id="bias of a head",
    ),
    pytest.param(
        saved("T5EncoderModel", **TEXT, d_model=32, num_layers=1, num_heads=2, d_ff=64, d_kv=16),
        "AutoModelForTextEncoding",
        {"is_decoder": True},
        id="decoder",
    ),
]


@pytest.mark.parametrize(("make", "auto", "changes"), CASES)
def test_a_class_without_what_was_proved_is_rejected(
    make: Callable[[Path], None], auto: str, changes: dict[str, Any], tmp_path: Path
) -> None:
    """As it was the result is accepted; and what the loader then takes shows that the rejection is no whim."""
    folder = folder_of(make, auto, tmp_path)
    folder.write()
    assert folder.verified().verified
    before = quietly({"class": auto, "folder": str(folder.result)})

    (folder.result / "config.json").write_text(json.dumps(folder.config | changes))
    assert not folder.verified().verified
    after = quietly({"class": auto, "folder": str(folder.result)})
    assert any(after.get(name) != digest for name, digest in before.items())
