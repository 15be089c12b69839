"""Models that compare pictures with texts, from their folder to a proved result, and what is wrong with a job."""

from __future__ import annotations

import io
import json
import shutil
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from peft import PeftModel
from PIL import Image
from transformers import AutoImageProcessor, AutoModelForZeroShotImageClassification, AutoTokenizer

from app.specs.models import TransformersSpec
from tests.worker.trainer import tiny
from tests.worker.trainer.attempts import Attempt, attempt, data, work_order
from tests.worker.trainer.judging import proved
from tests.worker.trainer.two_towers import FAMILIES, TEXT, WIDTH, rows, save, tokenizer
from tests.worker.trainer.vision_language import picture
from worker.protocol import WorkOrder, Workspace
from worker.trainer.data import reading
from worker.trainer.data.batch import Batch
from worker.trainer.data.captioned import CaptionedPictures
from worker.trainer.models import loading
from worker.trainer.training import tasks

TASK = "contrastive-image-text"
#: Locked-image tuning: the text tower learns to speak of what the vision tower sees.
LIT = {"freeze": ["vision_model.**"]}
LORA = {"type": "lora", "r": 2, "target_modules": ["q_proj", "v_proj"]}


def trained(
    folder: Path,
    name: str | Path,
    policy: dict[str, Any],
    *,
    examples: list[dict[str, Any]] | None = None,
    adapter: dict[str, Any] | None = None,
    **hyperparameters: Any,
) -> Attempt:
    """A job of two batches in each of two epochs, over a family's own base or that of a folder."""
    place = Workspace(folder).create()
    if isinstance(name, Path):
        shutil.copytree(name, place.base, dirs_exist_ok=True)
    else:
        save(name, place.base)
    order = work_order(
        job_id="ftjob-test",
        stage="train",
        model={"type": "transformers", "path": "tiny"} | ({"adapter": adapter} if adapter else {}),
        task=TASK,
        data=data(place, rows(8) if examples is None else examples),
        hyperparameters={"n_epochs": 2, "batch_size": 4, "learning_rate": 0.01} | hyperparameters,
        device="cpu",
        policy=policy,
    )
    return attempt(order, place.root)


def moved(done: Attempt) -> set[str]:
    return {name for name, each in done.observed.items() if each["loaded"] != each["trained"]}


def encoded(place: Workspace) -> CaptionedPictures:
    """The job's own examples as the trainer encodes them."""
    loaded = loading.load(TransformersSpec(path="tiny"), place.base, task=TASK, labels=None, seed=0)
    splits = reading.read(place.root, WorkOrder.load(place.root).data, task=TASK)
    found = tasks.encode(TASK, splits, loaded, asked_length=None).training
    assert isinstance(found, CaptionedPictures)
    return found


def first_batch(place: Workspace) -> Batch:
    return encoded(place).batch(np.arange(4))


def logits(model: Any, inputs: dict[str, torch.Tensor]) -> torch.Tensor:
    model.eval()
    with torch.no_grad():
        found: torch.Tensor = model(**inputs).logits_per_image
    return found


@pytest.mark.parametrize("name", FAMILIES)
def test_one_tower_is_frozen_and_proved(name: str, tmp_path: Path) -> None:
    """Nothing of the vision tower moves; the result loads, and gives what the trained weights give."""
    done = trained(tmp_path / "job", name, LIT)
    folder = proved(done, tmp_path / "result")
    assert moved(done) and not any(each.startswith("vision_model.") for each in moved(done))
    assert any(each.startswith("text_model.encoder") for each in moved(done))

    inputs = first_batch(done.place).inputs
    result, info = AutoModelForZeroShotImageClassification.from_pretrained(folder, output_loading_info=True)
    assert not info["missing_keys"] and not info["unexpected_keys"]
    live = AutoModelForZeroShotImageClassification.from_pretrained(done.place.base)
    before = logits(live, inputs)
    live.load_state_dict(done.composed(), strict=False)
    assert torch.equal(logits(result, inputs), logits(live, inputs))
    assert not torch.equal(logits(result, inputs), before)


