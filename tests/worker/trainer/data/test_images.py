"""Whole attempts on pictures: a convnet with BatchNorm of ours, and a vision transformer."""

from __future__ import annotations

import base64
import io
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from PIL import Image
from safetensors.torch import save_file

from app.errors import DataError
from app.specs.models import TorchSpec
from tests.worker.trainer import tiny
from tests.worker.trainer.attempts import attempt, data
from worker.protocol import WorkOrder, Workspace
from worker.trainer.data.images import Pixels, decode, encode
from worker.trainer.models.loading import initialise

CONVNET = {"type": "torch", "architecture": "convnet", "kwargs": {"num_classes": 2, "widths": [4, 8]}}


def picture(at: int, *, size: tuple[int, int] = (8, 8), form: str = "PNG") -> bytes:
    shade = (40 + at, 20, 20) if at % 2 else (20, 20, 40 + at)
    buffer = io.BytesIO()
    Image.new("RGB", size, shade).save(buffer, form)
    return buffer.getvalue()


def rows(count: int = 12, **options: Any) -> list[dict[str, Any]]:
    return [
        {"image": base64.b64encode(picture(at, **options)).decode(), "label": "red" if at % 2 else "blue"}
        for at in range(count)
    ]


def order(place: Workspace, model: dict[str, Any], examples: list[dict[str, Any]], **changes: Any) -> WorkOrder:
    if model["type"] == "torch":
        save_file(initialise(TorchSpec.from_json(model), seed=1), place.base / "model.safetensors")
    fields = {
        "job_id": "ftjob-images",
        "stage": "train",
        "model": model,
        "task": "image-classification",
        "data": data(place, examples),
        "hyperparameters": {"n_epochs": 2, "batch_size": 4, "learning_rate": 0.01, "validation_fraction": 0.25},
        "device": "cpu",
    }
    return WorkOrder.from_json(fields | changes)


def test_frozen_convolutions_keep_their_statistics(tmp_path: Path) -> None:
    """BatchNorm of a frozen module is pinned: its running statistics are the base's, to the bit."""
    place = Workspace(tmp_path).create()
    done = attempt(order(place, CONVNET, rows(), policy={"freeze": ["features.**"]}), tmp_path)
    assert done.code == 0
    assert set(done.changed) == {"head.weight", "head.bias"}
    assert done.result["features.0.1.running_mean"]["from"] == "base"


def test_trained_convolutions_move_their_statistics(tmp_path: Path) -> None:
    """The control: without a policy the running statistics do move, and the result stores them."""
    place = Workspace(tmp_path).create()
    done = attempt(order(place, CONVNET, rows()), tmp_path)
    assert {"features.0.1.running_mean", "features.0.1.num_batches_tracked", "features.0.0.weight"} <= set(done.changed)


def test_task_of_a_torch_classifier_is_seen_from_its_data(tmp_path: Path) -> None:
    """The spec says "classification"; rows with pictures make it image classification."""
    place = Workspace(tmp_path).create()
    assert attempt(order(place, CONVNET | {"task": "classification"}, rows(), task=None), tmp_path).code == 0


def test_vision_transformer(tmp_path: Path) -> None:
    """transformers with its image processor: other sizes are resized; the processor is in the result."""
    place = Workspace(tmp_path).create()
    tiny.vit(place.base)
    model = {"type": "transformers", "path": "vit"}
    done = attempt(order(place, model, rows(size=(11, 7)), policy={"freeze": ["vit.**"]}), tmp_path)
    assert done.code == 0
    assert not any(name.startswith("vit.") for name in done.changed)
    assert (done.place.files / "preprocessor_config.json").exists()
    assert "accuracy" in done.of("done")[0]["metrics"]


