"""Classes that transformers chooses by task, processors that give more than pixels, packages that are missing."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM, FineGrainedFP8Config, T5Config, T5EncoderModel, T5Model

from app.specs.adapters import LoraSpec
from app.specs.models import TransformersSpec
from tests.worker.trainer import block_scaled_bases, quantised_bases, tiny
from tests.worker.trainer.attempts import Attempt, attempt, data, work_order
from tests.worker.trainer.judging import judge, objections_to
from tests.worker.trainer.zoo import KINDS
from worker.protocol import Workspace
from worker.trainer.models import loading
from worker.trainer.models.manifest import describe

T5 = T5Config(vocab_size=64, d_model=32, d_kv=16, d_ff=64, num_layers=2, num_heads=2, decoder_start_token_id=0)
TEXT = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 1, "num_attention_heads": 2, "vocab_size": 64}


def noisy(model: Any, folder: Path) -> None:
    with torch.no_grad():
        for tensor in model.state_dict().values():
            if tensor.is_floating_point():
                tensor.copy_(torch.rand_like(tensor) * 0.1 + 0.01)
    model.save_pretrained(folder)


def run(place: Workspace, rows: list[dict[str, Any]], *, task: str, freeze: str = "") -> Attempt:
    order = work_order(
        job_id="ftjob-test",
        stage="train",
        model={"type": "transformers", "path": "tiny"},
        task=task,
        data=data(place, rows),
        hyperparameters={"n_epochs": 1, "batch_size": 4},
        device="cpu",
        **({"policy": {"freeze": [freeze]}} if freeze else {}),
    )
    return attempt(order, place.root)


@pytest.mark.parametrize("kind", [T5Model, T5EncoderModel])
def test_pairs_are_embedded_by_the_encoder(tmp_path: Path, kind: Any) -> None:
    """T5 as a whole needs texts to decode, and an encoder's file holds no decoder."""
    place = Workspace(tmp_path).create()
    noisy(kind(T5), place.base)
    tiny.tokenizer(place.base, ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"), bert_like=True)
    rows = [{"anchor": f"the {word}", "positive": f"a {word}"} for word in tiny.WORDS[:8]]
    done = run(place, rows, task="pairs", freeze="encoder.block.0.**")
    judged = judge(done)
    assert (judged.verdict, objections_to(done, judged)) == ("verified", [])


def siglip2(folder: Path) -> None:
    vision = TEXT | {"patch_size": 4, "num_patches": 16}
    config = transformers.Siglip2Config(text_config=TEXT, vision_config=vision, num_labels=2)
    noisy(transformers.Siglip2ForImageClassification(config), folder)
    transformers.Siglip2ImageProcessorPil(patch_size=4, max_num_patches=16).save_pretrained(folder)


def imagegpt(folder: Path) -> None:
    sizes = {"vocab_size": 17, "n_positions": 64, "n_embd": 32, "n_layer": 2, "n_head": 2, "num_labels": 2}
    noisy(transformers.ImageGPTForImageClassification(transformers.ImageGPTConfig(**sizes)), folder)
    clusters = np.random.default_rng(0).random((16, 3)).tolist()
    size = {"height": 8, "width": 8}
    transformers.ImageGPTImageProcessorPil(clusters=clusters, size=size).save_pretrained(folder)


@pytest.mark.parametrize(("save", "freeze"), [(siglip2, "**.layers.0.**"), (imagegpt, "**.h.0.**")])
def test_processors_that_give_more_than_pixels(tmp_path: Path, save: Any, freeze: str) -> None:
    """Patches with a mask and a shape; the numbers of colours in place of pixels."""
    place = Workspace(tmp_path).create()
    save(place.base)
    done = run(place, KINDS["vit"].rows(), task="image-classification", freeze=freeze)
    assert judge(done).verdict == "verified"


@pytest.mark.parametrize(
    ("kind", "package"),
    [
        ({"model_type": "timm_wrapper", "architecture": "resnet18"}, "timm"),
        ({"model_type": "layoutlmv2"}, "detectron2"),
    ],
)
def test_a_missing_package_is_named(tmp_path: Path, kind: dict[str, str], package: str) -> None:
    """As something to install, and not as a crash."""
    place = Workspace(tmp_path).create()
    tiny.bert(place.base)
    path = place.base / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | kind))
    rows = KINDS["vit"].rows() if package == "timm" else KINDS["bert"].rows()
    done = run(place, rows, task="image-classification" if package == "timm" else "text-classification")
    assert (done.code, done.failure["param"]) == (1, "model")
    assert f"requires the {package} library" in done.failure["message"]
    assert "where the worker runs" in done.failure["message"]


def test_a_missing_processor_is_noted(tmp_path: Path) -> None:
    """Pictures are then used in the size that they have."""
    place = Workspace(tmp_path).create()
    KINDS["resnet"].save(place.base)
    (place.base / "preprocessor_config.json").unlink()
    done = run(place, KINDS["resnet"].rows(), task="image-classification")
    assert done.code == 0
    assert any("no preprocessor_config.json" in each["message"] for each in done.of("event"))


def test_a_processor_inside_of_another_is_read(tmp_path: Path) -> None:
    """For models of several kinds transformers 5 writes one file for all that they read. The result has the part."""
    place = Workspace(tmp_path).create()
    tiny.vit(place.base)
    written = place.base / "preprocessor_config.json"
    whole = {"processor_class": "CLIPProcessor", "image_processor": json.loads(written.read_text())}
    (place.base / "processor_config.json").write_text(json.dumps(whole))
    written.unlink()
    done = run(place, KINDS["vit"].rows(), task="image-classification")  # pictures of 16, which it has to shrink to 8
    assert done.code == 0, done.failure
    assert json.loads((done.place.files / "preprocessor_config.json").read_text())["size"] == {"height": 8, "width": 8}


def test_the_dtype_is_the_one_that_loaders_decode_to(tmp_path: Path) -> None:
    """Where most of what is stored plain are norms in float32, and config.json says what a model computes in."""
    folder = block_scaled_bases.qwen3(tmp_path)
    quantised_bases.rewrite(
        folder, lambda tensors: tensors.update({n: t.float() for n, t in tensors.items() if "norm" in n})
    )
    base = AutoModelForCausalLM.from_pretrained(folder, quantization_config=FineGrainedFP8Config(dequantize=True))
    theirs, stored = base.state_dict(), load_file(folder / "model.safetensors")
    spec = TransformersSpec(path="tiny", adapter=LoraSpec(r=4, alpha=8, target_modules=("q_proj",)))
    live = loading.load(spec, folder, task="causal-lm", labels=None, seed=0).model.get_base_model().state_dict()
    for name in block_scaled_bases.decoded(stored):
        mine = live.get(name, live.get(".base_layer.".join(name.rsplit(".", 1))))
        assert mine is not None and mine.dtype == theirs[name].dtype == torch.bfloat16, name
        assert torch.equal(mine, theirs[name]), name
    assert live["model.norm.weight"].dtype == torch.float32
    found = describe(TransformersSpec(path="tiny"), folder, task="causal-lm")
    assert isinstance(found, dict) and isinstance(found["causal-lm"], list)
    dtypes = {row["name"]: row["dtype"] for row in found["causal-lm"]}
    assert (dtypes[f"{block_scaled_bases.LAYER}.weight"], dtypes["model.norm.weight"]) == ("BF16", "F32")
