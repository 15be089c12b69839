"""An adapter holds its own tensors, and copies of modules in which nothing was proved frozen."""

import json
from pathlib import Path

import pytest

from app.evidence.format.statement import base_readings, total
from tests.tamper.kit import adapter_rows, adapter_world, tensor
from tests.tamper.loading import overlaid


def test_a_copy_names_the_frozen_tensor_and_what_to_remove(tmp_path: Path) -> None:
    world = adapter_world(tmp_path)
    overlaid(
        world, "base_model.model.enc.1.w", "base_model.model.enc.1.modules_to_save.default.w", modules_to_save=["enc.1"]
    )
    (problem,) = world.verify(3).problems
    assert (problem.check, problem.subject) == ("beside_frozen", "enc.1.w")
    assert "modules_to_save" in problem.reason


@pytest.mark.parametrize("dropped", [False, True], ids=["no head in the base", "a dropped head"])
def test_a_new_head_is_a_copy_that_takes_no_frozen_place(dropped: bool, tmp_path: Path) -> None:
    """Also where the base has a head, of which nothing is claimed."""
    world = adapter_world(tmp_path)
    if dropped:
        world.base_weights["model.safetensors"]["head.w"] = tensor("F32", 2, 8, seed="head")
    name = "base_model.model.head.w"
    world.result_weights["adapter_model.safetensors"][name] = tensor("F32", 8, 8, seed="new")
    config = {"peft_type": "LORA", "r": 2, "bias": "none", "init_lora_weights": True, "modules_to_save": ["head"]}
    world.result_files["adapter_config.json"] = json.dumps(config).encode()
    world.policy = {"train": ["**.default.**"]}
    world.write()

    rows = []
    for row in adapter_rows(world):
        if row.result and row.result.name == name:
            rows.append(row._replace(name="base_model.model.head.modules_to_save.default.w"))
        elif row.base and row.base.name == "head.w":
            rows.append(row._replace(name="head.w", role="dropped", mechanism=None))
        else:
            rows.append(row)
    world.pinned = total(base_readings(rows)).root
    world.sign(world.predicate(rows=tuple(rows), result_kind="adapter"))
    assert world.verify(3).problems == ()
