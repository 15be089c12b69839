"""A conversation through a model's processor: its tokens, which of them are learned, and its pictures."""

import io
from pathlib import Path

import pytest
from PIL import Image

from tests.worker.trainer import vision_language
from worker.trainer.data.batch import IGNORED
from worker.trainer.data.picture_processor import PictureProcessor
from worker.trainer.models import pretrained, processors

ACCEPTED = ("pixel_values", "token_type_ids", "mm_token_type_ids", "image_grid_thw", "pixel_attention_mask")
NESTED = ("smolvlm", "idefics3")


def made(name: str, folder: Path) -> PictureProcessor:
    vision_language.save(name, folder)
    tokenizer = pretrained.tokenizer(folder)
    found = processors.load(folder, tokenizer, kind=name, options=pretrained.SAFE)
    return PictureProcessor(found, accepted=ACCEPTED)


@pytest.mark.parametrize("name", ["llava", "qwen3_vl", "gemma3", "idefics3"])
def test_learned_tokens_are_those_of_the_spans(name: str, tmp_path: Path) -> None:
    """However many tokens a picture becomes before or between them."""
    processor = made(name, tmp_path)
    mark = vision_language.FAMILIES[name].picture
    text = f"user : {mark} the cat {mark} sat </s> assistant : it was red </s> user : it assistant : very good </s>"
    spans = [(text.index(answer), text.index(answer) + len(answer)) for answer in ("it was red </s>", "very good </s>")]
    pictures = [Image.open(io.BytesIO(vision_language.picture(seed))) for seed in (1, 2)]

    found = processor.chat(text, spans, pictures)
    tokenizer = pretrained.tokenizer(tmp_path)
    learned = found.example.targets[found.example.targets != IGNORED]
    assert tokenizer.convert_ids_to_tokens(learned.tolist()) == ["it", "was", "red", "</s>", "very", "good", "</s>"]
    assert "pixel_values" in found.pictures
    assert all(len(each) == len(found.example.tokens.ids) for each in found.kinds.values())
    assert processor.is_nested(pictures[0]) == (name in NESTED)


def test_a_question_and_its_answer(tmp_path: Path) -> None:
    """PaliGemma attends to its question in both directions, so its own form says which tokens are the answer."""
    processor = made("paligemma", tmp_path)
    picture = Image.open(io.BytesIO(vision_language.picture(1)))
    found = processor.pair("<image> the cat", "it was red", [picture])
    tokens = pretrained.tokenizer(tmp_path).convert_ids_to_tokens(
        found.example.targets[found.example.targets != IGNORED].tolist()
    )
    assert processor.of_pairs
    assert tokens == ["it", "was", "red", "</s>"]
    assert set(found.kinds["token_type_ids"].tolist()) == {0, 1}