@pytest.mark.parametrize("name", FAMILIES)
def test_inputs_are_those_of_the_model_s_own_processor(name: str, tmp_path: Path) -> None:
    """Pixels, tokens, padding and mask: SigLIP's texts are padded to their full width, and have no mask."""
    done = trained(tmp_path / "job", name, LIT, max_steps=1)
    folder = done.place.base
    words, pictures = AutoTokenizer.from_pretrained(folder), AutoImageProcessor.from_pretrained(folder, use_fast=False)
    wide = {"padding": "max_length", "max_length": WIDTH} if name != "clip" else {"padding": True}
    texts = [row["text"] for row in rows(4)]
    expected = words(texts, return_tensors="pt", **wide)
    shown = [Image.open(io.BytesIO(picture(at))).convert("RGB") for at in range(4)]
    expected |= pictures(images=shown, return_tensors="pt")
    inputs = first_batch(done.place).inputs
    assert set(inputs) == set(expected)
    assert all(torch.equal(inputs[each], expected[each]) for each in inputs)


@pytest.mark.parametrize("name", FAMILIES)
def test_the_loss_is_the_model_s_own(name: str, tmp_path: Path) -> None:
    """Of all pictures and texts of a batch, before the first step."""
    done = trained(tmp_path / "job", name, LIT, batch_size=8, max_steps=1)
    model = AutoModelForZeroShotImageClassification.from_pretrained(done.place.base)
    whole = encoded(done.place).batch(np.arange(8))
    with torch.no_grad():
        expected = model(**whole.inputs, return_loss=True).loss.item()
    reported = done.of("step")[0]
    assert reported["loss"] == pytest.approx(expected, rel=1e-4)


@pytest.mark.parametrize("name", FAMILIES)
def test_a_frozen_tower_is_computed_once(name: str, tmp_path: Path) -> None:
    """Its results are kept after the first look, and the weights are those of a run that computes it anew."""
    kept = trained(tmp_path / "kept", name, {"preset": "vision_tower"}, n_epochs=3, batch_size=8)
    assert kept.code == 0, kept.failure
    said = [each["message"] for each in kept.of("event") if "kept: " in each["message"]]
    assert said and "vision_model" in said[0], kept.of("event")
    anew = trained(tmp_path / "anew", name, {"preset": "vision_tower"}, n_epochs=3, batch_size=8, prefix_cache=False)
    for each, tensor in kept.changed.items():
        assert torch.allclose(tensor, anew.changed[each], atol=1e-5), each


def test_texts_as_wide_as_a_picture_has_colours(tmp_path: Path) -> None:
    """Three tokens beside three channels: a picture is not cut where its text is."""
    examples = [row | {"text": row["text"].split()[0]} for row in rows(8)]
    examples[7]["text"] = "the cat"
    done = trained(tmp_path, "clip", {"preset": "vision_tower"}, examples=examples, n_epochs=3, batch_size=2)
    assert done.code == 0, done.failure
    assert any("kept: vision_model" in each["message"] for each in done.of("event")), done.of("event")


@pytest.mark.parametrize("name", FAMILIES)
def test_a_resumed_run_ends_with_the_same_bits(name: str, tmp_path: Path) -> None:
    """From a checkpoint in the midst of an epoch."""
    options: dict[str, Any] = {"checkpoint_steps": 1, "keep_checkpoints": 9}
    whole = trained(tmp_path / "whole", name, LIT, **options)
    place = Workspace(tmp_path / "again").create()
    first = min(whole.place.checkpoints.iterdir())
    shutil.copytree(first, place.checkpoints / first.name)
    again = trained(place.root, name, LIT, **options)
    assert any(each["message"].startswith("goes on after step 1") for each in again.of("event")), again.of("event")
    trained_bits = [{row: each["trained"] for row, each in one.observed.items()} for one in (whole, again)]
    assert trained_bits[0] == trained_bits[1]


@pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing`:FutureWarning")  # peft reads it
@pytest.mark.parametrize("name", FAMILIES)
def test_lora_on_both_towers(name: str, tmp_path: Path) -> None:
    """The whole base is proved, and peft loads the result over it to the same logits."""
    done = trained(tmp_path / "job", name, {"train": ["**.lora_*.**"]}, adapter=LORA)
    folder = proved(done, tmp_path / "adapter")
    assert moved(done) and all(".lora_" in each for each in moved(done))
    inputs = first_batch(done.place).inputs
    base = AutoModelForZeroShotImageClassification.from_pretrained(done.place.base)
    before = logits(base, inputs)
    assert not torch.equal(logits(PeftModel.from_pretrained(base, folder), inputs), before)


def test_validation_says_how_often_the_own_text_is_nearest(tmp_path: Path) -> None:
    """Within a batch, as for pairs of texts."""
    done = trained(tmp_path, "clip", LIT, examples=rows(16), validation_fraction=0.25)
    assert {"loss", "accuracy", "mrr"} == set(done.of("done")[0]["metrics"])


def refusal(done: Attempt) -> tuple[str, str | None, str]:
    assert done.code != 0
    return done.failure["code"], done.failure["param"], done.failure["message"]


def test_a_batch_of_one_is_refused(tmp_path: Path) -> None:
    """As requested, and as it comes of a single example."""
    _, param, message = refusal(trained(tmp_path / "asked", "clip", LIT, batch_size=1))
    assert param == "hyperparameters.batch_size" and "2 or more" in message
    _, param, message = refusal(trained(tmp_path / "came", "clip", LIT, examples=rows(1), batch_size="auto"))
    assert param in ("hyperparameters.batch_size", "training_file"), message


def test_a_damaged_picture_is_named_by_its_line(tmp_path: Path) -> None:
    """Before training."""
    examples = rows(4)
    examples[2]["image"] = examples[2]["image"][:-40]
    code, _, _ = refusal(trained(tmp_path, "clip", LIT, examples=examples))
    assert code == "invalid_training_data"


def test_a_tokenizer_that_ends_no_text_is_refused(tmp_path: Path) -> None:
    """CLIP would read the first token of each text, which is the same for all."""
    base = save("clip", tmp_path / "base")
    tokenizer(masked=True, ends=False).save_pretrained(base)
    code, _, message = refusal(trained(tmp_path / "job", base, LIT))
    assert code == "tokenizer_does_not_fit" and "end token" in message


def test_an_early_clip_reads_its_largest_id(tmp_path: Path) -> None:
    """Their configuration says 2; words with larger ids than the end token would be read in its place."""
    base = save("clip", tmp_path / "base")
    config = json.loads((base / "config.json").read_text())
    config["text_config"]["eos_token_id"] = 2
    (base / "config.json").write_text(json.dumps(config))
    code, _, message = refusal(trained(tmp_path / "job", base, LIT))
    assert code == "tokenizer_does_not_fit" and "largest id" in message


def test_a_folder_without_a_processor_is_refused(tmp_path: Path) -> None:
    """Pictures would come in another size and scale than the model was trained on."""
    base = save("clip", tmp_path / "base")
    (base / "preprocessor_config.json").unlink()
    assert refusal(trained(tmp_path / "job", base, LIT))[0] == "no_processor"


@pytest.mark.skipif(find_spec("sentencepiece") is not None, reason="sentencepiece is installed here")
def test_the_package_of_siglip_s_own_tokenizer_is_named(tmp_path: Path) -> None:
    """Its first version has a class that reads SentencePiece, whatever else is in the folder."""
    base = save("siglip", tmp_path / "base")
    path = base / "tokenizer_config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"tokenizer_class": "SiglipTokenizer"}))
    assert "pip install sentencepiece" in refusal(trained(tmp_path / "job", base, LIT))[2]


def test_a_model_of_texts_is_refused(tmp_path: Path) -> None:
    """By the task's name."""
    base = tiny.bert(tmp_path / "base")
    _, param, message = refusal(trained(tmp_path / "job", base, LIT))
    assert param == "task" and "ZeroShotImageClassification" in message


def test_texts_are_cut_to_what_the_model_has_positions_for(tmp_path: Path) -> None:
    """With a note of how many; the end token stays."""
    examples = rows(4)
    examples[0]["text"] = "the cat " * 20
    done = trained(tmp_path, "clip", LIT, examples=examples)
    assert done.code == 0, done.failure
    assert any("1 of 4 examples" in each["message"] for each in done.of("event"))
    assert encoded(done.place).texts[0].ids[-1] == TEXT["eos_token_id"]
