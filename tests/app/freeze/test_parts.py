"""Parts of vision-language models by the names of their families, and what they become in a policy."""

import pytest

from app.errors import PolicyError
from app.freeze.parts import bound, matched, part_of
from app.freeze.plan import resolve
from app.freeze.policy import Policy
from app.freeze.tensors import TensorInfo


def tensors(*names: str) -> list[TensorInfo]:
    return [TensorInfo(name, (2, 3), "F32") for name in names]


LLAVA = tensors(
    "model.vision_tower.encoder.layers.0.weight",
    "model.multi_modal_projector.linear_1.weight",
    "model.language_model.layers.0.weight",
    "lm_head.weight",
)
QWEN = tensors(
    "model.visual.blocks.0.weight",
    "model.visual.pos_embed",
    "model.visual.merger.mlp.0.weight",
    "model.visual.deepstack_merger_list.0.norm.weight",
    "model.language_model.layers.0.weight",
    "lm_head.weight",
)


CLIP = tensors(
    "vision_model.encoder.weight",
    "visual_projection.weight",
    "text_model.encoder.weight",
    "text_projection.weight",
    "logit_scale",
)


@pytest.mark.parametrize(
    ("name", "part"),
    [
        ("model.vision_tower.vision_model.embeddings.weight", "vision_tower"),
        ("model.visual.merger.ln_q.weight", "projector"),
        ("base_model.model.model.language_model.layers.0.q_proj.lora_A.default.weight", "language_model"),
        ("model.connector.modality_projection.proj.weight", "projector"),
        ("model.text_model.layers.0.weight", "language_model"),
        ("lm_head.weight", "language_model"),
        ("bert.encoder.layer.0.weight", None),
    ],
)
def test_part_of_a_name(name: str, part: str | None) -> None:
    """Families agree on few names; a merger within a tower is the projector."""
    assert part_of(name) == part


def test_a_statement_names_what_a_part_was() -> None:
    """The plan's policy has globs, which any verifier resolves to the same plan."""
    plan = resolve(Policy.from_json({"preset": "vision_tower"}), QWEN)
    [rule] = plan.policy.rules
    assert (rule.select.part, rule.select.name) == ((), ("model.visual.blocks.**", "model.visual.pos_embed"))
    again = resolve(Policy.from_json(plan.policy.to_json()), QWEN)
    assert again.decisions == plan.decisions
    assert {each.name for each in plan.frozen} == {"model.visual.blocks.0.weight", "model.visual.pos_embed"}


def test_what_each_part_matched() -> None:
    """For the preview, with sizes."""
    policy = Policy.from_json({"preset": "llava-stage-2"})
    found = [each.to_json() for each in matched(policy, QWEN)]
    assert [(each["part"], each["tensors"]) for each in found] == [("projector", 2), ("language_model", 2)]
    assert found[1]["matched"] == ["lm_head.**", "model.language_model.**"]


def test_a_part_that_the_model_lacks() -> None:
    """Refused with the model's top modules, and where the request has it."""
    bert = tensors("bert.embeddings.weight", "bert.encoder.layer.0.weight", "classifier.weight")
    with pytest.raises(PolicyError, match=r"no projector by any name.*top modules are bert\.embeddings") as caught:
        resolve(Policy.from_json({"preset": "llava-stage-1"}), bert)
    assert caught.value.param == "freeze_policy.preset"


def test_a_model_that_compares_has_towers_alone() -> None:
    """It writes no text, and nothing brings pictures to its text."""
    for preset in ("projector", "language_model"):
        with pytest.raises(PolicyError, match=f"no {preset} by any name"):
            resolve(Policy.from_json({"preset": preset}), CLIP)
    with pytest.raises(PolicyError, match=r"no text_tower by any name that is known \(text_model"):
        resolve(Policy.from_json({"preset": "text_tower"}), LLAVA)


def test_parts_go_with_other_selectors() -> None:
    """All selectors of a rule must match; a part takes the place of names."""
    policy = Policy.from_json(
        {"rules": [{"action": "freeze", "select": {"part": "vision_tower", "regex": ".*layers.*"}}]}
    )
    assert [each.name for each in resolve(policy, LLAVA).frozen] == [LLAVA[0].name]
    with pytest.raises(PolicyError, match="stands for names"):
        Policy.from_json({"rules": [{"action": "freeze", "select": {"part": "projector", "name": "a"}}]})
    with pytest.raises(PolicyError, match="must be one of"):
        Policy.from_json({"rules": [{"action": "freeze", "select": {"part": "tower"}}]})


def test_policies_without_parts_are_left_alone() -> None:
    """The same object, for every model."""
    policy = Policy.from_json({"freeze": ["lm_head.**"]})
    assert bound(policy, LLAVA) is policy