@pytest.mark.parametrize(
    ("spoil", "code"),
    [
        (lambda content: content[: len(content) // 2], "corrupt_image"),
        (lambda content: picture(1, size=(9, 8)), "other_size"),
        (lambda content: content[:8], "corrupt_image"),
    ],
    ids=["truncated", "other size", "header only"],
)
def test_unusable_pictures_are_listed(tmp_path: Path, spoil: Any, code: str) -> None:
    """A truncated picture, or one of another size for a model that does not resize, is named by its line."""
    examples = rows()
    examples[4]["image"] = base64.b64encode(spoil(picture(4))).decode()
    done = attempt(order(Workspace(tmp_path).create(), CONVNET, examples, hyperparameters={"n_epochs": 1}), tmp_path)
    assert (done.code, done.failure["code"]) == (1, "invalid_training_data")
    assert done.failure["errors"][0]["code"] == code
    assert (done.failure["errors"][0]["line"], done.failure["errors"][0]["field"]) == (5, "image")
    assert "line 5" in done.failure["message"] and " at 0x" not in done.failure["message"]


def test_picture_that_claims_to_be_huge_is_refused(tmp_path: Path) -> None:
    """A few bytes that would unpack to gigabytes."""
    buffer = io.BytesIO()
    Image.new("1", (9000, 9000)).save(buffer, "PNG")
    examples = rows()
    examples[0]["image"] = base64.b64encode(buffer.getvalue()).decode()
    done = attempt(order(Workspace(tmp_path).create(), CONVNET, examples, hyperparameters={"n_epochs": 1}), tmp_path)
    assert done.failure["errors"][0]["code"] == "corrupt_image"
    assert "pixels" in done.failure["errors"][0]["message"]


def test_bomb_beyond_what_pil_lets_through(tmp_path: Path) -> None:
    """PIL's own limit raises what is no ordinary error; it is told like any other damage, with its row."""
    buffer = io.BytesIO()
    Image.new("1", (20_000, 20_000)).save(buffer, "PNG")
    table = {"image": [*(picture(at) for at in range(6)), buffer.getvalue()], "label": [0, 1, 0, 1, 0, 1, 0]}
    place = Workspace(tmp_path).create()
    pq.write_table(pa.table(table), place.data / "train.parquet")
    order_of = order(place, CONVNET, rows(), data={"training": "data/train.parquet", "format": "parquet"})
    done = attempt(order_of, tmp_path)
    assert done.failure["errors"][0]["code"] == "corrupt_image"
    assert done.failure["errors"][0]["line"] == 7


def test_wrong_checksum_is_damage(tmp_path: Path) -> None:
    """Though every pixel can be read."""
    content = bytearray(picture(4))
    content[content.index(b"IDAT") - 1 + 4 + int.from_bytes(content[content.index(b"IDAT") - 4 :][:4]) + 1] ^= 1
    examples = rows()
    examples[4]["image"] = base64.b64encode(bytes(content)).decode()
    done = attempt(order(Workspace(tmp_path).create(), CONVNET, examples), tmp_path)
    assert [(each["line"], each["code"]) for each in done.failure["errors"]] == [(5, "corrupt_image")]


def test_lines_are_those_of_the_file(tmp_path: Path) -> None:
    """Also behind a blank line, and for what was held out."""
    place = Workspace(tmp_path).create()
    examples = rows()
    for at in range(12):
        examples[at]["image"] = base64.b64encode(picture(at, size=(8, 8 + at))).decode()
    made = order(place, CONVNET, examples, hyperparameters={"validation_fraction": 0.25})
    path = place.root / made.data.training
    path.write_text("\n\n" + path.read_text())
    found = {each["line"] for each in attempt(made, tmp_path).failure["errors"]}
    assert found <= set(range(3, 15))
    assert len(found) == 8  # of nine that train, the first sets the size


def test_more_labels_than_outputs_are_refused(tmp_path: Path) -> None:
    """Also where the first examples have labels that fit."""
    examples = rows()
    examples[10]["label"] = examples[11]["label"] = "third"
    done = attempt(order(Workspace(tmp_path).create(), CONVNET, examples), tmp_path)
    assert done.failure["code"] == "data_does_not_fit_model"
    assert "3 labels, and the model gives 2 outputs" in done.failure["message"]


def test_grey_pictures_for_a_model_of_one_channel(tmp_path: Path) -> None:
    """The model's first convolution says how many channels there are."""
    model = CONVNET | {"kwargs": {"num_classes": 2, "widths": [4], "in_channels": 1}}
    done = attempt(order(Workspace(tmp_path).create(), model, rows()), tmp_path)
    assert done.code == 0
    assert done.base["features.0.0.weight"].shape == torch.Size([4, 1, 3, 3])


def _levels(image: Image.Image, kind: str) -> tuple[int, float, float]:
    """Distinct grey values of a picture once it is pixels, and the smallest and largest."""
    out = io.BytesIO()
    image.save(out, kind)
    pixels = Pixels(channels=1)(decode(out.getvalue()))["pixel_values"]
    return len(pixels.unique()), float(pixels.min()), float(pixels.max())


@pytest.mark.parametrize("kind", ["PNG", "TIFF"])
def test_sixteen_bits_are_scaled(kind: str) -> None:
    """A ramp over all of 16 bits keeps 256 levels; PIL's own conversion would clip it to two."""
    ramp = np.linspace(0, 65535, 256).round().astype(np.uint16)[None].repeat(2, 0)
    assert _levels(Image.fromarray(ramp), kind) == (256, 0.0, 1.0)


def test_floats_are_scaled() -> None:
    """From 0 to 1, as float pictures are."""
    assert _levels(Image.fromarray(np.linspace(0, 1, 256, dtype=np.float32)[None]), "TIFF") == (256, 0.0, 1.0)


@pytest.mark.parametrize(
    "values",
    [np.linspace(0, 255, 4, dtype=np.float32), np.array([0, np.nan], np.float32), np.array([0, 70_000], np.int32)],
    ids=["floats to 255", "not a number", "more than 16 bits"],
)
def test_unknown_scale_is_refused_by_line(values: np.ndarray[Any, Any]) -> None:
    """What the values mean is not guessed."""
    out = io.BytesIO()
    Image.fromarray(values[None]).save(out, "TIFF")
    rows = [{"image": out.getvalue(), "label": 0}]
    with pytest.raises(DataError, match=r"line 7.*grey values are"):
        encode(rows, pixels=Pixels(), lines=[7], param="training_file")


def test_orientation_is_applied() -> None:
    """A camera's picture that lies on its side is turned upright, as every viewer does."""
    image = Image.new("RGB", (4, 2), "white")
    image.putpixel((0, 0), (0, 0, 0))
    exif = image.getexif()
    exif[0x0112] = 6  # turn by 90 degrees, clockwise
    out = io.BytesIO()
    image.save(out, "PNG", exif=exif)
    upright = decode(out.getvalue())
    assert upright.size == (2, 4)
    assert upright.getpixel((1, 0)) == (0, 0, 0)
