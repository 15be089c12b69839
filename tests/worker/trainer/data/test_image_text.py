"""Vision-language models from their folder to a proved result, in every family, and what is wrong with a line."""

from __future__ import annotations

import base64
import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from peft import PeftModel
from safetensors.torch import load_file
from transformers import AutoModelForImageTextToText

from app.specs.models import TransformersSpec
from tests.worker.trainer.attempts import Attempt, attempt, data, work_order
from tests.worker.trainer.judging import judge, proved
from tests.worker.trainer.vision_language import FAMILIES, chats, picture, said, save, shown, url
from worker.protocol import WorkOrder, Workspace
from worker.trainer.data import reading
from worker.trainer.models import loading
from worker.trainer.training import tasks

STAGE_1, STAGE_2 = {"preset": "llava-stage-1"}, {"preset": "llava-stage-2"}
LORA = {"type": "lora", "r": 2}
#: Two families are looked at in every run of the tests: one whose pictures are rows, one whose pictures are patches.
QUICK = ("llava", "qwen3_vl")
EVERY = [pytest.param(name, marks=() if name in QUICK else pytest.mark.slow) for name in FAMILIES]
FIRST = [pytest.param(name, marks=() if name == "llava" else pytest.mark.slow) for name in FAMILIES]


def trained(
    name: str,
    folder: Path,
    policy: dict[str, Any],
    *,
    base: Path | None = None,
    rows: list[dict[str, Any]] | None = None,
    adapter: dict[str, Any] | None = None,
    **hyperparameters: Any,
) -> Attempt:
    """A job of two batches, over the family's own base or `base`."""
    place = Workspace(folder).create()
    if base is None:
        save(name, place.base)
    else:
        shutil.copytree(base, place.base, dirs_exist_ok=True)
    order = work_order(
        job_id="ftjob-test",
        stage="train",
        model={"type": "transformers", "path": "tiny"} | ({"adapter": adapter} if adapter else {}),
        task="image-text",
        data=data(place, rows if rows is not None else chats(8)),
        hyperparameters={"n_epochs": 1, "batch_size": 4, "learning_rate": 0.01} | hyperparameters,
        device="cpu",
        policy=policy,
    )
    return attempt(order, place.root)


def logits(model: Any, done: Attempt) -> torch.Tensor:
    """Of one picture and one text, through the folder's own processor."""
    inputs = inputs_of(done)
    model.eval()
    with torch.no_grad():
        found: torch.Tensor = model(**inputs).logits
    return found


def inputs_of(done: Attempt) -> dict[str, torch.Tensor]:
    """The first two of the job's own examples as the trainer encodes them."""
    spec = TransformersSpec(path="tiny")
    loaded = loading.load(spec, done.place.base, task="image-text", labels=None, seed=0)
    splits = reading.read(done.place.root, WorkOrder.load(done.place.root).data, task="image-text")
    return tasks.encode("image-text", splits, loaded, asked_length=None).training.batch(np.arange(2)).inputs


@pytest.mark.parametrize("name", EVERY)
def test_llava_in_two_stages(name: str, tmp_path: Path) -> None:
    """The projector alone learns, then the language model with it; each is proved over the one before, and loads."""
    first = trained(name, tmp_path / "first", STAGE_1)
    result = proved(first, tmp_path / "aligned")
    roles = {each["name"]: each for each in first.observed.values()}
    moved = {row for row, each in roles.items() if each["loaded"] != each["trained"]}
    assert moved and all(any(part in row for part in ("projector", "connector", "merger")) for row in moved)

    second = trained(name, tmp_path / "second", STAGE_2, base=result)
    folder = proved(second, tmp_path / "tuned")
    model, info = AutoModelForImageTextToText.from_pretrained(folder, output_loading_info=True)
    assert not info["missing_keys"] and not info["unexpected_keys"]
    with_changes = AutoModelForImageTextToText.from_pretrained(result)
    live = with_changes.state_dict()
    stored = second.composed()
    with torch.no_grad():
        for live_name, row in second.observed.items():
            for piece in row["result"] or ():
                live[live_name].copy_(stored[piece["name"]])
    assert torch.equal(logits(model, second), logits(with_changes, second))


