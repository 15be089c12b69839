"""Vision-language models over quantised weights: adapters in the language model, and a first stage with both frozen."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForImageTextToText, BitsAndBytesConfig

from tests.worker.trainer import block_scaled_bases, quantised_bases, vision_language
from tests.worker.trainer.attempts import Attempt, attempt_json, data
from tests.worker.trainer.judging import judge, verified
from tests.worker.trainer.models.test_adapters import composed, published
from worker.protocol import Workspace

pytestmark = pytest.mark.slow  # a minute for five families

LORA = {"type": "lora", "r": 2}
FAMILIES = ("llava", "qwen2_5_vl", "qwen3_vl", "gemma3", "smolvlm")


def base(folder: Path, family: str, *, plain: list[str] | None = None) -> Path:
    """A tiny model of this family in NF4, with these modules left `plain`."""
    source = folder.parent / "source"
    vision_language.save(family, source)
    config = BitsAndBytesConfig(load_in_4bit=True, bnb_4bit_quant_type="nf4", llm_int8_skip_modules=plain)
    options: dict[str, Any] = {"quantization_config": config, "device_map": "cpu", "dtype": torch.bfloat16}
    AutoModelForImageTextToText.from_pretrained(source, **options).save_pretrained(folder)
    for path in source.iterdir():
        if not (folder / path.name).exists():
            shutil.copy(path, folder / path.name)
    return folder


def run(root: Path, model: dict[str, Any], **changes: Any) -> Attempt:
    fields = {
        "job_id": "ftjob-vision",
        "stage": "train",
        "model": {"type": "transformers", "path": "tiny"} | model,
        "task": "image-text",
        "data": data(Workspace(root), vision_language.chats(), "chats.jsonl"),
        "hyperparameters": {"n_epochs": 1, "batch_size": 4, "learning_rate": 1e-2},
        "seed": 4,
        "device": "cpu",
    }
    return attempt_json(fields | changes, root)


@pytest.mark.parametrize("family", FAMILIES)
def test_an_adapter_over_a_stored_quantised_model(tmp_path: Path, family: str) -> None:
    """Tower, projector and language model are proved as they are stored, though loading renames them."""
    place = Workspace(tmp_path / "job").create()
    base(place.base, family)
    done = run(place.root, {"adapter": LORA})
    assert done.code == 0, done.reports[-1]
    judged = judge(done)
    assert judged.verdict == "verified", judged.reason
    frozen = {row.base.name for row in judged.rows if row.role == "frozen" and row.base}
    assert frozen == set(done.base) and any(name.endswith(".weight.absmax") for name in frozen)


@pytest.mark.parametrize("family", FAMILIES)
def test_a_language_model_in_float8(tmp_path: Path, family: str) -> None:
    """Another process decodes the same weights under the base's names, which loading renames."""
    place = Workspace(tmp_path / "job").create()
    vision_language.save(family, place.base)
    quantised_bases.rewrite(place.base, block_scaled_bases.encode_language_model)
    block_scaled_bases.configure(place.base, block_scaled_bases.FP8 | {"modules_to_not_convert": None})
    apart = run(place.root, {"adapter": LORA}, stage="make", data={})
    assert apart.code == 0, apart.reports[-1]
    again = json.loads(place.made.read_text())
    done = run(place.root, {"adapter": LORA})
    assert done.code == 0, done.reports[-1]
    judged = judge(done, made=again)
    assert (len(again), judged.verdict) == (14, "verified"), judged.reason
    frozen = {row.base.name for row in judged.rows if row.role == "frozen" and row.base}
    assert frozen == set(done.base) and any(name.endswith(".weight_scale_inv") for name in frozen)
    assert not verified(done, judged, published(done, tmp_path / "adapter")).problems


@pytest.mark.parametrize("family", FAMILIES)
def test_a_plain_model_that_is_quantised_at_loading(tmp_path: Path, family: str) -> None:
    """Another process finds the same codes under the base's names."""
    place = Workspace(tmp_path / "job").create()
    vision_language.save(family, place.base)
    model = {"adapter": LORA, "quantize": "nf4"}
    apart = run(place.root, model, stage="make", data={})
    assert apart.code == 0, apart.reports[-1]
    again = json.loads(place.made.read_text())
    done = run(place.root, model)
    assert done.code == 0, done.reports[-1]
    assert again and judge(done, made=again).verdict == "verified"


def test_a_projector_trains_between_two_quantised_towers(tmp_path: Path) -> None:
    """The first stage of LLaVA: the projector stays plain in the base, and the whole model is the result."""
    place = Workspace(tmp_path / "job").create()
    base(place.base, "llava", plain=["model.multi_modal_projector", "lm_head"])
    done = run(place.root, {}, policy={"preset": "llava-stage-1"})
    assert done.code == 0, done.reports[-1]
    judged = judge(done)
    assert judged.verdict == "verified", judged.reason
    changed = {name for name, each in done.result.items() if each["from"] == "changed"}
    assert changed and all("multi_modal_projector" in name for name in changed)
    whole = composed(done, tmp_path / "whole")
    assert not verified(done, judged, whole).problems
    loaded = AutoModelForImageTextToText.from_pretrained(whole, device_map="cpu").state_dict()
    trained = {name.partition("multi_modal_projector")[2]: tensor for name, tensor in done.changed.items()}
    for name, tensor in loaded.items():
        if "multi_modal_projector" in name:
            assert torch.equal(tensor, trained[name.partition("multi_modal_projector")[2]])


def test_a_projector_that_is_stored_quantised_cannot_train(tmp_path: Path) -> None:
    """The preset's rule is refused by name, before a step."""
    place = Workspace(tmp_path / "job").create()
    base(place.base, "llava")
    done = run(place.root, {}, policy={"preset": "llava-stage-1"})
    assert (done.code, done.failure["code"]) == (1, "quantised_weights_train")
    assert "multi_modal_projector" in done.failure["message"]
