"""Processors of vision-language models: built without torchvision, or refused with what to install."""

import json
from pathlib import Path
from typing import Any

import pytest

from app.errors import ModelError
from tests.worker.trainer import vision_language
from worker.trainer.models import pretrained, processors


def loaded(folder: Path, kind: str) -> Any:
    return processors.load(folder, pretrained.tokenizer(folder), kind=kind, options=pretrained.SAFE)


@pytest.mark.parametrize("kind", list(vision_language.FAMILIES))
def test_every_family_is_loaded(kind: str, tmp_path: Path) -> None:
    """Videos, for which transformers needs torchvision, are left out; pictures are resized through PIL."""
    found = loaded(vision_language.save(kind, tmp_path), kind)
    assert type(found.image_processor).__name__.endswith("Pil")
    assert type(found).__name__ == json.loads((tmp_path / "processor_config.json").read_text())["processor_class"]


def test_a_folder_without_a_processor(tmp_path: Path) -> None:
    """Named by its files."""
    vision_language.save("llava", tmp_path)
    (tmp_path / "processor_config.json").unlink()
    (tmp_path / "preprocessor_config.json").unlink()
    with pytest.raises(ModelError, match=r"no processor for pictures \(processor_config\.json or") as caught:
        loaded(tmp_path, "llava")
    assert caught.value.code == "no_processor"


@pytest.mark.parametrize(("kind", "name"), [("mistral3", "PixtralProcessor"), ("llama4", "Llama4Processor")])
def test_what_needs_torchvision_is_named(kind: str, name: str, tmp_path: Path) -> None:
    """Whether the processor's module imports it, or its pictures are resized by it alone."""
    vision_language.save("llava", tmp_path)
    (tmp_path / "processor_config.json").write_text(json.dumps({"processor_class": name}))
    image = {"image_processor_type": "Llama4ImageProcessor"} if kind == "llama4" else {}
    path = tmp_path / "preprocessor_config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | image))
    with pytest.raises(ModelError, match=f"processor of {kind} models needs torchvision.*install it") as caught:
        loaded(tmp_path, kind)
    assert caught.value.code == "missing_package"


def test_a_processor_of_somebody_else(tmp_path: Path) -> None:
    """A class that transformers does not have is not looked for elsewhere."""
    vision_language.save("llava", tmp_path)
    (tmp_path / "processor_config.json").write_text(json.dumps({"processor_class": "OwnProcessor"}))
    with pytest.raises(ModelError, match="transformers has no processor 'OwnProcessor'"):
        loaded(tmp_path, "llava")