@pytest.mark.parametrize("name", FIRST)
def test_a_resumed_run_ends_with_the_same_bits(name: str, tmp_path: Path) -> None:
    """With the tower's results kept or not."""
    rows = chats(6) + [{"messages": [{"role": "user", "content": "the cat"}, chats(1)[0]["messages"][1]]}] * 2
    rows = rows if name != "paligemma" else chats(8)
    whole = trained(name, tmp_path / "whole", STAGE_2, rows=rows, checkpoint_steps=1, keep_checkpoints=9)
    place = Workspace(tmp_path / "again").create()
    first = min(whole.place.checkpoints.iterdir())
    shutil.copytree(first, place.checkpoints / first.name)
    again = trained(name, place.root, STAGE_2, rows=rows, checkpoint_steps=1, keep_checkpoints=9)
    assert any(each["message"].startswith("goes on after step 1") for each in again.of("event")), again.of("event")
    assert {row: each["trained"] for row, each in again.observed.items()} == {
        row: each["trained"] for row, each in whole.observed.items()
    }


@pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing`:FutureWarning")  # peft reads it
@pytest.mark.parametrize("name", FIRST)
def test_lora_on_the_language_model(name: str, tmp_path: Path) -> None:
    """The tower gets no adapter, all of the base is proved, and peft loads the result over it to the same weights."""
    done = trained(name, tmp_path / "job", {"preset": "lora-language-model"}, adapter=LORA)
    folder = proved(done, tmp_path / "adapter")
    assert not any(part in row for row in done.changed for part in ("vision", "visual", "projector", "connector"))
    base = AutoModelForImageTextToText.from_pretrained(done.place.base)
    model = PeftModel.from_pretrained(base, folder)
    loaded = model.state_dict()
    for stored, tensor in load_file(folder / "adapter_model.safetensors").items():
        assert torch.equal(loaded[stored.replace(".weight", ".default.weight")], tensor), stored
    assert logits(model, done).shape[0] == 2


@pytest.mark.parametrize("name", FIRST[:2])
def test_several_pictures_in_a_turn_and_none(name: str, tmp_path: Path) -> None:
    """In one batch; a conversation of texts alone has the tower take no part."""
    texts = [{"messages": [{"role": "user", "content": "the cat"}, {"role": "assistant", "content": "a dog"}]}] * 2
    done = trained(name, tmp_path / "both", {"preset": "vision_tower"}, rows=chats(4, pictures=2) + texts)
    assert done.code == 0 and judge(done).verdict == "verified"
    alone = trained(name, tmp_path / "texts", {"preset": "vision_tower"}, rows=texts * 4)
    assert alone.code == 0 and judge(alone).verdict == "verified"
    assert any("no example shows a picture" in each["message"] for each in alone.of("event"))


def test_the_tower_is_a_frozen_prefix(tmp_path: Path) -> None:
    """Where each example shows one picture, what the tower gives is computed once, and the weights end the same."""
    kept = trained("llava", tmp_path / "kept", STAGE_1, prefix_cache=True, n_epochs=2)
    assert any("model.vision_tower" in each["message"] for each in kept.of("event"))
    computed = trained("llava", tmp_path / "computed", STAGE_1, prefix_cache=False, n_epochs=2)
    for name, tensor in computed.changed.items():
        torch.testing.assert_close(kept.changed[name], tensor, rtol=1e-4, atol=1e-6)


@pytest.mark.slow
def test_several_pictures_are_no_rows(tmp_path: Path) -> None:
    """Then no result of the tower is kept: which picture is of which example is not in a row's number."""
    pairs = trained("llava", tmp_path / "pairs", STAGE_1, prefix_cache="auto", n_epochs=2, rows=chats(8, pictures=2))
    assert any("prefix is computed anew" in each["message"] for each in pairs.of("event"))


def one(*parts: dict[str, Any], answer: str = "a cat") -> dict[str, Any]:
    return {"messages": [{"role": "user", "content": list(parts)}, {"role": "assistant", "content": answer}]}


DAMAGED = picture(1)[:100] + bytes(80)
WRONG: dict[str, tuple[dict[str, Any], dict[str, Any], str, str]] = {
    "damaged": (one(said("a"), shown(picture(1)), shown(DAMAGED)), {}, "messages[0].content[2]", "corrupt_image"),
    "too many tokens": (
        one(shown(picture(1)), shown(picture(2)), said("it")),
        {"max_length": 24},
        "messages",
        "too_many_picture_tokens",
    ),
    "an address": (
        one({"type": "image_url", "image_url": {"url": "https://example.com/a.png"}}),
        {},
        "messages[0].content[0].image_url.url",
        "not_a_data_uri",
    ),
    "another type": (
        one({"type": "image_url", "image_url": {"url": url(picture(1), "image/jpeg")}}),
        {},
        "messages[0].content[0].image_url.url",
        "wrong_mime",
    ),
    "no picture": (one({"type": "image"}), {}, "messages[0].content[0]", "missing_picture"),
    "the mark in a text": (one(shown(picture(1)), said("<image> it")), {}, "messages", "processor_refused"),
    "an answer behind the end": (one(shown(picture(1)), said("it")), {"max_length": 20}, "", "nothing_to_learn"),
}


@pytest.mark.parametrize("wrong", WRONG)
def test_what_is_wrong_with_a_line(wrong: str, tmp_path: Path) -> None:
    """By its line and part, before the first step."""
    row, hyperparameters, field, code = WRONG[wrong]
    done = trained("llava", tmp_path, STAGE_1, rows=[row, *chats(3)], **hyperparameters)
    assert done.code == 1
    problem = done.failure["errors"][0]
    assert (problem["line"], problem["field"] or "", problem["code"]) == (1, field, code), problem
    assert not done.of("step")


def test_a_huge_picture_is_not_unpacked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Neither one by itself, nor many of an example together."""
    monkeypatch.setattr("worker.trainer.data.images.MAX_PIXELS", 300)
    done = trained("llava", tmp_path / "one", STAGE_1, rows=[one(shown(picture(1, width=20)), said("a"))] * 2)
    assert done.failure["errors"][0]["code"] == "corrupt_image"
    assert "more than 300" in done.failure["message"]
    monkeypatch.setattr("worker.trainer.data.image_text.MAX_EXAMPLE_PIXELS", 400)
    done = trained("llava", tmp_path / "two", STAGE_1, rows=chats(2, pictures=2))
    assert done.failure["errors"][0]["code"] == "too_many_pixels"
    assert done.failure["errors"][0]["field"] == "messages[0].content[1]"


def test_a_template_that_shows_no_pictures(tmp_path: Path) -> None:
    """Nothing right can be learned from a picture that the model does not see."""
    place = Workspace(tmp_path).create()
    save("llava", place.base)
    (place.base / "chat_template.jinja").write_text(
        "{% for m in messages %}{{ m.role }}: "
        "{{ m.content if m.content is string else m.content[-1].text }}{% endfor %}"
    )
    done = trained("llava", tmp_path, STAGE_1, base=shutil.copytree(place.base, tmp_path / "kept"))
    assert done.failure["errors"][0]["code"] == "left_out_by_template"
    assert "does not show pictures" in done.failure["message"]


def test_a_processor_of_another_family(tmp_path: Path) -> None:
    """Its marks are no tokens of the model's."""
    place = Workspace(tmp_path / "llava").create()
    save("llava", place.base)
    config = json.loads((place.base / "config.json").read_text())
    (place.base / "config.json").write_text(json.dumps(config | {"image_token_index": 40}))
    done = trained("llava", tmp_path / "job", STAGE_1, base=place.base)
    assert done.code == 1
    assert done.failure["errors"][0]["code"] == "processor_does_not_fit"


def test_a_model_without_a_template(tmp_path: Path) -> None:
    """Messages are written plainly, with the processor's own mark for a picture."""
    place = Workspace(tmp_path / "llava").create()
    save("llava", place.base)
    (place.base / "chat_template.jinja").unlink()
    done = trained("llava", tmp_path / "job", STAGE_1, base=place.base)
    assert done.code == 0, done.failure
    assert any("no chat template" in each["message"] for each in done.of("event"))


def test_one_question_for_paligemma(tmp_path: Path) -> None:
    """It was not trained on chats, so longer ones are refused by line."""
    turns = chats(1)[0]["messages"]
    done = trained("paligemma", tmp_path, STAGE_1, rows=[{"messages": [*turns, *turns]}, *chats(3)])
    assert done.failure["errors"][0]["code"] == "unsupported_conversation"


def test_pictures_of_other_forms(tmp_path: Path) -> None:
    """As transformers' templates have them, and apart from the messages."""
    text = base64.b64encode(picture(3)).decode()
    apart = one({"type": "image"}, said("it")) | {"images": [text]}
    done = trained("llava", tmp_path, STAGE_1, rows=[one({"type": "image", "image": text}, said("it")), apart] * 2)
    assert done.code == 0, done.failure
