"""Policies by name: what each freezes, and that a name is all of a policy."""

from typing import Any, get_args

import pytest

from app.errors import PolicyError
from app.freeze.plan import resolve
from app.freeze.policy import Policy
from app.freeze.presets import PRESETS
from app.freeze.schemas import Preset
from tests.app.freeze.test_parts import CLIP, LLAVA, tensors

TOWER, PROJECTOR, LANGUAGE, HEAD = (each.name for each in LLAVA)


@pytest.mark.parametrize(
    ("preset", "trained"),
    [
        ("vision_tower", {PROJECTOR, LANGUAGE, HEAD}),
        ("projector", {TOWER, LANGUAGE, HEAD}),
        ("language_model", {TOWER, PROJECTOR}),
        ("llava-stage-1", {PROJECTOR}),
        ("llava-stage-2", {PROJECTOR, LANGUAGE, HEAD}),
    ],
)
def test_what_trains(preset: str, trained: set[str]) -> None:
    """By the parts of a LLaVA."""
    plan = resolve(Policy.from_json({"preset": preset}), LLAVA)
    assert {each.name for each in plan.trainable} == trained


@pytest.mark.parametrize(
    ("preset", "frozen"),
    [
        ("vision_tower", {"vision_model.encoder.weight", "visual_projection.weight"}),
        ("text_tower", {"text_model.encoder.weight", "text_projection.weight"}),
    ],
)
def test_a_tower_of_two(preset: str, frozen: set[str]) -> None:
    """With its projection, so that all that it makes of an input is fixed; the scale of similarities trains."""
    plan = resolve(Policy.from_json({"preset": preset}), CLIP)
    assert {each.name for each in plan.frozen} == frozen
    assert "logit_scale" in {each.name for each in plan.trainable}


def test_an_adapter_beside_the_language_model() -> None:
    """Its matrices train; others of an adapter in the tower stay as they are, and so does the base."""
    lora = "base_model.model.model.{}.layers.0.q_proj.lora_A.default.weight"
    names = (lora.format("language_model"), lora.format("vision_tower"), f"base_model.model.{LANGUAGE}")
    plan = resolve(Policy.from_json({"preset": "lora-language-model"}), tensors(*names))
    assert {each.name for each in plan.trainable} == {names[0]}
    with pytest.raises(PolicyError, match="lora_"):
        resolve(Policy.from_json({"preset": "lora-language-model"}), LLAVA)


def test_a_preset_is_all_of_the_rules() -> None:
    """Mechanism, buffers and the like go with it; rules do not."""
    assert Policy.from_json({"preset": "projector", "mechanism": "detach"}).rules[0].mechanism == "detach"
    others: list[dict[str, Any]] = [{"rules": []}, {"freeze": ["a"]}, {"default": "train"}]
    for more in others:
        with pytest.raises(PolicyError, match="cannot be given together"):
            Policy.from_json({"preset": "projector", **more})
    with pytest.raises(PolicyError, match="llava-stage-1"):
        Policy.from_json({"preset": "llava"})


def test_the_schema_has_every_preset() -> None:
    """The published enumeration is that of the table."""
    assert set(get_args(Preset)) == set(PRESETS)
