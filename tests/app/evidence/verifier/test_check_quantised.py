"""A result with quantised weights is accepted as it was trained; the tamper suite has what is not."""

import json
from pathlib import Path

import pytest

from tests.tamper.kit import adapter_world
from tests.tamper.quantised import (
    SAID,
    WEIGHTS,
    configuration,
    decoded_rows,
    decoded_world,
    quantised_rows,
    quantised_world,
    sign_decoded,
    world_of,
)


@pytest.mark.parametrize("level", [1, 2, 3])
def test_an_honest_result_is_accepted(tmp_path: Path, level: int) -> None:
    """At every level, with scales in another dtype than the model's weights."""
    world = quantised_world(tmp_path)
    world.sign()
    report = world.verify(level)
    assert report.problems == ()


def test_a_new_head_is_one_more_module_that_stays_plain(tmp_path: Path) -> None:
    """The list of such modules may differ from the base's."""
    world = quantised_world(tmp_path)
    (world.base / "config.json").write_bytes(configuration(llm_int8_skip_modules=None))
    world.sign()
    assert world.verify(3).problems == ()


def test_the_reason_names_tensor_and_rule(tmp_path: Path) -> None:
    world = quantised_world(tmp_path)
    world.result_files["config.json"] = configuration(llm_int8_skip_modules=["up"])
    world.write()
    world.sign()
    (problem,) = world.verify(2).problems
    assert (problem.check, problem.subject) == ("quantised", "up.weight")
    assert "llm_int8_skip_modules leaves it out" in problem.reason


def test_a_base_that_was_quantised_for_training_is_accepted_with_a_note(tmp_path: Path) -> None:
    """Below an adapter: the plain base is proved, and what was computed with is the signer's word."""
    world = adapter_world(tmp_path)
    quantised_rows(world)
    report = world.verify(2)
    assert report.problems == ()
    assert any("quantised for training" in note and "enc.1.w" in note for note in report.warnings)


@pytest.mark.parametrize("level", [1, 2, 3])
@pytest.mark.parametrize("codes", ["enc.2.weight", "enc.2.down_proj_blocks"])
def test_codes_that_were_decoded_for_training_are_accepted_with_a_note(tmp_path: Path, level: int, codes: str) -> None:
    """Codes and scales are proved as they are stored, and what they became is the signer's word."""
    world = decoded_world(tmp_path)
    decoded_rows(world, codes=codes)
    report = world.verify(level)
    assert report.problems == ()
    note = next(note for note in report.warnings if "decoded for training" in note)
    assert codes.removesuffix("_blocks") in note


@pytest.mark.parametrize("level", [1, 2, 3])
@pytest.mark.parametrize("form", WEIGHTS)
def test_codes_of_other_forms_that_were_decoded_are_accepted(tmp_path: Path, level: int, form: str) -> None:
    """Under the name of the weight that they were decoded to."""
    world = world_of(form, tmp_path)
    sign_decoded(world, form)
    report = world.verify(level)
    assert report.problems == ()
    assert any("decoded for training" in note and "enc.2.weight" in note for note in report.warnings)


@pytest.mark.parametrize("form", SAID)
def test_what_the_base_lists_as_plain_is_another_module(tmp_path: Path, form: str) -> None:
    """With the base at hand, whose configuration says how codes are decoded."""
    world = world_of(form, tmp_path)
    said, key = SAID[form]
    config = {"model_type": "toy", "quantization_config": said | {key: ["enc.1", "head"]}}
    (world.base / "config.json").write_text(json.dumps(config))
    sign_decoded(world, form)
    assert world.verify(3).problems == ()
