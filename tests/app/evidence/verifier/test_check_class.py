"""The class that loaders choose by `architectures`."""

import json
from pathlib import Path
from typing import Any

import pytest

from tests.tamper.loading import same_names_world

BASE, MODEL, HEAD = "FunnelBaseModel", "FunnelModel", "FunnelForSequenceClassification"
TEACHER = "DeiTForImageClassificationWithTeacher"


def problems(kind: str, before: Any, after: Any, root: Path) -> dict[str, str]:
    """What is wrong with a result that names other classes than its base."""
    world = same_names_world(root)
    (world.base / "config.json").write_text(json.dumps({"model_type": kind, "architectures": before}))
    (world.result / "config.json").write_text(
        json.dumps({"model_type": kind, "dtype": "float32", "architectures": after})
    )
    world.sign()
    return {problem.check: problem.reason for problem in world.verify(3).problems}


@pytest.mark.parametrize(
    ("kind", "before", "after"),
    [
        ("funnel", [MODEL], [HEAD]),
        ("funnel", [BASE], [HEAD]),
        ("funnel", [BASE], [BASE]),
        ("funnel", None, None),
        ("deit", [TEACHER], [TEACHER]),
        ("deit", ["DeiTModel"], ["DeiTForImageClassification"]),
        ("bert", ["BertModel"], ["BertForSequenceClassification"]),
        ("bert", ["ElectraModel"], ["ElectraModel"]),
        ("bert", None, ["OurOwnBert"]),
        ("bert", "BertModel", [7]),
    ],
)
def test_a_new_head_and_the_base_s_own_class_are_accepted(kind: str, before: Any, after: Any, tmp_path: Path) -> None:
    """Also a class that transformers does not have, and what is no list of names."""
    assert problems(kind, before, after, tmp_path) == {}


@pytest.mark.parametrize(
    ("kind", "before", "after", "check", "words"),
    [
        ("funnel", [MODEL], [BASE], "same_class", "name FunnelModel"),
        ("funnel", None, [HEAD, BASE], "same_class", "name FunnelModel"),
        ("deit", [TEACHER], [], "same_class", f"name {TEACHER}"),
        ("deit", [], [TEACHER], "same_class", "name DeiTForImageClassification"),
        ("bert", ["BertModel"], ["BertModel", "ElectraModel"], "own_class", "no class of model_type 'bert'"),
    ],
)
def test_another_class_is_refused_by_name(
    kind: str, before: Any, after: Any, check: str, words: str, tmp_path: Path
) -> None:
    """With what to write there."""
    found = problems(kind, before, after, tmp_path)
    assert found.keys() == {check}
    assert words in found[check]


def test_what_is_not_known_of_a_kind_is_pointed_out(tmp_path: Path) -> None:
    """A key of one configuration alone may be what a class takes by default; the reader is told which it is."""
    world = same_names_world(tmp_path)
    (world.base / "config.json").write_text('{"model_type": "of-next-year", "blocks": 2, "num_labels": 3}')
    content = {"model_type": "of-next-year", "dtype": "float32", "blocks": 2, "num_labels": 2, "gated": False}
    (world.result / "config.json").write_text(json.dumps(content))
    world.sign()
    report = world.verify(3)
    assert report.verified
    (note,) = (each for each in report.warnings if "not known to this verifier" in each)
    assert note.endswith("alone: gated")
    (note,) = (each for each in world.verify(1).warnings if "not known to this verifier" in each)
    assert "alone" not in note
